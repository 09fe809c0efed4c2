"""Which way each product of matrices is taken: by the paper's rule, or by what was measured.

Letters, here and in the rules: T positions an operation is shared over, D inputs of its weight
(times the kernel), p outputs. A weight gradient of sample n is G_n^T U_n, with U_n (T, D) and
G_n (T, p). Two things are wanted of it: its norm, and later, once the clip factors are known, its
share of a weighted sum. For each there are several ways, all exact.

A gradient that is instantiated for its norm may be kept for the sum, which is then nearly free. It
holds D p numbers in place of the pair (U, G), which may be more or fewer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from dpexp.config import Algorithm, Plan

KEPT = "kept"
NOMINAL_SPEED = 2e10  # multiply-adds a second, to compare what is counted with what is measured
# Held numbers may exceed those of the pairs (U, G) by this share: with it, peak memory of a vision
# transformer stays within 1.1 times ordinary training.
BALANCED_SLACK = 0.07
# Likewise for one gradient that is held for a moment, where groups are clipped as they come.
MOMENTARY_SLACK = 0.25


class Way(NamedTuple):
    """How one product is taken.

    Attributes:
        norm: A key of `Problem.norms`.
        sum: A key of `Problem.sums`; or KEPT, if the gradients instantiated for the norm are held.
    """

    norm: str
    sum: str


class NormWay(NamedTuple):
    """One way to take a norm.

    Attributes:
        name: Begins with "instantiate" if it forms the gradient.
        operations: Multiply-adds a sample.
        num_held: Numbers that it holds at once for one sample.
    """

    name: str
    operations: int
    num_held: int


@dataclass(frozen=True)
class Problem:
    """What a plan is keyed by: one product, by its shapes for one sample.

    Attributes:
        name: The operation with its options.
        positions: T.
        inputs: D.
        outputs: p.
        num_held: Numbers that the pair (U, G) of one sample takes.
        norms: The ways to take the norm.
        sums: The ways to take the weighted sum, each with its multiply-adds a sample; the first is
            what ordinary training does.
        num_gradient: Numbers of one sample's gradient.
    """

    name: str
    positions: int
    inputs: int
    outputs: int
    num_held: int
    norms: tuple[NormWay, ...]
    sums: tuple[tuple[str, int], ...]
    num_gradient: int

    @cached_property
    def key(self) -> str:
        """Name the problem, for the plan's file."""
        return f"{self.name} T={self.positions} D={self.inputs} p={self.outputs}"

    def within(self, workspace: int) -> list[NormWay]:
        """Return the ways that fit a workspace, in numbers; if none does, the least of them."""
        fitting = [way for way in self.norms if way.num_held <= workspace]
        return fitting or [min(self.norms, key=lambda way: way.num_held)]

    @property
    def has_choice(self) -> bool:
        """Whether there is more than one way worth a thought: one position leaves none."""
        return self.positions > 1 or len(self.sums) > 1

    @property
    def saves(self) -> bool:
        """Whether a kept gradient holds no more numbers than the pair."""
        return self.num_gradient <= self.num_held


class Costs(NamedTuple):
    """What each way of a problem costs a sample: seconds, or multiply-adds.

    Attributes:
        norms: Of each way to take the norm.
        sums: Of each way to take the weighted sum.
        kept: Of norm and sum together, for each way that forms the gradient and keeps it.
    """

    norms: dict[str, float]
    sums: dict[str, float]
    kept: dict[str, float]

    def apart(self) -> tuple[float, Way]:
        """Return the cheapest way that holds the pair, and its cost."""
        norm = min(self.norms, key=self.norms.__getitem__)
        total = min(self.sums, key=self.sums.__getitem__)
        return self.norms[norm] + self.sums[total], Way(norm, total)

    def together(self) -> tuple[float, Way] | None:
        """Return the cheapest way that keeps the gradient, and its cost."""
        if not self.kept:
            return None
        norm = min(self.kept, key=self.kept.__getitem__)
        return self.kept[norm], Way(norm, KEPT)


