"""What a sweep will take: by hand, from finished runs, from a few samples, or not known."""

import sys
from types import SimpleNamespace

import pytest
from tiny import a_point, a_run

from dpexp.errors import ModelError
from dpexp.sweep.cost import estimate, num_samples, num_steps, seconds_a_sample
from dpexp.sweep.existing import Found, Runs

N = 1438 - 100  # digits less what TINY holds out
Built = SimpleNamespace(module=SimpleNamespace(to=lambda device: "on it"))


def finished(point, seconds):
    return a_run(point, "done", step=2, summary={"time/total_seconds": seconds})


def found_of(points, output):
    runs = Runs(output)
    return {p.hash: run for p in points if (run := runs.of(p.hash)) is not None}


def test_steps_are_given_or_follow_from_epochs(tmp_path):
    assert num_steps(a_point(tmp_path, steps=7).config) == 7
    by_epochs = a_point(tmp_path, steps=None, epochs=10.0).config
    assert num_steps(by_epochs) == round(10 * N / 64) == 209
    assert num_samples(by_epochs) == 209 * 64
    assert num_steps(a_point(tmp_path, steps=None, epochs=1e-6).config) == 1
    unknown = a_point(tmp_path, {"dataset.name": "imagefolder"}, steps=None, epochs=1.0).config
    assert num_steps(unknown) is None
    assert num_samples(unknown) is None


@pytest.mark.parametrize(
    ("state", "num_left"),
    [("done", 0), ("diverged", 0), ("failed", 1), ("stopped", 1), ("elsewhere", 1), (None, 1)],
)
def test_only_what_has_an_outcome_costs_nothing(tmp_path, state, num_left):
    point = a_point(tmp_path)
    found = {point.hash: Found(tmp_path, state, 0, 2, None)} if state else {}
    left = estimate([point], found, lambda config: 0.5)
    assert left.num_runs == num_left
    assert left.seconds == num_left * 128 * 0.5  # K B = 128 samples
    assert (left.source == "nothing is left to do") == (num_left == 0)


def test_the_median_second_a_sample_of_finished_runs_of_the_model_counts(tmp_path):
    done = [a_point(tmp_path, seed=seed) for seed in range(3)]
    for point, seconds in zip(done, (1.0, 30.0, 2.0), strict=True):
        finished(point, seconds)
    other = a_point(tmp_path, {"model.name": "mlp"})
    finished(other, 1000.0)
    todo = a_point(tmp_path, steps=8)
    points = [*done, other, todo]
    left = estimate(points, found_of(points, tmp_path), None)
    assert left.seconds == pytest.approx(8 * 64 * 2.0 / (2 * 64))
    assert left.source == "4 finished runs of this sweep"


def test_a_run_that_stopped_costs_the_share_that_is_left(tmp_path):
    point = a_point(tmp_path, steps=4)
    a_run(point, "interrupted", step=3, steps=4)
    left = estimate([point], found_of([point], tmp_path), lambda config: 1.0)
    assert left.seconds == pytest.approx(4 * 64 / 4)
    a_run(other := a_point(tmp_path, steps=5), "interrupted", steps=None)
    assert estimate([other], found_of([other], tmp_path), lambda config: 1.0).seconds == 5 * 64


def test_a_model_without_a_finished_run_is_timed_at_its_first_point(tmp_path):
    finished(done := a_point(tmp_path, seed=0), 64.0)
    first = a_point(tmp_path, {"model.name": "mlp"}, seed=1)
    points = [done, first, a_point(tmp_path, {"model.name": "mlp"}, seed=2),
              a_point(tmp_path, seed=3)]  # fmt: skip
    timed = []
    left = estimate(points, found_of(points, tmp_path), lambda c: timed.append(c) or 0.25)
    assert timed == [first.config]
    assert left.seconds == pytest.approx(2 * 128 * 0.25 + 128 * 64.0 / 128)
    assert left.source == "the time of a few samples and 1 finished run of this sweep"


@pytest.mark.parametrize("measure", [None, lambda config: None])
def test_without_any_time_the_cost_is_unknown(tmp_path, measure):
    left = estimate([a_point(tmp_path)], {}, measure)
    assert (left.seconds, left.source) == (None, "unknown until the first run has ended")


def test_at_most_three_models_are_timed(tmp_path):
    points = [a_point(tmp_path, {"model.name": f"net{i}"}) for i in range(4)]
    assert estimate(points, {}, lambda config: 1.0).seconds is None
    assert estimate(points[:3], {}, lambda config: 1.0).seconds == 3 * 128


def test_where_the_data_set_hides_its_size_the_mean_of_finished_runs_counts(tmp_path):
    keys = {"dataset.name": "imagefolder", "steps": None, "epochs": 1.0}
    points = [a_point(tmp_path, keys, seed=seed) for seed in range(5)]
    assert estimate(points, {}, lambda config: 1.0).source.startswith("unknown until")
    for point, seconds in zip(points, (2.0, 4.0), strict=False):
        finished(point, seconds)
    left = estimate(points, found_of(points, tmp_path), lambda config: 1.0)
    assert (left.seconds, left.source) == (9.0, "the mean of 2 finished runs")


def test_a_damaged_summary_tells_no_time(tmp_path):
    points = [a_point(tmp_path, seed=seed) for seed in range(2)]
    (finished(points[0], 5.0) / "summary.json").write_text("{")
    left = estimate(points, found_of(points, tmp_path), None)
    assert (left.seconds, left.num_runs) == (None, 1)


def test_a_model_is_timed_with_random_weights_and_without_a_download(tmp_path, monkeypatch):
    point = a_point(tmp_path, {"model.pretrained": True})
    built = []
    job = SimpleNamespace(
        pick_device=lambda name: "cpu",
        load_model_and_data=lambda config, say: built.append(config) or (Built, "splits"),
        cost_of_one=lambda module, splits, device: (9, 0.125) if splits == "splits" else None,
    )
    monkeypatch.setitem(sys.modules, "dpexp.train.job", job)
    assert seconds_a_sample(point.config) == 0.125
    assert (built[0].model.pretrained, built[0].dataset.download) == (False, False)
    assert point.config.model.pretrained, "the run's own configuration is as it was"


@pytest.mark.parametrize("error", [ModelError("no such network"), RuntimeError("out of memory")])
def test_a_model_that_cannot_be_timed_has_no_time(tmp_path, monkeypatch, error):
    def fail(name):
        raise error

    job = SimpleNamespace(pick_device=fail, load_model_and_data=None, cost_of_one=None)
    monkeypatch.setitem(sys.modules, "dpexp.train.job", job)
    assert seconds_a_sample(a_point(tmp_path).config) is None
