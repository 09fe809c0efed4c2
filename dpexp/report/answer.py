"""Does a larger clipping norm calibrate better at the same epsilon, and by which measure?

The best R at most 1 stands against the best R above 1, both within 2 points of the best validation
accuracy, seed by seed, on every measure. Each comparison has a 95 % interval; with many measures
and settings some will exclude 0 by chance, so the words count them and adjust by Holm over all.
"""

import math
import statistics
from collections.abc import Iterator, Sequence

from dpexp.report.claims.judging import percent
from dpexp.report.claims.norms import Match, is_about_norms, match
from dpexp.report.contents import Answer, Comparison
from dpexp.report.groups import Grid, Point
from dpexp.report.statistics import Correlation, holm, paired, rank_correlation

# By the names of dpexp.metrics.measures; what a reader calls them.
MEASURES = {
    "ece": "ECE",
    "mce": "MCE",
    "adaptive_ece": "adaptive ECE",
    "classwise_ece": "class-wise ECE",
    "ks_error": "KS error",
    "nll_nats": "NLL",
    "brier": "Brier score",
    "overconfidence": "over-confidence",
}
ERRORS = ("ece", "mce", "adaptive_ece", "classwise_ece", "ks_error")  # 0 for a calibrated model
IN_NATS = "nll_nats"


def answer(grids: Sequence[Grid]) -> Answer:
    """Return every comparison that the grids allow, and what they say in three sentences."""
    comparisons: list[Comparison] = []
    refused: list[str] = []
    for grid in filter(is_about_norms, grids):
        pair = match(grid)
        if isinstance(pair, str):
            refused.append(f"{grid.label}: {pair}")
            continue
        comparisons += _of_grid(grid, pair)
    if not any(found.paired for found in comparisons):
        why = "; ".join(refused) or "no runs at small and large R share two seeds at one epsilon"
        return Answer(
            comparisons=tuple(comparisons), sentences=(f"The question stays open here: {why}.",)
        )
    sentences = (_first(comparisons, refused), _second(comparisons), _third(comparisons))
    return Answer(comparisons=tuple(comparisons), sentences=sentences)


def clear(comparisons: Sequence[Comparison]) -> dict[int, int]:
    """Return -1 for a comparison (by its place) lower at large R, 1 for higher, 0 for neither.

    At 5 % over all comparisons together: Holm's adjustment of the paired t tests.
    """
    known = [(i, c.paired) for i, c in enumerate(comparisons) if c.paired is not None]
    adjusted = holm([pair.p_t for _, pair in known])
    return {
        i: (0 if p >= 0.05 else -1 if pair.difference < 0 else 1)
        for (i, pair), p in zip(known, adjusted, strict=True)
    }


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
            paired=paired(pair.small.values(key), pair.large.values(key)),
            correlation=_correlation(pair.accurate, key),
            is_in_null_band=_in_band(pair, measure),
            recalibrated=recalibrated,
            recalibrated_epsilon=epsilon,
        )


def _correlation(accurate: Sequence[Point], key: str) -> Correlation | None:
    """Return the rank correlation of a measure with log R, seeds as blocks."""
    by_seed: dict[int, list[tuple[float, float]]] = {}
    for point in accurate:
        for seed, value in point.values(key).items():
            by_seed.setdefault(seed, []).append((math.log(point.clip_norm), value))
    return rank_correlation(list(by_seed.values()))


def _in_band(pair: Match, measure: str) -> bool | None:
    """Return whether every run of both lies within what its calibrated twin would show."""
    if measure not in ERRORS:
        return None
    inside = []
    for run in (*pair.small.runs, *pair.large.runs):
        band, value = run.null_band(measure), run.measure(f"test/{measure}")
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


def _first(comparisons: Sequence[Comparison], refused: Sequence[str]) -> str:
    """Say whether, by ECE, setting by setting."""
    found = [c for c in comparisons if c.measure == "ece" and c.paired]
    lower = sum(c.paired.is_lower for c in found if c.paired)
    higher = sum(c.paired.is_higher for c in found if c.paired)
    verdict = (
        "Yes, by ECE" if found and lower == len(found)
        else "No, by ECE" if not lower
        else "Not in general, by ECE"
    )  # fmt: skip
    each = "; ".join(
        f"{_where(c)}: {_value(c, c.paired.second)} at R {c.large.clip_norm:g} against "
        f"{_value(c, c.paired.first)} at R {c.small.clip_norm:g}, {_interval(c)}"
        for c in found
        if c.paired
    )
    left = f"; in {len(refused)} more no pair of accurate models could be compared" * bool(refused)
    return (
        f"{verdict}: among models within 2 points of the best accuracy the ECE of the best R above "
        f"1 is lower than that of the best R of at most 1 in {lower} of {len(found)} settings, "
        f"higher in {higher}, undecided in {len(found) - lower - higher} ({each}){left}."
    )


def _second(comparisons: Sequence[Comparison]) -> str:
    """Say by which measures."""
    signs = clear(comparisons)
    parts = []
    for measure, name in MEASURES.items():
        places = [i for i, c in enumerate(comparisons) if c.measure == measure and i in signs]
        if places:
            lower = sum(signs[i] < 0 for i in places)
            higher = sum(signs[i] > 0 for i in places)
            parts.append(f"{name} {lower} lower, {higher} higher, of {len(places)}")
    return (
        f"By measure, at 5 % over all {len(signs)} comparisons together (paired t, Holm), larger R "
        f"against smaller: {'; '.join(parts)}."
    )


def _third(comparisons: Sequence[Comparison]) -> str:
    """Say what MCE is worth, and whether large R beats temperature scaling."""
    mce = [c for c in comparisons if c.measure == "mce" and c.is_in_null_band is not None]
    inside = sum(bool(c.is_in_null_band) for c in mce)
    band = (
        f"In {inside} of {len(mce)} settings the MCE of every run of both lies within what a "
        f"perfectly calibrated model would show, where a difference in MCE is one of chance"
        if mce
        else "Whether MCE lies within what a perfectly calibrated model would show was not measured"
    )
    scaled = [c for c in comparisons if c.measure == "ece" and c.recalibrated is not None]
    if not scaled:
        return f"{band}; temperature scaling, which a large R must beat, was not among the runs."
    each = "; ".join(
        f"{_where(c)}: {percent(c.recalibrated, 1)} ({_cost(c)}) against "
        f"{percent(c.large.mean('test/ece'), 1)} at R {c.large.clip_norm:g}"
        for c in scaled
    )
    beaten = sum((c.large.mean("test/ece") or 0) < (c.recalibrated or 0) for c in scaled)
    return (
        f"{band}; the large R has a lower ECE than the small one after temperature scaling in "
        f"{beaten} of {len(scaled)} settings ({each})."
    )


def _where(found: Comparison) -> str:
    return f"{found.data} at epsilon {found.eps:.3g}"


def _cost(found: Comparison) -> str:
    epsilon = found.recalibrated_epsilon
    if epsilon is None or math.isinf(epsilon):
        return "fitted without noise, no guarantee"
    return f"epsilon {epsilon:.3g} with the scaling"


def _value(found: Comparison, value: float) -> str:
    return f"{value:.3f} nats" if found.measure == IN_NATS else percent(value, 1)


def _interval(found: Comparison) -> str:
    assert found.paired is not None
    low, middle, high = (100 * x for x in (found.paired.low, found.paired.difference,
                                           found.paired.high))  # fmt: skip
    return f"{middle:+.1f} points [{low:+.1f}, {high:+.1f}] over {found.paired.num_seeds} seeds"
