"""All that a report holds, in one frozen object: tables, figures and the page are made from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpexp.claims import Claim, Verdict
from dpexp.report.groups import Grid, Point
from dpexp.report.runs import Run
from dpexp.report.statistics import Correlation, Paired

QUESTION = "Does a larger R calibrate better at the same epsilon?"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One claim of the paper and what was found of it.

    Attributes:
        claim: From `dpexp.claims.CLAIMS`.
        verdict: The one of all its parts together: reproduced if every part that could be judged
            was, not reproduced if one was not.
        on: Data set, model and epsilon that it was judged on; empty if it was not testable.
        parts: The verdict on each data set and epsilon, as (on, verdict); empty or several.
    """

    claim: Claim
    verdict: Verdict
    on: str = ""
    parts: tuple[tuple[str, Verdict], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One calibration measure at the best small R against the best large R of one grid.

    Attributes:
        data: Name of the data set.
        model: Name of the network.
        eps: Epsilon of both; None for ordinary training.
        measure: Such as ece; lower is better, but of over- and under-confidence only for their sum.
        small: The point of small R (at most 1) with the best validation accuracy.
        large: The same among R above 1.
        keeps_accuracy: Whether the large R is within 2 points of the best validation accuracy.
        paired: Large minus small, over the seeds that both have; None if either lacks the measure
            or they share fewer than two seeds.
        correlation: Of the measure with R over every R within 2 points of the best validation
            accuracy, each at its chosen lr, seeds as blocks; None below three R.
        is_in_null_band: Of mce: whether every run of both lies below the upper end of what its
            perfectly calibrated twin shows; None if a run holds no band.
        recalibrated: Small R after temperature scaling, mean over seeds: the baseline that a large
            R must beat; None unless every run holds it. With noise where there is such a fit.
        recalibrated_epsilon: Of training and scaling together, the largest over seeds; infinite
            where the scaling was fitted without noise.
    """

    data: str
    model: str
    eps: float | None
    measure: str
    small: Point
    large: Point
    keeps_accuracy: bool
    paired: Paired | None
    correlation: Correlation | None
    is_in_null_band: bool | None = None
    recalibrated: float | None = None
    recalibrated_epsilon: float | None = None


@dataclass(frozen=True, kw_only=True)
class Slowed:
    """A large R beside a small R that is no more accurate, for which it may have a slower lr.

    A less accurate model is often better calibrated, whatever its R; this takes that away.

    Attributes:
        eps: Epsilon that both are reported under.
        large: The R above 1 with the best validation accuracy over R and lr, of the longest runs
            that were made at several lr.
        small: Of R at most 1, over R and lr, the best validation accuracy that is not above that of
            `large`.
    """

    eps: float | None
    large: Point
    small: Point


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the runs say about: does a larger R calibrate better at the same epsilon, and by what?

    Attributes:
        comparisons: By data set, epsilon, then measure; () if no grid holds both small and large R.
        sentences: Three, from the numbers; one that says what is missing if there are none.
        slowed: One a grid that was run at several learning rates.
    """

    comparisons: tuple[Comparison, ...]
    sentences: tuple[str, ...]
    slowed: tuple[Slowed, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A folder or file that was found and not used.

    Attributes:
        name: Of the folder or file, without the path above it.
        reason: Why.
    """

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was read, and what follows.

    Attributes:
        title: Of the page.
        runs: Every run that is used, diverged ones among them.
        points: Runs gathered over seeds, final and search.
        grids: Points gathered over R and lr; a lone point is a grid of one.
        rows: A claim each, in the order of `dpexp.claims.CLAIMS`; () where no run and no theory
            bears on any claim.
        answer: To the open question.
        theory: What theory.json holds; None without one.
        theory_figures: Pictures that lay beside theory.json, by name.
        left_out: What was found and not used.
        notes: What a reader must know: repeated runs, an lr that is not the one chosen.
        command: What makes this report again.
    """

    title: str
    runs: tuple[Run, ...]
    points: tuple[Point, ...]
    grids: tuple[Grid, ...]
    rows: tuple[Row, ...]
    answer: Answer
    theory: Mapping[str, Any] | None
    theory_figures: tuple[Path, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    command: str

    @property
    def bears_on_question(self) -> bool:
        """Whether question and answer belong on the page: runs of another subject have neither."""
        return bool(self.answer.comparisons or self.rows)