# Problem -> the way to take it.
ChooseWay = Callable[[Problem], Way]


def is_instantiating(norm: str) -> bool:
    """Return whether a way to take a norm forms the gradient itself."""
    return norm.startswith("instantiate")


def counted(problem: Problem, workspace: int) -> Costs:
    """Return the costs of a problem by its multiply-adds, in seconds at a nominal speed.

    Args:
        problem: The problem.
        workspace: Numbers that one norm may hold at once.
    """
    ways = problem.within(workspace)
    norms = {way.name: way.operations / NOMINAL_SPEED for way in ways}
    sums = {name: count / NOMINAL_SPEED for name, count in problem.sums}
    once = problem.num_gradient / NOMINAL_SPEED
    kept = {name: cost + once for name, cost in norms.items() if is_instantiating(name)}
    return Costs(norms, sums, kept)


def always_ghost(problem: Problem) -> Way:
    """Take every norm from Gram matrices: |G^T U|^2 = <U U^T, G G^T>."""
    return Way("ghost", problem.sums[0][0])


def always_instantiate(problem: Problem) -> Way:
    """Take every norm from the per-sample gradient; keep it where it is smaller than the pair."""
    return Way("instantiate", KEPT if problem.saves else problem.sums[0][0])


def paper_rule(problem: Problem) -> Way:
    """Take the way that holds fewer numbers at once: ghost where 2 T^2 <= p D.

    Source: Bu, Mao & Xu 2022, arXiv:2205.10683, Section 4 (mixed ghost clipping).
    """
    is_ghost = 2 * problem.positions**2 <= problem.inputs * problem.outputs
    return always_ghost(problem) if is_ghost else always_instantiate(problem)


def cheapest(problem: Problem, costs: Costs) -> Way:
    """Return the way of least cost that holds no more than the pair."""
    apart, together = costs.apart(), costs.together()
    if together is not None and problem.saves and together[0] <= apart[0]:
        return together[1]
    return apart[1]


def solve(
    costs: Mapping[Problem, Costs], uses: Mapping[Problem, Sequence[str]], slack: float
) -> dict[tuple[str, Problem], Way]:
    """Return the way of each use of each problem: least total cost within a bound on what is held.

    Every problem starts with its cheapest way that holds no more than the pair. Then gradients are
    kept where they are larger too, those that save most for each number first, while the numbers
    held exceed those of all pairs by no more than `slack`.

    Args:
        costs: Of each problem, all in one unit.
        uses: The labels of the uses that pose each problem; the first are the first to be kept.
        slack: Share; infinite for the least cost whatever is held.
    """
    start = {problem: cheapest(problem, each) for problem, each in costs.items()}
    held = {
        problem: problem.num_gradient if way.sum == KEPT else problem.num_held
        for problem, way in start.items()
    }
    pairs = sum(problem.num_held * len(labels) for problem, labels in uses.items())
    left = (1 + slack) * pairs - sum(held[p] * len(uses[p]) for p in costs)
    ways = {(label, problem): way for problem, way in start.items() for label in uses[problem]}
    offers = []
    for problem, each in costs.items():
        together, extra = each.together(), problem.num_gradient - held[problem]
        gain = each.apart()[0] - together[0] if together else 0.0
        if together and extra > 0 and gain > 0:
            offers.append((gain / extra, extra, problem, together[1]))
    for _, extra, problem, way in sorted(offers, key=lambda offer: -offer[0]):
        for label in uses[problem]:
            if extra <= left:
                ways[label, problem] = way
                left -= extra
    return ways


FIXED: dict[Algorithm, ChooseWay] = {
    "ghost": always_ghost,
    "fastgradclip": always_instantiate,
    "instantiate": always_instantiate,
    "mixed_ghost": paper_rule,
}
RULES: dict[Plan, ChooseWay] = {"paper": paper_rule, "memory": paper_rule}
SLACKS: dict[Plan, float] = {"balanced": BALANCED_SLACK, "time": float("inf")}
