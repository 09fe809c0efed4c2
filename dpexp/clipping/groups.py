"""Groups of parameters that share one norm, filled in the course of a backward pass.

A group is complete once every use of its parameters has been reached. Then its samples' norms are
known, and its clipped sum can be taken and its tensors freed; with flat clipping that is once, at
the end, and with the other styles as the backward pass goes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dpexp.clipping.per_sample import Dense, PerSampleGrad, Summed
from dpexp.clipping.small import SMALL_NUMBERS, SideBySide

# Numbers that complete groups may hold together while they wait: 2^20 are 4 MiB of float32.
WAITING_NUMBERS = 2**20


@dataclass(eq=False)
class Group:
    """Parameters that are clipped together, in one backward pass.

    Attributes:
        uses_left: For each parameter, the uses that the backward pass has yet to reach.
        is_kept: Whether gradients are held for the clipped sum, or dropped once measured.
        terms: For each parameter, what has been handed over and not yet measured.
        small: Small gradients that wait to be measured with others.
        held: For each parameter, what has been measured and waits for the factors.
        squared_norms: Sum over measured parameters, shape (n,); None before the first.
        num_left: Parameters that have uses left.
    """

    uses_left: dict[nn.Parameter, int]
    is_kept: bool
    terms: dict[nn.Parameter, list[PerSampleGrad]] = field(default_factory=dict)
    small: dict[nn.Parameter, Dense] = field(default_factory=dict)
    held: dict[nn.Parameter, PerSampleGrad] = field(default_factory=dict)
    squared_norms: Tensor | None = None
    num_left: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_left = len(self.uses_left)

    def add(self, param: nn.Parameter, grad: PerSampleGrad, workspace: int) -> None:
        """Take one use's gradients; measure the parameter if it was its last use."""
        self.terms.setdefault(param, []).append(grad)
        self.uses_left[param] -= 1
        if self.uses_left[param]:
            return
        terms = self.terms.pop(param)
        total = (terms[0] if len(terms) == 1 else Summed(tuple(terms))).compact()
        self.num_left -= 1
        if type(total) is Dense and param.numel() <= SMALL_NUMBERS:
            self.small[param] = total
            return
        self.count(total.squared_norms(workspace))
        if self.is_kept:
            self.held[param] = total

    def count(self, squares: Tensor) -> None:
        """Add to the squared norms."""
        self.squared_norms = squares if self.squared_norms is None else self.squared_norms + squares

    @property
    def is_complete(self) -> bool:
        """Whether every use has been reached."""
        return self.num_left == 0

    @property
    def norms(self) -> Tensor:
        """|g_n| over the group, shape (n,); of a complete group, its small gradients counted."""
        assert self.squared_norms is not None
        return self.squared_norms.sqrt()

    def clipped_sums(
        self, weights: Tensor, dropped: Tensor, *, has_dropped: bool
    ) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Yield sum_n C_n g_n of each parameter but the small, freeing what was held for it.

        Args:
            weights: C_n, shape (n,).
            dropped: Samples that contribute exactly nothing, whatever they hold, shape (n,).
            has_dropped: Whether there may be one.
        """
        for param in list(self.held):
            grad = self.held.pop(param)
            if has_dropped:
                grad = grad.zero_where(dropped)
            yield param, grad.weighted_sum(weights)


class Waiting:
    """Complete groups that wait for each other, so that their factors are had at one stroke.

    A group that holds fewer numbers than its gradients waits to the end: its sums would take more
    memory than it does. So do small gradients: there are many, and they are quick together.
    """

    def __init__(self) -> None:
        self._small: list[Group] = []
        self._large: list[Group] = []
        self._num_held = 0

    def after(self, group: Group) -> list[Group]:
        """Take a complete group; return those that are to be clipped now."""
        num_held = sum(grad.num_held for grad in group.held.values())
        if not group.held or num_held < sum(param.numel() for param in group.held):
            self._small.append(group)
            return []
        self._large.append(group)
        self._num_held += num_held
        if self._num_held <= WAITING_NUMBERS:
            return []
        ready, self._large, self._num_held = self._large, [], 0
        return ready

    def rest(self) -> list[Group]:
        """Return those that still wait, at the end."""
        return self._large + self._small


def count_small(groups: list[Group]) -> SideBySide | None:
    """Add the small gradients of complete groups to their norms; return them for their sums."""
    small = SideBySide.of([group.small for group in groups])
    if small is not None:
        for group, squares in zip(groups, small.squared_norms(), strict=True):
            group.small = {}
            if squares is not None:
                group.count(squares)
    return small


def may_have(dropped: Tensor) -> bool:
    """Return whether a sample may be dropped, without waiting for a device that runs ahead."""
    return dropped.device.type != "cpu" or bool(dropped.any())


def total_norms(groups: list[Group], like: Tensor) -> Tensor:
    """Return |g_n| over all groups, shape (n,)."""
    squares = [g.squared_norms for g in groups if g.squared_norms is not None]
    return torch.stack(squares).sum(0).sqrt() if squares else torch.zeros_like(like)
