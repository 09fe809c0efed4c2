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

# Gradients of at most this many numbers a sample are measured and summed together with others: each
# alone would cost its calls, not its arithmetic.
SMALL_NUMBERS = 4096

# Numbers that complete groups may hold together while they wait: 2^20 are 4 MiB of float32.
WAITING_NUMBERS = 2**20


@dataclass(eq=False)
class Group:
    """Parameters that are clipped together, in one backward pass.

    Attributes:
        uses_left: For each parameter, the uses that the backward pass has yet to reach.
        is_kept: Whether gradients are held for the clipped sum, or dropped once measured.
        terms: For each parameter, what has been handed over and not yet measured.
        small: Small gradients that wait to be measured together.
        held: What has been measured and waits for the factors, each of one parameter or of several
            side by side.
        squared_norms: Sum over measured parameters, shape (n,); None before the first.
        num_left: Parameters that have uses left.
    """

    uses_left: dict[nn.Parameter, int]
    is_kept: bool
    terms: dict[nn.Parameter, list[PerSampleGrad]] = field(default_factory=dict)
    small: dict[nn.Parameter, Dense] = field(default_factory=dict)
    held: list[tuple[tuple[nn.Parameter, ...], PerSampleGrad]] = field(default_factory=list)
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
        if isinstance(total, Dense) and param.numel() <= SMALL_NUMBERS:
            self.small[param] = total
        else:
            self._measure((param,), total, workspace)
        if self.is_complete and self.small:
            params, grads = tuple(self.small), list(self.small.values())
            self.small = {}
            self._measure(params, grads[0] if len(grads) == 1 else side_by_side(grads), workspace)

    def _measure(
        self, params: tuple[nn.Parameter, ...], grad: PerSampleGrad, workspace: int
    ) -> None:
        squares = grad.squared_norms(workspace)
        self.squared_norms = squares if self.squared_norms is None else self.squared_norms + squares
        if self.is_kept:
            self.held.append((params, grad))

    @property
    def is_complete(self) -> bool:
        """Whether every use has been reached."""
        return self.num_left == 0

    @property
    def norms(self) -> Tensor:
        """|g_n| over the group, shape (n,); of a complete group."""
        assert self.squared_norms is not None
        return self.squared_norms.sqrt()

    def clipped_sums(
        self, weights: Tensor, dropped: Tensor, *, has_dropped: bool
    ) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Yield sum_n C_n g_n of each parameter, freeing what was held for it.

        Args:
            weights: C_n, shape (n,).
            dropped: Samples that contribute exactly nothing, whatever they hold, shape (n,).
            has_dropped: Whether there may be one.
        """
        self.held.reverse()
        while self.held:
            params, grad = self.held.pop()
            if has_dropped:
                grad = grad.zero_where(dropped)
            total = grad.weighted_sum(weights)
            if len(params) == 1:
                yield params[0], total
                continue
            pieces = total.split([param.numel() for param in params])
            for param, piece in zip(params, pieces, strict=True):
                # A tensor of its own: one that is changed in place is told from the others.
                yield param, piece.clone()


class Waiting:
    """Complete groups that wait for each other, so that their factors are had at one stroke.

    A group that holds fewer numbers than its gradients waits to the end: its sums would take more
    memory than it does.
    """

    def __init__(self) -> None:
        self._small: list[Group] = []
        self._large: list[Group] = []
        self._num_held = 0

    def after(self, group: Group) -> list[Group]:
        """Take a complete group; return those that are to be clipped now."""
        num_held = sum(grad.num_held for _, grad in group.held)
        if num_held < sum(param.numel() for params, _ in group.held for param in params):
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


def side_by_side(grads: list[Dense]) -> Dense:
    """Return the gradients of several tensors as those of one vector."""
    return Dense(torch.cat([g.grads.reshape(g.num_samples, -1) for g in grads], 1))


def may_have(dropped: Tensor) -> bool:
    """Return whether a sample may be dropped, without waiting for a device that runs ahead."""
    return dropped.device.type != "cpu" or bool(dropped.any())


def total_norms(groups: list[Group], like: Tensor) -> Tensor:
    """Return |g_n| over all groups, shape (n,)."""
    squares = [g.squared_norms for g in groups if g.squared_norms is not None]
    return torch.stack(squares).sum(0).sqrt() if squares else torch.zeros_like(like)
