"""Epsilon spent so far: what a run may show at every step without computing anything."""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

from dpexp.accounting import pld, rdp, shuffled
from dpexp.accounting.bounds import sound_epsilon
from dpexp.accounting.cache import cached
from dpexp.accounting.isolation import FAILURES
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

    Poisson sampling: the larger of PRV and PLD. Shuffled batches: no amplification.

    Args:
        mechanism: What the run does; its `num_steps` is not read.
        num_steps: Steps taken; 0 has spent nothing.
        delta: In (0, 1).
    """
    if num_steps == 0:
        return 0.0
    sigma, q = mechanism.noise_multiplier, mechanism.sampling_rate
    if mechanism.sampler == "shuffle":
        return shuffled.epsilon(sigma, shuffled.epochs_started(num_steps, q), delta)
    return sound_epsilon(sigma, q, num_steps, delta)


def spent_table(mechanism: Mechanism, delta: float) -> SpentTable:
    """Return the table of a whole run; about a second when not cached.

    Between its ends the bounds are PLD's, or RDP's where PLD is not finite; the last is the sound
    epsilon of the whole run, as reported at its end.
    """
    whole = epsilon_spent(mechanism, mechanism.num_steps, delta)
    marks = _marks(mechanism)
    if mechanism.sampler == "shuffle":
        epsilons = [epsilon_spent(mechanism, k, delta) for k in marks]
        return SpentTable(steps=tuple(marks), epsilons=tuple(epsilons))

    sigma, q = mechanism.noise_multiplier, mechanism.sampling_rate
    inputs = {"sigma": sigma, "q": q, "steps": mechanism.num_steps, "delta": delta, "whole": whole}

    def compute() -> SpentTable:
        return SpentTable(
            steps=tuple(marks), epsilons=tuple(_rising(sigma, q, marks, delta, whole))
        )

    return cached("spent", inputs, compute, SpentTable.from_dict)


def _rising(sigma: float, q: float, marks: list[int], delta: float, whole: float) -> list[float]:
    """Return bounds at the marks, none above the whole run's: fewer steps never cost more."""
    try:
        bounds = pld.epsilons(sigma, q, marks, delta)
    except FAILURES:
        bounds = [rdp.epsilon(sigma, q, k, delta) for k in marks]
    bounds[-1] = whole
    for i in reversed(range(len(bounds) - 1)):
        bounds[i] = min(bounds[i], bounds[i + 1])
    return bounds


def _marks(mechanism: Mechanism) -> list[int]:
    """Return rising step counts up to K: multiples of K / 24, or of an epoch where shuffled."""
    steps = mechanism.num_steps
    if mechanism.sampler == "shuffle":
        epoch = shuffled.batches_per_epoch(mechanism.sampling_rate)
        return [*range(epoch, steps, epoch), steps]
    return sorted({-(-steps * i // NUM_MARKS) for i in range(1, NUM_MARKS + 1)})
