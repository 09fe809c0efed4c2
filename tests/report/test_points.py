"""Runs gathered into points and grids: what may differ, and what is chosen on validation."""

import statistics

import pytest

from dpexp.report.claims.norms import match
from dpexp.report.figures.select import accurate_norms
from dpexp.report.gather import grids_of, points_of
from dpexp.report.groups import best_of, same_but_for, selected_by


def grid_of(runs):
    (grid,) = grids_of(points_of(runs))
    return grid


def test_a_point_is_one_setting_over_seeds(make_run):
    runs = [make_run(keys={"seed": seed}, test_ece=0.1 * seed) for seed in (2, 0, 1)]
    runs.append(make_run(keys={"optimizer.lr": 0.5}, test_ece=0.9))
    points = points_of(runs)
    assert [(point.lr, point.seeds) for point in points] == [(0.5, (0,)), (1.0, (0, 1, 2))]
    values = [0.0, 0.1, 0.2]
    assert points[1].values("test/ece") == pytest.approx(dict(enumerate(values)))
    assert points[1].mean("test/ece") == pytest.approx(statistics.mean(values))
    assert points[1].sd("test/ece") == pytest.approx(statistics.stdev(values))
    assert points[0].sd("test/ece") is None


def test_a_mean_over_some_of_the_seeds_is_none(make_run):
    runs = [make_run(keys={"seed": 0}, test_ece=0.1), make_run(keys={"seed": 1}, test_ece=None)]
    (point,) = points_of(runs)
    assert point.values("test/ece") == {0: 0.1}
    assert point.mean("test/ece") is None
    assert point.sd("test/ece") is None


@pytest.mark.parametrize(
    ("key", "value"), [("clipping.style", "layerwise"), ("batch", 250), ("sampling", "shuffled"),
                       ("clipping.tail_norm", 10.0), ("dataset.validation", 0.0)]
)  # fmt: skip
def test_another_key_is_another_grid(make_run, key, value):
    assert len(grids_of(points_of([make_run(), make_run(keys={key: value})]))) == 2


@pytest.mark.parametrize(
    ("key", "value"), [("seed", 3), ("output", "x"), ("micro_batch", 8), ("device", "cuda"),
                       ("wandb.mode", "disabled"), ("dataset.root", "elsewhere")]
)  # fmt: skip
def test_what_changes_nothing_is_the_same_point(make_run, key, value):
    assert len(points_of([make_run(), make_run(keys={key: value})])) == 1


def test_another_experiment_or_sigma_is_another_grid(make_run):
    runs = [make_run(), make_run(experiment="convergence/other")]
    runs.append(make_run(sigma=0.54, keys={"eps": 8.0}))
    assert len(grids_of(points_of(runs))) == 3


def test_a_sigma_in_few_digits_is_that_of_the_target(make_run):
    final = make_run(sigma=0.83049, keys={"clipping.norm": 1.0})
    search = make_run(
        sigma=0.8305, steps=450, keys={"eps": None, "noise_multiplier": 0.8305, "epochs": 2.5}
    )
    grid = grid_of([final, search])
    assert (len(grid.final), len(grid.search), grid.eps) == (1, 1, 2.0)


def searched(make_run, norm, lr, accuracy):
    keys = {"clipping.norm": norm, "optimizer.lr": lr, "epochs": 2.5}
    return make_run(steps=450, keys=keys, val_accuracy=accuracy, test_accuracy=1 - accuracy)


def test_lr_is_chosen_on_validation_for_each_norm(make_run):
    search = [searched(make_run, 0.1, 8, 0.3), searched(make_run, 0.1, 16, 0.4),
              searched(make_run, 0.1, 32, 0.3), searched(make_run, 10, 0.05, 0.1),
              searched(make_run, 10, 0.1, 0.2), searched(make_run, 10, 0.2, 0.1)]  # fmt: skip
    final = [
        make_run(keys={"clipping.norm": 0.1, "optimizer.lr": 16}, val_accuracy=0.5),
        make_run(keys={"clipping.norm": 10.0, "optimizer.lr": 0.2}, val_accuracy=0.5),
    ]
    grid = grid_of(search + final)
    assert grid.lr_chosen == {0.1: 16, 10.0: 0.1}
    assert grid.notes == ("R 10: the search on validation chooses lr 0.1, the final runs took 0.2",)


