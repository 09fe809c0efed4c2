"""The numbers that the answer rests on: a row a setting, the small R beside the large one."""

import math

from dpexp.accounting.stated import stated
from dpexp.report.claims.judging import percent
from dpexp.report.contents import Answer, Comparison, Slowed
from dpexp.report.groups import Point
from dpexp.report.sentences import ece_of, setting_of
from dpexp.report.words import count

COLUMNS = (
    "setting",
    "best R of at most 1",
    "best R above 1",
    "ECE, second less first (points)",
    "large R beside a small R that is no more accurate",
    "first after temperature scaling",
)
NOTE = (
    "Each cell of an R: test accuracy, then ECE, means over seeds. Differences with their 95 % "
    "interval, paired by seed. No more accurate: of the longest runs at several learning rates, "
    "the best large R beside the best small R that is not above it on validation, slowed by its "
    "lr; shorter runs where the lr was searched on them. Scaled: ECE, and epsilon of training and "
    "scaling together."
)


def answer_rows(answer: Answer) -> list[tuple[str, ...]]:
    """Return a cell for each of `COLUMNS`, a row for each grid that was compared."""
    return [
        (
            setting_of(found),
            _side(found.small),
            _side(found.large),
            _difference(found),
            _slowed(found, answer),
            _scaled(found),
        )
        for found in answer.comparisons
        if found.measure == "ece"
    ]


def _side(point: Point, *, with_lr: bool = False) -> str:
    lr = f", lr {point.lr:g}" * with_lr
    accuracy = percent(point.mean("test/accuracy"), 1)
    return f"R {point.clip_norm:g}{lr}: {accuracy}, ECE {percent(ece_of(point), 1)}"


def _difference(found: Comparison) -> str:
    if found.paired is None:
        return "one seed"
    low, middle, high = (100 * x for x in (found.paired.low, found.paired.difference,
                                           found.paired.high))  # fmt: skip
    seeds = count(found.paired.num_seeds, "seed")
    return f"{middle:+.1f} [{low:+.1f}, {high:+.1f}], {seeds}"


def _slowed(found: Comparison, answer: Answer) -> str:
    pair = next((s for s in answer.slowed if _is_of(s, found)), None)
    if pair is None:
        return "-"
    seeds = count(len(pair.small.runs), "seed")
    sides = f"{_side(pair.large, with_lr=True)}; {_side(pair.small, with_lr=True)}"
    return f"{sides} ({count(pair.small.steps, 'step')}, {seeds})"


def _is_of(slowed: Slowed, found: Comparison) -> bool:
    run = slowed.small.first
    return (run.data, run.model, slowed.eps) == (found.data, found.model, found.eps)


def _scaled(found: Comparison) -> str:
    if found.recalibrated is None:
        return "-"
    epsilon = found.recalibrated_epsilon
    is_private = epsilon is not None and not math.isinf(epsilon)
    cost = f"epsilon {stated(epsilon)}" if is_private and epsilon else "no guarantee"
    return f"{percent(found.recalibrated, 1)} ({cost})"
