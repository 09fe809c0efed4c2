"""A sweep before it starts, in every state: what is said of it, what is to do, what it takes."""

import sys
from types import SimpleNamespace

import pytest
from tiny import a_point, a_run

from dpexp.record.lock import FolderLock
from dpexp.sweep.cost import Estimate
from dpexp.sweep.existing import Found
from dpexp.sweep.grid import read_grid
from dpexp.sweep.plan import Plan, cost_line, describe, make_plan


@pytest.fixture
def plan(tmp_path):
    """One point in each state; elsewhere first, so that what is to do is not in order by luck."""
    order = ("elsewhere", None, "failed", "stopped", "diverged", "done")
    points = {state: a_point(tmp_path, seed=seed) for seed, state in enumerate(order)}
    found = {
        point.hash: Found(tmp_path, state, 0, 2, None) for state, point in points.items() if state
    }
    return Plan(tuple(points.values()), tmp_path / "grid", found, ())


def test_every_state_is_counted_and_named(plan):
    assert [plan.state_of(point) for point in plan.points] == [
        "elsewhere", None, "failed", "stopped", "diverged", "done",
    ]  # fmt: skip
    assert describe(plan, []) == [
        f"sweep     6 points into {plan.output}: 1 done, 1 diverged, 1 running in another process, "
        f"1 stopped, to go on with, 1 failed, to try again, 1 to begin",
        "done:",
        "          seed=5",
        "diverged:",
        "          seed=4",
        "running in another process:",
        "          seed=0",
        "stopped, to go on with:",
        "          seed=3",
        "failed, to try again:",
        "          seed=2",
    ]


def test_what_has_no_outcome_is_to_do_and_what_another_process_has_comes_last(plan):
    assert [point.name for point in plan.todo] == ["seed=1", "seed=2", "seed=3", "seed=0"]


@pytest.mark.parametrize(("count", "hidden"), [(20, []), (23, ["          and 3 more"])])
def test_twenty_of_a_state_are_named_and_the_rest_counted(tmp_path, count, hidden):
    points = tuple(a_point(tmp_path, seed=seed) for seed in range(count))
    found = {point.hash: Found(tmp_path, "done", 2, 2, None) for point in points}
    lines = describe(Plan(points, tmp_path, found, ()), [])
    assert lines[0] == f"sweep     {count} points into {tmp_path}: {count} done"
    assert lines[1:3] == ["done:", "          seed=0"]
    assert lines[21:] == ["          seed=19", *hidden]


def test_axes_are_shown_with_what_goes_in_step(tmp_path):
    words = ["seed=0,1", "clipping.norm=1,2", "optimizer.lr=4,8", "zip=clipping.norm,optimizer.lr"]
    lines = describe(Plan((a_point(tmp_path),), tmp_path, {}, ()), read_grid(words).axes)
    assert lines[1:] == [
        "axes      seed           0, 1",
        "          clipping.norm  1, 2",
        "          optimizer.lr   4, 8  in step with clipping.norm",
    ]


def test_a_plan_is_made_of_what_lies_there(tmp_path):
    points = [a_point(tmp_path, seed=seed) for seed in range(6)]
    for point, state in zip(points, ("done", "diverged", "failed", "interrupted"), strict=False):
        a_run(point, state, step=1)
    damaged = a_run(a_point(tmp_path, seed=9), "done")
    (damaged / "config.yaml").write_text("nonsense: true\n")
    lock = FolderLock(a_run(points[4], "running"))
    try:
        plan = make_plan(points, tmp_path)
    finally:
        lock.release()
    assert [plan.state_of(point) for point in points] == [
        "done", "diverged", "failed", "stopped", "elsewhere", None,
    ]  # fmt: skip
    assert plan.unreadable == (damaged,)
    assert describe(plan, [])[-1] == (
        f"note      {damaged} counts as no run: its config.yaml is damaged or of another version"
    )


@pytest.mark.parametrize(
    ("estimate", "at_once", "line"),
    [
        (Estimate(None, "unknown until x", 3), 1, "cost      unknown until x"),
        (Estimate(0.0, "nothing is left to do", 0), 4, "cost      none: nothing is left to do"),
        (Estimate(120.0, "x", 3), None, "cost      about 120 s in all, by x"),
        (Estimate(120.0, "x", 3), 1, "cost      about 120 s, by x"),
        # Rounds of two, of two and of one, 24 s each.
        (Estimate(120.0, "x", 5), 2, "cost      about 72 s, 2 at a time, by x"),
        # A run is not split: more at once than there are take as long as one.
        (Estimate(120.0, "x", 3), 8, "cost      about 40 s, 8 at a time, by x"),
    ],
)
def test_the_cost_is_said_in_a_line(monkeypatch, estimate, at_once, line):
    # In place of a room that loads torch.
    describe = SimpleNamespace(duration=lambda seconds: f"{seconds:g} s")
    monkeypatch.setitem(sys.modules, "dpexp.train.describe", describe)
    assert cost_line(estimate, at_once) == line
