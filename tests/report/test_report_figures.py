"""Figures of a report: what they show and say is what tables and verdicts rest on."""

import pytest

from dpexp.report.claims.rows import parts_of
from dpexp.report.collect import Found
from dpexp.report.figures.frontier import frontier_pictures
from dpexp.report.figures.heat_maps import cells_of, draw_heat_maps, heat_map_pictures
from dpexp.report.figures.measures import measures_pictures
from dpexp.report.figures.select import grids_over_norms
from dpexp.report.figures.tail import tail_pictures
from dpexp.report.report import report_of

MEASURED = {"test_accuracy": 0.6, "test_ece": 0.1}
VALIDATED = {"val_accuracy": 0.6, "val_ece": 0.1}
OVER_NORMS = dict.fromkeys((0.1, 10.0), MEASURED | VALIDATED)
UNVALIDATED = dict.fromkeys((0.1, 10.0), MEASURED)


def report_on(runs):
    return report_of(
        Found(runs=tuple(runs), theory=None, theory_path=None, theory_figures=(), left_out=(),
              notes=(), files={}),
        "dpexp report",
    )  # fmt: skip


def over_lr(make_run, *, is_validated):
    """Return runs at two R and three lr, where the test set likes another lr than validation."""
    runs = []
    for norm in (0.1, 10.0):
        for lr, val, test in ((0.5, 0.3, 0.7), (1.0, 0.6, 0.5), (2.0, 0.4, 0.6)):
            measures = {"test_accuracy": test, "test_ece": 0.1}
            measures |= {"val_accuracy": val, "val_ece": 0.2} if is_validated else {}
            runs.append(make_run(keys={"clipping.norm": norm, "optimizer.lr": lr}, **measures))
    return runs


def legend_of(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_the_frame_of_a_heat_map_is_the_lr_that_tables_show(make_run):
    report = report_on(over_lr(make_run, is_validated=True))
    (grid,) = report.grids
    cells = cells_of(grid)
    assert cells.chosen == {norm: point.lr for norm, point in grid.chosen.items()}
    assert cells.chosen == {0.1: 1.0, 10.0: 1.0}
    (picture,) = heat_map_pictures(report)
    assert "measured on the validation part. Framed: the learning rate" in picture.caption
    assert legend_of(draw_heat_maps(cells, False)) == ["chosen for this R", "guessing or diverged"]


def test_without_a_validation_part_nothing_is_framed(make_run):
    report = report_on(over_lr(make_run, is_validated=False))
    cells = cells_of(report.grids[0])
    assert cells.chosen == {}
    (picture,) = heat_map_pictures(report)
    assert "measured on the test set. Hatched:" in picture.caption
    assert legend_of(draw_heat_maps(cells, False)) == ["guessing or diverged"]


def test_a_cell_with_a_diverged_run_says_so_and_shows_no_guess(make_run):
    runs = [make_run(keys={"seed": seed, "optimizer.lr": lr, "clipping.norm": norm},
                     test_accuracy=0.6, test_ece=0.1,
                     state="diverged" if (norm, lr, seed) == (10.0, 2.0, 1) else "done")
            for norm in (0.1, 10.0) for lr in (1.0, 2.0) for seed in (0, 1)]  # fmt: skip
    figure = draw_heat_maps(cells_of(report_on(runs).grids[0]), False)
    for axes, number in zip(figure.axes, ("60.0", "10.0"), strict=True):
        said = [text.get_text() for text in axes.texts]
        assert (said.count(number), said.count("diverged")) == (3, 1)


def test_a_heat_map_of_accuracy_is_of_classifiers(make_run):
    runs = [
        make_run(keys={"clipping.norm": norm, "optimizer.lr": lr}, test_mse=1.0, val_mse=1.0)
        for norm in (0.1, 10.0)
        for lr in (0.5, 1.0)
    ]
    assert list(heat_map_pictures(report_on(runs))) == []


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ((OVER_NORMS,), "the learning rate chosen for this R on the validation part;"),
        ((UNVALIDATED,), "one learning rate for this R, with no validation part to choose it on;"),
        ((OVER_NORMS, UNVALIDATED), "for this R on the validation part, where there is one;"),
    ],
)
def test_the_frontier_says_what_lr_was_chosen_on(make_grid, cells, words):
    runs = []
    for i, measures in enumerate(cells):
        runs += make_grid(measures, keys={"batch": 500 + i})
    (picture,) = frontier_pictures(report_on(runs))
    assert words in picture.caption


def test_the_measures_say_what_they_are_shaded_by(make_grid):
    for cells, part in (
        (OVER_NORMS, "the validation part"),
        (UNVALIDATED, "the test set, without a validation part"),
    ):
        (picture,) = measures_pictures(report_on(make_grid(cells)))
        assert f"best accuracy on {part} (0.1, 10); outside" in picture.caption


@pytest.mark.parametrize(
    "other",
    [
        {"keys": {"eps": float("inf")}, "privacy_guarantee": "none", "sigma": 0.0},
        {"keys": {"sampling": "shuffled"}, "privacy_guarantee": "none"},
        {"keys": {"clipping.style": "layerwise"}},
        {"keys": {"clipping.function": "global"}},
    ],
)
def test_figures_at_the_same_epsilon_are_of_flat_clipping_and_a_bound(make_grid, other):
    flat = make_grid(OVER_NORMS)
    report = report_on([*flat, *make_grid(OVER_NORMS, **other)])
    assert len(report.grids) == 2
    (grid,) = grids_over_norms(report)
    assert grid.eps == 2.0
    assert grid.final[0].first.has_guarantee
    clipping = grid.final[0].first.config["clipping"]
    assert (clipping["function"], clipping["style"]) == ("abadi", "flat")
    assert len(list(measures_pictures(report))) == 1


def test_a_tail_stands_beside_the_twin_that_the_verdict_is_against(make_run):
    curve = [{"step": step, "test/ece": 0.1, "test/accuracy": 0.6} for step in (900, 1800)]
    tail = {"clipping.tail_norm": 20.0, "clipping.tail_steps": 100}
    runs = []
    for seed in (0, 1):
        for experiment, ece, keys in (
            ("a/elsewhere", 0.9, {}),  # equal but for the tail, of another experiment
            ("b/tail", 0.3, {"evaluate_every": 50}),
            ("b/tail", 0.2, tail),
        ):
            measures = {"test_accuracy": 0.6, "test_ece": ece + 0.002 * seed}
            runs.append(make_run(keys={"seed": seed, **keys}, experiment=experiment, curve=curve,
                                 **measures))  # fmt: skip
    report = report_on(runs)
    (picture,) = tail_pictures(report)
    assert "ECE 30.1 % without and 20.1 % with the tail" in picture.caption
    ((_, verdict),) = parts_of(report.grids)["A14"]
    assert "ECE 30.10 % to 20.10 %" in verdict.ours
