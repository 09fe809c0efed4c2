"""Runs that belong together: a point is one setting over seeds, a grid is points over R and lr."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dpexp.accounting.stated import stated
from dpexp.record.config_hash import FREE_KEYS, flatten
from dpexp.record.strict_json import to_text
from dpexp.report.runs import Run

SELECTED_BY = "val/accuracy"


@dataclass(frozen=True, kw_only=True)
class Point:
    """Runs that are equal in everything but the seed.

    Attributes:
        runs: In the order of their seeds, one a seed; at least one.
    """

    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """The run that stands for what all of them share."""
        return self.runs[0]

    @property
    def clip_norm(self) -> float:
        """R, gradient units."""
        return self.first.clip_norm

    @property
    def lr(self) -> float:
        """Learning rate."""
        return self.first.lr

    @property
    def steps(self) -> int:
        """Optimizer updates planned."""
        return self.first.steps

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds, ascending."""
        return tuple(run.seed for run in self.runs)

    @property
    def num_diverged(self) -> int:
        """How many of the runs diverged."""
        return sum(run.has_diverged for run in self.runs)

    def values(self, key: str) -> dict[int, float]:
        """Return a measure, such as test/ece, by seed; seeds that lack it are left out."""
        found = {run.seed: run.measure(key) for run in self.runs}
        return {seed: value for seed, value in found.items() if value is not None}

    def mean(self, key: str) -> float | None:
        """Return the mean of a measure over seeds; None if a run lacks it."""
        values = self.values(key)
        return statistics.fmean(values.values()) if len(values) == len(self.runs) else None

    def sd(self, key: str) -> float | None:
        """Return the standard deviation over seeds; None below two seeds, or if a run lacks it."""
        values = self.values(key)
        if len(values) < max(2, len(self.runs)):
            return None
        return statistics.stdev(values.values())


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Points of one experiment, data set, model and sigma that differ in R, lr and seed alone.

    Attributes:
        experiment: Name of the experiment; None for runs without one.
        data: Name of the data set.
        model: Name of the network.
        eps: Target epsilon of the final runs, or the one they spent; None for ordinary training.
        sigma: Noise multiplier, the same for every R; None for ordinary training.
        final: Points of the longest runs, by R, then lr.
        search: Points of shorter runs, by R, then lr; often empty.
        notes: What is odd about it, one sentence each: an R whose final lr is not the one that the
            search chooses, seeds that are missing.
    """

    experiment: str | None
    data: str
    model: str
    eps: float | None
    sigma: float | None
    final: tuple[Point, ...]
    search: tuple[Point, ...]
    notes: tuple[str, ...] = ()

    @property
    def norms(self) -> tuple[float, ...]:
        """Every R among the final points, ascending."""
        return tuple(sorted({point.clip_norm for point in self.final}))

    @property
    def chosen(self) -> dict[float, Point]:
        """For each R its final point; of several lr the one that is best on validation."""
        return {norm: best_of(p for p in self.final if p.clip_norm == norm) for norm in self.norms}

    @property
    def lr_chosen(self) -> dict[float, float]:
        """For each R of the search the lr that is best on validation."""
        norms = sorted({point.clip_norm for point in self.search})
        return {norm: best_of(p for p in self.search if p.clip_norm == norm).lr for norm in norms}

    @property
    def label(self) -> str:
        """Data, model and epsilon in a few words."""
        eps = "no privacy" if self.eps is None else f"epsilon {stated(self.eps)}"
        is_bound = self.eps is None or all(p.first.has_guarantee for p in self.final)
        return f"{self.data}, {self.model}, {eps}" + " without a guarantee" * (not is_bound)


def best_of(points: Iterable[Point]) -> Point:
    """Return the best point on validation; of equals the smaller lr.

    Points with a diverged run come last, before them those that were not measured.
    """
    return max(points, key=lambda point: (*_rank(point), -point.lr))


def selected_by(point: Point) -> float | None:
    """Return what R and lr are chosen by, higher is better; None without a validation part.

    The accuracy on validation; for regression, its squared error there, negative.
    """
    error = point.mean("val/mse")
    return point.mean(SELECTED_BY) if error is None else -error


def _rank(point: Point) -> tuple[int, float]:
    if point.num_diverged:
        return 0, 0.0
    value = selected_by(point)
    return (1, 0.0) if value is None else (2, value)


def same_but_for(run: Run, keys: Iterable[str]) -> str:
    """Return a text that is equal for runs that differ in `keys` alone, whatever experiment."""
    return to_text(fixed_keys(run, keys))


def fixed_keys(run: Run, left_out: Iterable[str]) -> Mapping[str, Any]:
    """Return the keys of a run but for `left_out` and those that change nothing."""
    # The data set by its name: its folder is another on another machine.
    leaves = flatten(run.config) | {"data": run.data}
    dropped = {*FREE_KEYS, *left_out}
    return {
        key: value
        for key, value in sorted(leaves.items())
        if key not in dropped and key.partition(".")[0] not in FREE_KEYS
    }