@pytest.mark.parametrize(("best", "which"), [(8, "smallest"), (32, "largest"), (16, None)])
def test_a_chosen_lr_at_the_edge_of_its_search_is_said(make_run, best, which):
    search = [searched(make_run, 0.1, lr, 0.3 + 0.1 * (lr == best)) for lr in (8, 16, 32)]
    final = make_run(keys={"clipping.norm": 0.1, "optimizer.lr": best}, val_accuracy=0.5)
    notes = grid_of([*search, final]).notes
    if which is None:
        assert notes == ()
    else:
        assert notes == (
            f"R 0.1: the chosen lr {best} is the {which} that was searched, and a better one may "
            f"lie beyond it",
        )


def test_no_validation_and_a_missing_seed_are_said(make_run):
    runs = [
        make_run(keys={"clipping.norm": 1.0, "optimizer.lr": lr, "seed": 0}) for lr in (0.5, 0.25)
    ]
    runs += [make_run(keys={"clipping.norm": 2.0, "seed": seed}) for seed in (0, 1)]
    grid = grid_of(runs)
    assert grid.chosen[1.0].lr == 0.25
    assert grid.notes == (
        "R 1: 2 learning rates and no validation part to choose on; the smallest that did not "
        "diverge stands for it",
        "not every seed of [0, 1] is there at R 1",
    )


def test_the_best_is_not_one_that_diverged(make_run):
    good = make_run(keys={"optimizer.lr": 0.1}, val_accuracy=0.3)
    diverged = make_run(keys={"optimizer.lr": 9.0}, val_accuracy=0.9, state="diverged")
    unmeasured = make_run(keys={"optimizer.lr": 0.2})
    points = points_of([good, diverged, unmeasured])
    assert best_of(points).lr == 0.1
    assert best_of([p for p in points if p.lr != 0.1]).lr == 0.2


def test_a_diverged_run_counts_as_guessing(make_run):
    run = make_run(state="diverged", test_accuracy=0.02, test_ece=None)
    assert run.measure("test/accuracy") == 0.1
    assert run.measure("test/ece") is None
    own = {"dataset.name": "imagefolder", "dataset.root": "photos"}
    assert make_run(state="diverged", test_accuracy=0.02, keys=own).measure("test/accuracy") == 0.02
    assert make_run(test_accuracy=0.02).measure("test/accuracy") == 0.02


def test_a_data_set_in_a_folder_has_the_name_of_it(make_run):
    keys = {"dataset.name": "parquet", "dataset.root": "data/mnist"}
    assert make_run(keys=keys).data == "mnist"
    assert make_run().data == "cifar10"


def test_twins_are_told_by_every_other_key(make_run):
    tail = make_run(keys={"clipping.tail_norm": 10.0}, experiment="convergence/tail")
    assert same_but_for(tail, ["clipping.tail_norm"]) == same_but_for(
        make_run(), ["clipping.tail_norm"]
    )
    assert same_but_for(tail, ["seed"]) != same_but_for(make_run(), ["seed"])


def test_regression_is_chosen_by_its_squared_error(make_run):
    keys = {"dataset.name": "diabetes", "model.name": "mlp"}
    runs = [make_run(keys=keys | {"optimizer.lr": lr}, val_mse=mse)
            for lr, mse in ((0.1, 9.0), (0.2, 3.0), (0.4, 8.0))]  # fmt: skip
    diverged = make_run(keys=keys | {"optimizer.lr": 0.8}, val_mse=1.0, state="diverged")
    grid = grid_of([*runs, diverged])
    assert grid.chosen[1.0].lr == 0.2
    assert selected_by(grid.chosen[1.0]) == -3.0
    assert grid.notes == ()


def test_figures_shade_the_clip_norms_that_the_answer_matches(make_grid):
    cells = {
        0.1: {"val_accuracy": 0.60, "test_accuracy": 0.60},
        1.0: {"val_accuracy": 0.59, "test_accuracy": 0.55},
        10.0: {"val_accuracy": 0.55, "test_accuracy": 0.60},
    }
    measured = {norm: cell | {"test_ece": 0.1} for norm, cell in cells.items()}
    grid = grid_of(make_grid(measured))
    assert accurate_norms(grid) == [p.clip_norm for p in match(grid).accurate] == [0.1, 1.0]
    for cell in measured.values():
        del cell["val_accuracy"]
    assert accurate_norms(grid_of(make_grid(measured))) == [0.1, 10.0]
