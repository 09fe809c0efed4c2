"""Which steps of a run have been charged, and how many that makes.

A run that is stopped in its course may repeat steps. Repeated with the same batch, noise, weights
and arithmetic, a step gives the same result again, which tells nothing new and costs nothing.
Otherwise it is another release of the same data, and is charged again. So charges are kept by
attempt: a stretch of steps with randomness of its own, within which a step costs once.
"""

from bisect import bisect_right
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Attempt:
    """A stretch of steps that share one stream of randomness.

    Attributes:
        first: Its first step, from 0.
        to: One past the last step that is charged.
        arithmetic: Digest of what the rounding of its results hangs on; None if they cannot be
            repeated bit by bit.
    """

    first: int
    to: int
    arithmetic: str | None


@dataclass(frozen=True)
class Charges:
    """All attempts of a run, in order.

    Attributes:
        attempts: The last one is being taken.
        batches_per_epoch: T, for samplers that see each sample once an epoch: there an epoch that
            an attempt has touched costs its T steps. None where every step is drawn alone.
    """

    attempts: tuple[Attempt, ...] = ()
    batches_per_epoch: int | None = None

    @property
    def last(self) -> Attempt:
        """The attempt that is being taken."""
        return self.attempts[-1]

    @property
    def num_steps(self) -> int:
        """Steps charged over all attempts: what epsilon is computed from."""
        return sum(self._cost(attempt) for attempt in self.attempts)

    def begin(self, step: int, arithmetic: str | None, *, is_of_last: bool) -> "Charges":
        """Return the charges of a run that goes on at `step`, with a new attempt if it must be.

        Steps that are charged from `step` on may have been taken and seen. They are repeated
        within their attempt only if they come out the same.

        Args:
            step: The next to be taken.
            arithmetic: As in `Attempt`, now.
            is_of_last: Whether the weights are of the last attempt since it has its arithmetic.
        """
        if self.attempts and self.last.first <= step <= self.last.to:
            is_known = arithmetic is not None and arithmetic == self.last.arithmetic
            is_same = is_known and is_of_last
            if step == self.last.to or is_same:
                return self._with_last(replace(self.last, arithmetic=arithmetic))
        return replace(self, attempts=(*self.attempts, Attempt(step, step, arithmetic)))

    def charged_to(self, to: int) -> "Charges":
        """Return the charges with the last attempt's ending at `to`."""
        return self._with_last(replace(self.last, to=to))

    def furthest(self, to: int, budget: int) -> int:
        """Return the furthest step, `to` at most, that may be charged within `budget` steps."""
        start = self.last.to
        ends = range(start + 1, to + 1)
        return start + bisect_right(ends, budget, key=lambda end: self.charged_to(end).num_steps)

    def _with_last(self, attempt: Attempt) -> "Charges":
        return replace(self, attempts=(*self.attempts[:-1], attempt))

    def _cost(self, attempt: Attempt) -> int:
        if self.batches_per_epoch is None or attempt.to == attempt.first:
            return attempt.to - attempt.first
        last_epoch = (attempt.to - 1) // self.batches_per_epoch
        num_epochs = last_epoch - attempt.first // self.batches_per_epoch + 1
        return num_epochs * self.batches_per_epoch
