"""A sweep before it starts: its points, what there is of them already, and what that says."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from dpexp.sweep.cost import Estimate
from dpexp.sweep.existing import DIVERGED, DONE, ELSEWHERE, FAILED, OUTCOMES, STOPPED, Found, Runs
from dpexp.sweep.grid import Axis
from dpexp.sweep.point import Point

_MOST_NAMED = 20
_WORDS = {
    DONE: "done",
    DIVERGED: "diverged",
    ELSEWHERE: "running in another process",
    STOPPED: "stopped, to go on with",
    FAILED: "failed, to try again",
}


@dataclass(frozen=True)
class Plan:
    """What a sweep is about to do.

    Attributes:
        points: All of them, in order.
        output: Where their folders go.
        found: Hash -> the run that there is.
        unreadable: Folders there whose configuration cannot be read.
    """

    points: tuple[Point, ...]
    output: Path
    found: Mapping[str, Found]
    unreadable: tuple[Path, ...]

    @property
    def todo(self) -> list[Point]:
        """The points without an outcome; last those that another process has, to look once more."""
        left = [p for p in self.points if self.state_of(p) not in OUTCOMES]
        return sorted(left, key=lambda point: self.state_of(point) == ELSEWHERE)

    def state_of(self, point: Point) -> str | None:
        """Return the state of what there is of a point; None for nothing."""
        found = self.found.get(point.hash)
        return found.state if found else None


def make_plan(points: Sequence[Point], output: Path) -> Plan:
    """Look which points there are below `output`."""
    runs = Runs(output)
    found = {point.hash: runs.of(point.hash) for point in points}
    known = {digits: run for digits, run in found.items() if run is not None}
    return Plan(tuple(points), output, known, tuple(runs.unreadable))


def describe(plan: Plan, axes: Sequence[Axis]) -> list[str]:
    """Return what a sweep is about to do, in lines for people."""
    states = Counter(plan.state_of(point) for point in plan.points)
    there = ", ".join(
        f"{states[state]} {words}" for state, words in _WORDS.items() if states[state]
    )
    num_new = states[None]
    lines = [
        f"sweep     {len(plan.points)} points into {plan.output}: "
        + ", ".join(filter(None, [there, f"{num_new} to begin" * bool(num_new)]))
    ]
    lines += _axis_lines(axes)
    for state, words in _WORDS.items():
        names = [point.name for point in plan.points if plan.state_of(point) == state]
        hidden = len(names) - _MOST_NAMED
        lines += [f"{words}:"] * bool(names)
        lines += [f"          {name}" for name in names[:_MOST_NAMED]]
        lines += [f"          and {hidden} more"] * (hidden > 0)
    lines += [
        f"note      {path} counts as no run: its config.yaml is damaged or of another version"
        for path in plan.unreadable
    ]
    return lines


def cost_line(estimate: Estimate, at_once: int | None) -> str:
    """Return what is left to do as time, in a line.

    Runs that are `at_once` at a time take as many rounds as that makes, each a mean run long.

    Args:
        estimate: Of all runs one after the other.
        at_once: How many at a time; None leaves it at their sum.
    """
    # Imported late: a grid that is refused needs no torch.
    from dpexp.train.describe import duration

    if estimate.seconds is None:
        return f"cost      {estimate.source}"
    if not estimate.seconds:
        return f"cost      none: {estimate.source}"
    if at_once is None:
        return f"cost      about {duration(estimate.seconds)} in all, by {estimate.source}"
    beside = "" if at_once == 1 else f", {at_once} at a time"
    seconds = estimate.seconds / estimate.num_runs * ceil(estimate.num_runs / at_once)
    return f"cost      about {duration(seconds)}{beside}, by {estimate.source}"


def _axis_lines(axes: Sequence[Axis]) -> list[str]:
    rows = [
        (key, ", ".join(texts), "" if place == 0 else f"  in step with {axis.keys[0]}")
        for axis in axes
        for place, (key, texts) in enumerate(
            zip(axis.keys, zip(*axis.values, strict=True), strict=True)
        )
    ]
    width = max((len(key) for key, _, _ in rows), default=0)
    head = ["axes      ", *["          "] * len(rows)]
    return [
        f"{start}{key:<{width}}  {texts}{note}"
        for start, (key, texts, note) in zip(head, rows, strict=False)
    ]
