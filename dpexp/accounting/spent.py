"""Epsilon spent so far: what a run may show at every step without computing anything."""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

from dpexp.accounting.cache import cached
from dpexp.accounting.samplers import epsilons, inputs_of
from dpexp.mechanism import Mechanism

NUM_MARKS = 24  # step counts whose epsilon is computed beforehand; between them it is rounded up


@dataclass(frozen=True, kw_only=True)
class SpentTable:
    """Upper bounds on epsilon after a few step counts, rising; the last is the whole run's.

    Attributes:
        steps: Step counts, rising; the last is K.
        epsilons: The bound after each.
    """

    steps: tuple[int, ...]
    epsilons: tuple[float, ...]

    def after(self, num_steps: int) -> float:
        """Return a bound on epsilon after `num_steps` steps: that of the next count in the table.

        Raises:
            ValueError: If the run has no such step; its epsilon is not in the table.
        """
        if not 0 <= num_steps <= self.steps[-1]:
            raise ValueError(
                f"epsilon was asked after {num_steps} steps, but {self.steps[-1]} are accounted "
                f"for; account for the longer run before taking its steps"
            )
        if num_steps == 0:
            return 0.0
        return self.epsilons[bisect_left(self.steps, num_steps)]

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "SpentTable":
        """Build it back from `dataclasses.asdict` after JSON."""
        return cls(steps=tuple(fields["steps"]), epsilons=tuple(fields["epsilons"]))


def epsilon_spent(mechanism: Mechanism, num_steps: int, delta: float) -> float:
    """Return the sound epsilon of the first `num_steps` steps; seconds when not cached.

    By the accountant of the mechanism's own sampler; see `dpexp.accounting.samplers`.

    Args:
        mechanism: What the run does; its `num_steps` is not read.
        num_steps: Steps taken; 0 has spent nothing.
        delta: In (0, 1).
    """
    if num_steps == 0:
        return 0.0
    return epsilons(mechanism, [num_steps], delta)[0]


def spent_table(mechanism: Mechanism, delta: float) -> SpentTable:
    """Return the table of a whole run; about a second when not cached.

    Each entry is a sound bound; the last is the whole run's, as reported at its end.
    """
    inputs = {**inputs_of(mechanism), "delta": delta}
    if mechanism.sampler == "poisson":
        # Cached apart, and better another time where PRV's process was lost.
        inputs["whole"] = epsilon_spent(mechanism, mechanism.num_steps, delta)

    def compute() -> SpentTable:
        marks = _marks(mechanism)
        bounds = epsilons(mechanism, marks, delta)
        for i in reversed(range(len(bounds) - 1)):
            # None above the next: fewer steps never cost more.
            bounds[i] = min(bounds[i], bounds[i + 1])
        return SpentTable(steps=tuple(marks), epsilons=tuple(bounds))

    return cached("spent", inputs, compute, SpentTable.from_dict)


def _marks(mechanism: Mechanism) -> list[int]:
    """Return about 24 rising step counts up to K, at ends of epochs where those count whole."""
    steps, epoch = mechanism.num_steps, mechanism.batches_per_epoch or 1
    num_epochs = -(-steps // epoch)
    ends = {epoch * -(-num_epochs * i // NUM_MARKS) for i in range(1, NUM_MARKS + 1)}
    return sorted(min(end, steps) for end in ends)
