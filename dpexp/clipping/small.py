"""Small gradients of many parameters, measured and summed side by side.

Each alone would cost its calls, not its arithmetic: a network has a hundred biases and scales, and
its groups have as many norms.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dpexp.clipping.per_sample import Dense, accumulation_dtype

# Parameters of at most this many numbers.
SMALL_NUMBERS = 4096


@dataclass(frozen=True)
class SideBySide:
    """The small gradients of several groups.

    Attributes:
        params: The parameters, group by group.
        sizes: Numbers of each group, 0 for one that has none.
        grads: g_n of all, shape (n, sum of sizes).
    """

    params: tuple[nn.Parameter, ...]
    sizes: tuple[int, ...]
    grads: Tensor

    @classmethod
    def of(cls, groups: Sequence[dict[nn.Parameter, Dense]]) -> "SideBySide | None":
        """Lay out the small gradients of each group; None if there are none."""
        params = tuple(param for group in groups for param in group)
        if not params:
            return None
        flat = [d.grads.reshape(d.num_samples, -1) for group in groups for d in group.values()]
        sizes = tuple(sum(param.numel() for param in group) for group in groups)
        return cls(params, sizes, torch.cat(flat, 1) if len(flat) > 1 else flat[0])

    def squared_norms(self) -> list[Tensor | None]:
        """Return |g_n|^2 of each group, shape (n,), in float32 or wider; None where it has none."""
        squares = self.grads.to(accumulation_dtype(self.grads)).square()
        pieces = zip(self.sizes, squares.split(self.sizes, 1), strict=True)
        return [piece.sum(1) if size else None for size, piece in pieces]

    def clipped_sums(
        self, weights: Tensor, dropped: Tensor, *, has_dropped: bool
    ) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Yield sum_n C_n g_n of each parameter.

        Args:
            weights: C_n of each group, shape (groups, n).
            dropped: Samples that contribute exactly nothing to a group, shape (groups, n).
            has_dropped: Whether there may be one.
        """
        grads = self.grads.to(weights.dtype)
        if has_dropped:
            grads = grads.masked_fill(self._by_number(dropped), 0)
        is_one = len(self.sizes) == 1
        total = weights[0] @ grads if is_one else (self._by_number(weights) * grads).sum(0)
        for param, piece in zip(
            self.params, total.split([p.numel() for p in self.params]), strict=True
        ):
            # A tensor of its own: one that is changed in place is told from the others.
            yield param, piece.clone()

    def _by_number(self, by_group: Tensor) -> Tensor:
        """Return a value of each group and sample for each of its numbers, shape (n, numbers)."""
        sizes = torch.tensor(self.sizes).to(by_group.device, non_blocking=True)
        return by_group.t().repeat_interleave(sizes, 1, output_size=sum(self.sizes))
