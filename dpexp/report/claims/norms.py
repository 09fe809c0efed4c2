"""A10 and A11: accuracy and calibration at small and large R of one epsilon.

A grid holds, for each R, the runs at the learning rate that validation chose. Which R stands for
the small ones and which for the large is chosen on validation too; the test set only measures.

A11 speaks of models within 2 points of the best accuracy. Where no R above 1 is among them there is
nothing to compare: a lower error of a worse model would not be the claim, and its absence would not
refute it. That is "not testable here", with how far the best of them falls short; whether small R
wins on accuracy is A10's matter. Where large R is the more accurate by more than 2 points the best
small R stands against it all the same: a lower error at large R is then not bought with accuracy.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dpexp.claims import Outcome, Verdict
from dpexp.report.claims.judging import (
    Part,
    clipping_of,
    percent,
    points,
    repeat,
    spread,
    untestable,
)
from dpexp.report.groups import SELECTED_BY, Grid, Point, best_of
from dpexp.report.statistics import Paired, holm, paired

SMALL_UP_TO = 1.0  # R
MATCHED = 0.02  # of accuracy: models within it of the best are compared
SMALL_RANGE, LARGE = (0.1, 1.0), 100.0  # R of A10
MARGIN = 0.002  # of accuracy, A10


@dataclass(frozen=True)
class Match:
    """The best small and the best large R of a grid.

    Attributes:
        small: Of R at most 1, by validation accuracy.
        large: Of R above 1.
        accurate: Every R within 2 points of the best validation accuracy, ascending.
    """

    small: Point
    large: Point
    accurate: tuple[Point, ...]

    @property
    def keeps_accuracy(self) -> bool:
        """Whether the large R is among the accurate."""
        return self.large in self.accurate

    @property
    def shortfall(self) -> str:
        """Why they cannot be compared where the large R is not, in words."""
        gap = 100 * (accuracy_of(self.small) - accuracy_of(self.large))
        return (
            f"the best R above 1, R {self.large.clip_norm:g}, is {gap:.1f} points below R "
            f"{self.small.clip_norm:g} in validation accuracy "
            f"({percent(accuracy_of(self.small), 1)}), and the claim is of models within 2"
        )


def is_about_norms(grid: Grid) -> bool:
    """Return whether a grid of classifiers varies R of flat clipping at an epsilon that bounds."""
    clipping = clipping_of(grid.final[0])
    is_ordinary = clipping["function"] == "abadi" and clipping["style"] == "flat"
    has_epsilon = grid.eps is not None and math.isfinite(grid.eps)
    has_epsilon &= all(point.first.has_guarantee for point in grid.final)
    classifies = any(point.values("test/accuracy") for point in grid.final)
    is_alone = clipping["tail_norm"] is None and len(grid.norms) > 1
    return is_ordinary and has_epsilon and classifies and is_alone


def match(grid: Grid) -> Match | str:
    """Return the best of small and of large R, or why there is no such pair."""
    learned = [
        point
        for point in grid.chosen.values()
        if point.mean(SELECTED_BY) is not None and not point.num_diverged
    ]
    small = [point for point in learned if point.clip_norm <= SMALL_UP_TO]
    large = [point for point in learned if point.clip_norm > SMALL_UP_TO]
    if not any(point.mean(SELECTED_BY) is not None for point in grid.chosen.values()):
        return (
            "no run has a validation part (dataset.validation) to choose R on, and choosing on the "
            "test set would flatter"
        )
    if not small or not large:
        return f"no run at R {'above' if small else 'of at most'} 1 that did not diverge"
    best = max(accuracy_of(point) for point in learned)
    accurate = tuple(point for point in learned if accuracy_of(point) >= best - MATCHED)
    # Those that are accurate come first in validation accuracy, if there are any.
    return Match(small=best_of(small), large=best_of(large), accurate=accurate)


def accuracy_of(point: Point) -> float:
    """Return the validation accuracy that R and lr are chosen by; 0 without one."""
    return point.mean(SELECTED_BY) or 0.0


def judge_accuracy(grids: Sequence[Grid]) -> Iterator[Part]:
    """Yield the verdict on A10 for each grid over R."""
    for grid in filter(is_about_norms, grids):
        yield grid.label, _accuracy(grid)


def judge_measure(grids: Sequence[Grid], claim: str, measure: str) -> Iterator[Part]:
    """Yield the verdict on A11a (mce) or A11b (ece) for each grid over R."""
    for grid in filter(is_about_norms, grids):
        yield grid.label, _measure(grid, claim, measure)


def lower_pairs(compared: Sequence[Point], key: str) -> tuple[int, int, int]:
    """Return how many pairs of a small and a large R there are, and how many are lower and higher.

    At 5 % over all pairs together: Holm's adjustment of the paired t test.
    """
    found: list[Paired] = []
    for small in (p for p in compared if p.clip_norm <= SMALL_UP_TO):
        for large in (p for p in compared if p.clip_norm > SMALL_UP_TO):
            pair = paired(small.values(key), large.values(key))
            found += [pair] if pair else []
    adjusted = holm([pair.p_t for pair in found])
    clear = [pair for pair, p in zip(found, adjusted, strict=True) if p < 0.05]
    lower = sum(pair.difference < 0 for pair in clear)
    return len(found), lower, len(clear) - lower


def _accuracy(grid: Grid) -> Verdict:
    chosen = grid.chosen
    low, high = SMALL_RANGE
    small = [p for norm, p in chosen.items() if low <= norm <= high and _is_selectable(p)]
    large = chosen.get(LARGE)
    if not small or large is None:
        lacking = "R 100" if small else "R from 0.1 to 1 with a validation accuracy"
        return untestable("A10", f"the grid holds no {lacking}")
    best = best_of(small)
    found = paired(best.values("test/accuracy"), large.values("test/accuracy"))
    if found is None:
        return untestable("A10", f"{_shared(best, large)}; a paired interval needs two")
    is_met = found.difference <= MARGIN
    is_beyond = found.high <= MARGIN if is_met else found.low > MARGIN
    outcome: Outcome = "reproduced" if is_met else "not reproduced"
    diverged = f" ({large.num_diverged} diverged, counted as guessing)" * bool(large.num_diverged)
    return Verdict(
        claim="A10",
        outcome=outcome,
        ours=(
            f"accuracy {percent(found.first)} at R {best.clip_norm:g}, {percent(found.second)} at "
            f"R 100{diverged}: {spread(found)}"
        ),
        value=100 * found.difference,
        interval=(100 * found.low, 100 * found.high),
        reason=_unsettled(found) if found.is_constant or not is_beyond else "",
        command=repeat((best, large)),
    )  # fmt: skip


def _measure(grid: Grid, claim: str, measure: str) -> Verdict:
    pair = match(grid)
    if isinstance(pair, str):
        return untestable(claim, pair)
    if not pair.keeps_accuracy:
        return untestable(claim, pair.shortfall)
    key = f"test/{measure}"
    found = paired(pair.small.values(key), pair.large.values(key))
    if found is None:
        return untestable(claim, f"{_shared(pair.small, pair.large)}; a paired interval needs two")
    compared = {point.clip_norm: point for point in (*pair.accurate, pair.small)}
    num_pairs, lower, higher = lower_pairs([*compared.values()], key)
    outcome: Outcome = "reproduced" if found.is_lower else "not reproduced"
    accuracies = (pair.small.mean("test/accuracy"), pair.large.mean("test/accuracy"))
    reason = "" if found.is_lower else (
        f"it is higher at R {pair.large.clip_norm:g}" if found.is_higher
        else "all differences are equal, which tells nothing of their spread" if found.is_constant
        else f"the interval holds 0, so {found.num_seeds} seeds neither show nor refute it"
    )  # fmt: skip
    return Verdict(
        claim=claim,
        outcome=outcome,
        ours=(
            f"{measure.upper()} {percent(found.first)} at R {pair.small.clip_norm:g}, "
            f"{percent(found.second)} at R {pair.large.clip_norm:g} (accuracy "
            f"{percent(accuracies[0])} and {percent(accuracies[1])}): {spread(found)}; of "
            f"{num_pairs} pairs of a small and a large R {lower} lower and {higher} higher "
            f"(paired t, Holm)"
        ),
        value=100 * found.difference,
        interval=(100 * found.low, 100 * found.high),
        reason=reason,
        command=repeat((pair.small, pair.large)),
    )


def _unsettled(found: Paired) -> str:
    why = (
        "all differences are equal, which tells nothing of their spread" if found.is_constant
        else f"the interval holds the margin of {points(MARGIN, 1)} points"
    )  # fmt: skip
    return f"{why}, so {found.num_seeds} seeds do not settle it; the mean decides"


def _is_selectable(point: Point) -> bool:
    return point.mean(SELECTED_BY) is not None or bool(point.num_diverged)


def _shared(first: Point, second: Point) -> str:
    shared = len(set(first.seeds) & set(second.seeds))
    return (
        f"R {first.clip_norm:g} and R {second.clip_norm:g} share {shared} seed{'s' * (shared != 1)}"
    )
