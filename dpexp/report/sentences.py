"""The answer to the open question in words, all from the numbers of its comparisons."""

import math
from collections.abc import Sequence

from dpexp.accounting.stated import stated
from dpexp.report.claims.judging import percent
from dpexp.report.contents import Comparison, Slowed
from dpexp.report.groups import Point
from dpexp.report.statistics import holm

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
    known = [(i, c.paired) for i, c in enumerate(comparisons) if c.paired is not None]
    adjusted = holm([pair.p_t for _, pair in known])
    return {
        i: (0 if p >= 0.05 else -1 if pair.difference < 0 else 1)
        for (i, pair), p in zip(known, adjusted, strict=True)
    }


def _first(comparisons: Sequence[Comparison]) -> str:
    """Say whether, by ECE, setting by setting."""
    every = [c for c in comparisons if c.measure == "ece"]
    matched = [(c, c.paired) for c in every if c.keeps_accuracy and c.paired]
    lower = sum(pair.is_lower for _, pair in matched)
    higher = sum(pair.is_higher for _, pair in matched)
    apart = [c for c in every if not c.keeps_accuracy]
    if not matched:
        text = (
            "The question stays open here: in no setting does a large R of two seeds or more come "
            "within 2 points of the best validation accuracy"
        )
    else:
        verdict = (
            "Yes, by ECE" if lower == len(matched)
            else "Not in general, by ECE" if lower and higher
            else "In some settings, by ECE" if lower
            else "No, by ECE" if higher
            else "Not shown, by ECE"
        )  # fmt: skip
        each = "; ".join(_ece_words(c) for c, _ in matched)
        text = (
            f"{verdict}: where the best R above 1 loses at most 2 points of validation accuracy, "
            f"its ECE is lower than that of the best R of at most 1 in {lower} of {len(matched)} "
            f"settings, higher in {higher}, undecided in {len(matched) - lower - higher} ({each})"
        )
    if apart:
        each = "; ".join(_ece_words(c) for c in apart)
        text += f"; where it loses more: {each}"
    return f"{text}."


def _second(comparisons: Sequence[Comparison]) -> str:
    """Say by which measures."""
    matched = [c for c in comparisons if c.keeps_accuracy]
    signs = clear(matched)
    if not signs:
        return "By no measure can R be compared where the large one keeps the accuracy."
    words: dict[int, list[str]] = {-1: [], 1: [], 0: []}
    for measure, name in MEASURES.items():
        found = [signs[i] for i, c in enumerate(matched) if c.measure == measure and i in signs]
        for sign in (-1, 1):
            if sign in found:
                words[sign].append(f"{name} ({found.count(sign)} of {len(found)})")
        if found and not any(found):
            words[0].append(name)
    lower, higher, neither = (", ".join(words[sign]) or "none" for sign in (-1, 1, 0))
    return (
        f"By measure, over all {len(signs)} comparisons together where the large R keeps "
        f"the accuracy (paired t at 5 %, Holm), the large R is lower in {lower}; higher in "
        f"{higher}; undecided in {neither}."
    )


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
        each = "; ".join(_slowed_words(found) for found in slowed)
        lower = sum(_ece(found.large) < _ece(found.small) for found in slowed)
        parts.append(
            f"a large R has a lower ECE than a small R whose lr makes it no more accurate on "
            f"validation in {lower} of {len(slowed)} ({each})"
        )
    scaled = [c for c in comparisons if c.measure == "ece" and c.recalibrated is not None]
    if scaled:
        each = "; ".join(
            f"{_where(c)}: {percent(c.recalibrated, 1)} ({_cost(c)}) against "
            f"{percent(_ece(c.large), 1)} at R {c.large.clip_norm:g}"
            for c in scaled
        )
        beaten = sum(_ece(c.large) < (c.recalibrated or 0.0) for c in scaled)
        parts.append(
            f"the large R has a lower ECE than the small one after temperature scaling in {beaten} "
            f"of {len(scaled)} ({each})"
        )
    else:
        parts.append("temperature scaling, which a large R must beat, was not among the runs")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _ece(point: Point) -> float:
    return point.mean("test/ece") or 0.0


def _ece_words(found: Comparison) -> str:
    """Return ECE at both R, with the accuracies where they differ, and the interval."""
    sides = []
    for point in (found.large, found.small):
        accuracy = percent(point.mean("test/accuracy"), 1)
        sides.append(f"{percent(_ece(point), 1)} at R {point.clip_norm:g} (accuracy {accuracy})")
    interval = f", {_interval(found)}" if found.paired else ", one seed"
    return f"{_where(found)}: {sides[0]} against {sides[1]}{interval}"


def _slowed_words(found: Slowed) -> str:
    small, large = found.small, found.large
    seeds = len(small.runs)
    return (
        f"{small.first.data} at epsilon {stated(found.eps or 0.0)}, {small.steps:,} steps: "
        f"{percent(_ece(large), 1)} at R {large.clip_norm:g}, lr {large.lr:g}, accuracy "
        f"{percent(large.mean('test/accuracy'), 1)}, against {percent(_ece(small), 1)} at R "
        f"{small.clip_norm:g}, lr {small.lr:g}, accuracy "
        f"{percent(small.mean('test/accuracy'), 1)}, {seeds} seed{'s' * (seeds != 1)}"
    )


def _where(found: Comparison) -> str:
    return f"{found.data} at epsilon {stated(found.eps or 0.0)}"


def _cost(found: Comparison) -> str:
    epsilon = found.recalibrated_epsilon
    if epsilon is None or math.isinf(epsilon):
        return "fitted without noise, no guarantee"
    return f"epsilon {stated(epsilon)} with the scaling"


def _interval(found: Comparison) -> str:
    assert found.paired is not None
    low, middle, high = (100 * x for x in (found.paired.low, found.paired.difference,
                                           found.paired.high))  # fmt: skip
    return f"{middle:+.1f} points [{low:+.1f}, {high:+.1f}] over {found.paired.num_seeds} seeds"
