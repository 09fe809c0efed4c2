"""Which runs of a report a figure shows."""

import statistics
from collections.abc import Sequence

from dpexp.data.public import KNOWN_SETS
from dpexp.metrics.reliability import Reliability
from dpexp.report.claims.norms import MATCHED, is_about_norms
from dpexp.report.contents import Report
from dpexp.report.groups import SELECTED_BY, Grid, Point, best_of, selected_by
from dpexp.report.runs import Run

CHANCE = 0.02  # above that of guessing, as a fraction: what still counts as guessing


def grids_over_norms(report: Report) -> list[Grid]:
    """Return the grids that A10 and A11 are judged on, with runs to draw at two or more R.

    Their figures are called "at the same epsilon": it bounds, and R of flat clipping alone varies.
    """
    return [grid for grid in report.grids if is_about_norms(grid) and len(drawn(grid)) >= 2]


def drawn(grid: Grid) -> dict[float, Point]:
    """Return the chosen points that hold a run with finite outputs, by R."""
    return {
        norm: point
        for norm, point in grid.chosen.items()
        if point.mean("test/accuracy") is not None and point.mean("test/ece") is not None
    }


def has_validation(grid: Grid) -> bool:
    """Return whether the final runs hold a validation part, which lr is then chosen on."""
    ended = (point for point in grid.final if not point.num_diverged)
    return any(selected_by(point) is not None for point in ended)


def accurate_norms(grid: Grid) -> list[float]:
    """Return the R whose accuracy is within 2 points of the grid's best, ascending.

    On validation, as the answer matches them; on the test set where an R has no validation part.
    """
    points = drawn(grid)
    has_validation = all(point.mean(SELECTED_BY) is not None for point in points.values())
    key = SELECTED_BY if has_validation else "test/accuracy"
    means = {norm: point.mean(key) or 0.0 for norm, point in points.items()}
    best = max(means.values(), default=0.0)
    return [norm for norm, mean in means.items() if mean >= best - MATCHED]


def ends(report: Report, grid: Grid) -> tuple[Point, Point]:
    """Return the points of small and large R that stand beside each other.

    Those that the answer compares. Where it compares none on this grid: the best R, and the largest
    beyond it within 2 points of its accuracy, else the largest that learns more than guessing.
    """
    for found in report.answer.comparisons:
        if (found.data, found.model, found.eps) == (grid.data, grid.model, grid.eps):
            return found.small, found.large
    points = drawn(grid)
    learned = [point for point in points.values() if not is_at_chance(point)]
    small = best_of([p for p in learned if p.clip_norm < grid.norms[-1]] or points.values())
    accurate = [points[norm] for norm in accurate_norms(grid) if norm > small.clip_norm]
    larger = [point for point in learned if point.clip_norm > small.clip_norm]
    return small, (accurate or larger or list(points.values()))[-1]


def ordinary_of(report: Report, grid: Grid) -> Point | None:
    """Return the best ordinary training of the same data and network; None if there is none."""
    points = [
        point
        for other in report.grids
        if other.eps is None and (other.data, other.model) == (grid.data, grid.model)
        for point in other.final
        if not point.first.config["dp"] and point.mean("test/ece") is not None
    ]
    return best_of(points) if points else None


def middle_run(point: Point) -> Run | None:
    """Return the run of middle ECE (the lower of two) that has a reliability curve."""
    runs = [run for run in point.runs if run.reliability and run.measure("test/ece") is not None]
    if not runs:
        return None
    middle = statistics.median_low([run.measure("test/ece") or 0.0 for run in runs])
    return next(run for run in runs if run.measure("test/ece") == middle)


def curve_of(run: Run) -> Reliability:
    """Return the reliability curve of a run that has one."""
    assert run.reliability is not None
    return Reliability.from_dict(run.reliability)


def is_at_chance(point: Point, part: str = "test") -> bool:
    """Return whether it diverged, or guesses: accuracy within 2 points of 1 / classes."""
    mean = point.mean(f"{part}/accuracy")
    if point.num_diverged or mean is None:
        return True
    run = point.first
    classes = run.config["dataset"]["num_classes"]
    if classes is None and run.data in KNOWN_SETS:
        classes = KNOWN_SETS[run.data].num_classes
    return bool(classes) and mean <= 1 / classes + CHANCE


def null_top(points: Sequence[Point], measure: str = "ece") -> float | None:
    """Return the mean upper end of what calibrated models show; None if no run holds it."""
    bands = [run.null_band(measure) for point in points for run in point.runs]
    tops = [band[1] for band in bands if band is not None]
    return statistics.fmean(tops) if tops else None


def slug(grid: Grid) -> str:
    """Return a name for files: experiment or data set and network, and epsilon."""
    stem = (grid.experiment or f"{grid.data}_{grid.model}").rpartition("/")[2]
    return name_of(f"{stem}_ordinary" if grid.eps is None else f"{stem}_eps{grid.eps:.3g}")


def name_of(words: str) -> str:
    """Return words as a file name and an anchor; a decimal point becomes a p."""
    return "".join(c if c.isascii() and (c.isalnum() or c == "_") else "p" if c == "." else "-"
                   for c in words)  # fmt: skip
