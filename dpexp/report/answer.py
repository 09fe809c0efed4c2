"""Does a larger clipping norm calibrate better at the same epsilon, and by which measure?

The best R at most 1 stands against the best R above 1, seed by seed, on every measure; the answer
rests on settings where the large R is within 2 points of the best validation accuracy: a lower
error there is not that of a model that learned less. The first sentence counts 95 % intervals of
ECE as they are; with many measures and settings some will exclude 0 by chance, so the second
adjusts by Holm over all. Beside it stands the rank correlation with R over every R that keeps the
accuracy, which uses more than two of them.

Where the large R is less accurate, its lower error may be that of a model that learned less. A
small R slowed down by its learning rate to no more than the same accuracy tells the two apart.
"""

import statistics
from collections.abc import Iterator, Sequence

from dpexp.report.claims.norms import (
    SMALL_UP_TO,
    Match,
    accuracy_of,
    is_about_norms,
    match,
)
from dpexp.report.contents import Answer, Comparison, Slowed
from dpexp.report.groups import SELECTED_BY, Grid, Point, best_of
from dpexp.report.sentences import MEASURES, sentences_of
from dpexp.report.statistics import Correlation, paired, rank_correlation


def answer(grids: Sequence[Grid]) -> Answer:
    """Return every comparison that the grids allow, and what they say in three sentences."""
    comparisons: list[Comparison] = []
    slowed: list[Slowed] = []
    refused: list[str] = []
    for grid in filter(is_about_norms, grids):
        pair = match(grid)
        if isinstance(pair, str):
            refused.append(f"{grid.label}: {pair}")
            continue
        comparisons += _of_grid(grid, pair)
        found = slow_down(grid)
        slowed += [found] if found else []
    if not comparisons:
        why = "; ".join(refused) or "no runs at small and at large R of one epsilon"
        return Answer(comparisons=(), sentences=(f"The question stays open here: {why}.",))
    sentences = sentences_of(comparisons, slowed)
    return Answer(comparisons=tuple(comparisons), sentences=sentences, slowed=tuple(slowed))


def slow_down(grid: Grid) -> Slowed | None:
    """Return a large R beside a small R that is no more accurate; None without several lr."""
    candidates: dict[int, list[Point]] = {}
    for point in (*grid.final, *grid.search):
        if point.mean(SELECTED_BY) is not None and not point.num_diverged:
            candidates.setdefault(point.steps, []).append(point)
    for _, points in sorted(candidates.items(), reverse=True):
        large = [point for point in points if point.clip_norm > SMALL_UP_TO]
        small = [point for point in points if point.clip_norm <= SMALL_UP_TO]
        if not large or len({(point.clip_norm, point.lr) for point in points}) == len(
            {point.clip_norm for point in points}
        ):
            continue
        best = best_of(large)
        fastest = {p.clip_norm: best_of(q for q in small if q.clip_norm == p.clip_norm).lr
                   for p in small}  # fmt: skip
        below = [
            point
            for point in small
            if accuracy_of(point) <= accuracy_of(best) and point.lr <= fastest[point.clip_norm]
        ]
        if below:
            return Slowed(eps=grid.eps, large=best, small=best_of(below))
    return None


def _of_grid(grid: Grid, pair: Match) -> Iterator[Comparison]:
    for measure in MEASURES:
        key = f"test/{measure}"
        if not pair.small.values(key) or not pair.large.values(key):
            continue
        recalibrated, epsilon = _recalibrated(pair.small, key)
        yield Comparison(
            data=grid.data,
            model=grid.model,
            eps=grid.eps,
            measure=measure,
            small=pair.small,
            large=pair.large,
            keeps_accuracy=pair.keeps_accuracy,
            paired=paired(pair.small.values(key), pair.large.values(key)),
            correlation=_correlation(pair.accurate, key),
            is_in_null_band=_in_band(pair) if measure == "mce" else None,
            recalibrated=recalibrated,
            recalibrated_epsilon=epsilon,
        )


def _correlation(accurate: Sequence[Point], key: str) -> Correlation | None:
    """Return the rank correlation of a measure with R, seeds as blocks."""
    by_seed: dict[int, list[tuple[float, float]]] = {}
    for point in accurate:
        for seed, value in point.values(key).items():
            by_seed.setdefault(seed, []).append((point.clip_norm, value))
    return rank_correlation(list(by_seed.values()))


def _in_band(pair: Match) -> bool | None:
    """Return whether no run's MCE can be told from that of its calibrated twin; None if unknown."""
    inside = []
    for run in (*pair.small.runs, *pair.large.runs):
        band, value = run.null_band("mce"), run.measure("test/mce")
        if band is None or value is None:
            return None
        inside.append(value <= band[1])
    return all(inside)


def _recalibrated(point: Point, key: str) -> tuple[float | None, float | None]:
    """Return the mean after temperature scaling and its epsilon, the private fit if there is."""
    values, epsilons = [], []
    for run in point.runs:
        fits = [fit for fit in run.recalibrations if fit["method"] == "temperature"]
        if not fits:
            return None, None
        fit = min(fits, key=lambda fit: float(fit["epsilon"]))
        value = fit["summary"].get(key)
        if value is None:
            return None, None
        values.append(float(value))
        epsilons.append(float(fit["epsilon"]))
    return statistics.fmean(values), max(epsilons)
