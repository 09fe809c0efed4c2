"""The plan of one engine: which way every product was and will be taken."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dpexp.clipping.plan import (
    FIXED,
    KEPT,
    MOMENTARY_SLACK,
    RULES,
    SLACKS,
    ChooseWay,
    Costs,
    Problem,
    Way,
    cheapest,
    counted,
    solve,
)
from dpexp.config import Algorithm, Plan, Style
from dpexp.errors import EngineError


class Planner:
    """Chooses a way for each problem that the uses of a model pose, and remembers it.

    Attributes:
        rule: What decides alone, for the paper's algorithms and rule; None where costs decide.
        met: For each use and problem met, the way that was taken.
    """

    def __init__(self, algorithm: Algorithm, plan: Plan, style: Style, workspace: int) -> None:
        self.rule: ChooseWay | None = FIXED.get(algorithm, RULES.get(plan))
        self.met: dict[tuple[str, Problem], Way] = {}
        self._slack = SLACKS.get(plan, 0.0) if style == "flat" else float("inf")
        self._is_flat, self._workspace = style == "flat", workspace
        self._ways: dict[tuple[str, str], Way] = {}
        self._settled: set[Any] = set()
        self._costs: dict[Problem, Costs] = {}

    def choose(self, label: str, problem: Problem) -> Way:
        """Return the way of a problem, of the use with this label."""
        way = self.rule(problem) if self.rule else self._planned(label, problem)
        self.met[label, problem] = way
        return way

    def _planned(self, label: str, problem: Problem) -> Way:
        if not self.has_decided(label, problem):
            return cheapest(problem, counted(problem, self._workspace))
        return self._ways[label, problem.key]

    def has_decided(self, label: str, problem: Problem) -> bool:
        """Return whether the way of a problem, of the use with this label, is settled."""
        return (label, problem.key) in self._ways

    def is_settled(self, key: Any) -> bool:
        """Return whether the model's calls with this key need no more measuring."""
        return self.rule is not None or key in self._settled

    def settle(
        self,
        key: Any,
        costs: Mapping[Problem, Costs],
        uses: Mapping[Problem, Sequence[str]],
    ) -> None:
        """Decide the ways of all problems of a call; those decided before stay as they are.

        Args:
            key: Of the call.
            costs: Of each problem, seconds a sample.
            uses: Labels of the uses that pose each problem.
        """
        self._costs |= costs
        if not self._is_flat:
            # Nothing waits for other groups' norms: a gradient is held for a moment, if it fits.
            pairs = sum(problem.num_held * len(labels) for problem, labels in uses.items())
            costs = {
                problem: each
                if problem.num_gradient <= problem.num_held + MOMENTARY_SLACK * pairs
                else _apart(each)
                for problem, each in costs.items()
            }
        for (label, problem), way in solve(costs, uses, self._slack).items():
            self._ways.setdefault((label, problem.key), way)
        self._settled.add(key)

    def rows(self, *, is_full: bool = False) -> list[dict[str, Any]]:
        """Return which way each product was taken, for every use and shape met so far.

        Args:
            is_full: Whether to say also what it costs: `operations`, multiply-adds of the norm a
                sample, and `seconds`, of every way a sample, None where costs did not decide.
        """
        return [
            {
                "use": label, "problem": problem.key, "positions": problem.positions,
                "inputs": problem.inputs, "outputs": problem.outputs, "norm": way.norm,
                "sum": way.sum, "numbers_held": problem.num_gradient if way.sum == KEPT
                else problem.num_held, **(self._costs_of(problem, way) if is_full else {}),
            }
            for (label, problem), way in self.met.items()
        ]  # fmt: skip

    def _costs_of(self, problem: Problem, way: Way) -> dict[str, Any]:
        operations = {norm.name: norm.operations for norm in problem.norms}
        costs = self._costs.get(problem)
        return {
            "operations": operations[way.norm],
            "seconds": costs._asdict() if costs else None,
        }

    def load(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take every problem as a run did before, so that its numbers come out the same.

        Raises:
            EngineError: If a row does not say use, problem, norm and sum.
        """
        for row in rows:
            try:
                self._ways[row["use"], row["problem"]] = Way(row["norm"], row["sum"])
            except (KeyError, TypeError) as error:
                raise EngineError(
                    f"the plan has a row without {error}: it is damaged, or of another version of "
                    f"dpexp, and sums would round in another way than before. Delete plan.json to "
                    f"go on with a new plan"
                ) from None


def _apart(costs: Costs) -> Costs:
    return costs._replace(kept={})
