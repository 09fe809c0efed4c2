"""The answer to the open question in words, all from the numbers of its comparisons."""

import math
from collections.abc import Mapping, Sequence

from dpexp.accounting.stated import stated
from dpexp.report.contents import Comparison, Slowed
from dpexp.report.groups import Point
from dpexp.report.statistics import holm
from dpexp.report.words import count

# By the names of dpexp.metrics.measures; what a reader calls them.
MEASURES = {
    "ece": "ECE",
    "mce": "MCE",
    "adaptive_ece": "adaptive ECE",
    "classwise_ece": "class-wise ECE",
    "ks_error": "KS error",
    "nll_nats": "NLL",
    "brier": "Brier score",
    # Parts of ECE: one may fall because the other rises, so they stand side by side.
    "overconfidence": "over-confidence",
    "underconfidence": "under-confidence",
}


def sentences_of(
    comparisons: Sequence[Comparison], slowed: Sequence[Slowed]
) -> tuple[str, str, str]:
    """Return whether, by which measure, and what else could explain it; at least one comparison."""
    return _first(comparisons), _second(comparisons), _third(comparisons, slowed)


def clear(comparisons: Sequence[Comparison]) -> dict[int, int]:
    """Return -1 for a comparison (by its place) lower at large R, 1 for higher, 0 for neither.

    At 5 % over all comparisons together: Holm's adjustment of the paired t tests.
    """
    return _signs({i: (c.paired.p_t, c.paired.difference)
                   for i, c in enumerate(comparisons) if c.paired})  # fmt: skip


def trends(comparisons: Sequence[Comparison]) -> dict[int, int]:
    """Return -1 for a comparison (by its place) that falls with R, 1 for rises, 0 for neither.

    At 5 % over all comparisons together: Holm's adjustment of the permutation tests.
    """
    return _signs({i: (c.correlation.p, c.correlation.rho)
                   for i, c in enumerate(comparisons) if c.correlation})  # fmt: skip


def _signs(found: Mapping[int, tuple[float, float]]) -> dict[int, int]:
    """Return the sign of each second value whose p, adjusted for all, is below 5 %, else 0."""
    adjusted = holm([p for p, _ in found.values()])
    return {
        place: (0 if p >= 0.05 else -1 if value < 0 else 1)
        for (place, (_, value)), p in zip(found.items(), adjusted, strict=True)
    }


def _first(comparisons: Sequence[Comparison]) -> str:
    """Say whether, by ECE, and where."""
    every = [c for c in comparisons if c.measure == "ece"]
    kept = [(c, c.paired) for c in every if c.keeps_accuracy and c.paired]
    lower = [c for c, pair in kept if pair.is_lower]
    higher = [c for c, pair in kept if pair.is_higher]
    loses = [c for c in every if not c.keeps_accuracy]
    if not kept:
        text = (
            "The question stays open here: in no setting does a large R of two seeds or more come "
            "within 2 points of the best validation accuracy"
        )
    else:
        verdict = (
            "Yes, by ECE" if len(lower) == len(kept)
            else "Not in general, by ECE" if lower and higher
            else "In some settings, by ECE" if lower
            else "No, by ECE" if higher
            else "Not shown, by ECE"
        )  # fmt: skip
        text = (
            f"{verdict}: of {count(len(kept), 'setting')} where the best R above 1 loses at most 2 "
            f"points of validation accuracy, its ECE is lower than that of the best R of at most 1 "
            f"in {_named(lower)}, higher in {_named(higher)}, and undecided in "
            f"{len(kept) - len(lower) - len(higher)}"
        )
    return f"{text}{f'; it loses more in {_named(loses)}' * bool(loses)}."


def _second(comparisons: Sequence[Comparison]) -> str:
    """Say by which measures: the best of small against the best of large R, and along R."""
    kept = [c for c in comparisons if c.keeps_accuracy]
    signs, along = clear(kept), trends(kept)
    if not signs:
        return "By no measure can R be compared where the large one keeps the accuracy."
    lower, higher, neither = _by_sign(kept, signs)
    text = (
        f"By measure, over all {len(signs)} comparisons together where the large R keeps the "
        f"accuracy (paired t at 5 %, Holm), the large R is lower in {lower}; higher in {higher}; "
        f"undecided in {neither}"
    )
    if along:
        lower, higher, neither = _by_sign(kept, along)
        text += (
            f"; along every R that keeps it (rank correlation, seeds as blocks, Holm), larger R "
            f"goes with less {lower}; with more {higher}; undecided in {neither}"
        )
    return f"{text}."


def _by_sign(comparisons: Sequence[Comparison], signs: Mapping[int, int]) -> tuple[str, str, str]:
    """Return the measures that are lower, higher and neither, each with in how many settings."""
    words: dict[int, list[str]] = {-1: [], 1: [], 0: []}
    for measure, name in MEASURES.items():
        found = [signs[i] for i, c in enumerate(comparisons) if c.measure == measure and i in signs]
        for sign in (-1, 1):
            if sign in found:
                words[sign].append(f"{name} ({found.count(sign)} of {len(found)})")
        if found and not any(found):
            words[0].append(name)
    lower, higher, neither = (", ".join(words[sign]) or "none" for sign in (-1, 1, 0))
    return lower, higher, neither


def _third(comparisons: Sequence[Comparison], slowed: Sequence[Slowed]) -> str:
    """Say what else could explain it: chance in MCE, less learning, and temperature scaling."""
    parts = []
    mce = [c for c in comparisons if c.measure == "mce" and c.is_in_null_band is not None]
    if mce:
        inside = sum(bool(c.is_in_null_band) for c in mce)
        parts.append(
            f"in {inside} of {len(mce)} settings no run's MCE can be told from that of a perfectly "
            f"calibrated model"
        )
    else:
        parts.append("what MCE a perfectly calibrated model would show was not measured")
    if slowed:
        lower = sum(ece_of(found.large) < ece_of(found.small) for found in slowed)
        parts.append(
            f"beside a small R whose lr makes it no more accurate, the large R has the lower ECE "
            f"in {lower} of {len(slowed)}"
        )
    scaled = [c for c in comparisons if c.measure == "ece" and c.recalibrated is not None]
    if scaled:
        beaten = sum((c.recalibrated or 0.0) < ece_of(c.large) for c in scaled)
        parts.append(
            f"after temperature scaling the small R has a lower ECE than the large one in {beaten} "
            f"of {len(scaled)}{_cost(scaled)}"
        )
    else:
        parts.append("temperature scaling, which a large R must beat, was not among the runs")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def ece_of(point: Point) -> float:
    """Return the mean test ECE, a fraction."""
    return point.mean("test/ece") or 0.0


def setting_of(found: Comparison) -> str:
    """Return data set and epsilon."""
    return f"{found.data} at epsilon {stated(found.eps or 0.0)}"


def _named(found: Sequence[Comparison]) -> str:
    return f"{len(found)}{f' ({_list(found)})' * bool(found)}"


def _list(found: Sequence[Comparison]) -> str:
    return ", ".join(setting_of(c) for c in found)


def _cost(scaled: Sequence[Comparison]) -> str:
    """Return what the scalings added to epsilon at most."""
    totals = [(c.recalibrated_epsilon or math.inf, c.eps or 0.0) for c in scaled]
    if any(math.isinf(total) for total, _ in totals):
        return ", some fitted without noise"
    more = max(total - eps for total, eps in totals)
    return f", for at most {stated(more)} more of epsilon"
