"""Embedding: y_t = W[i_t]. The gradient of row v is the sum of G_t over positions with i_t = v."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, einsum
from torch.nn import functional as F

from dpexp.clipping.per_sample import PerSampleGrad, accumulation_dtype, chunks, zero_rows
from dpexp.clipping.plan import ChooseWay
from dpexp.clipping.rules.rule import Bound, Kind, SampleAxes
from dpexp.errors import CrossSampleError


@dataclass(frozen=True)
class Rows:
    """Gradients of a table, held as the rows taken and the gradients that came back.

    Attributes:
        index: Rows taken, shape (n, t).
        grad_y: Output gradients G, shape (n, t, d); zero at padding.
        num_rows: Rows of the table.
    """

    index: Tensor
    grad_y: Tensor
    num_rows: int

    @property
    def num_samples(self) -> int:
        return self.index.shape[0]

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.num_rows, self.grad_y.shape[2]))

    @property
    def num_held(self) -> int:
        return self.grad_y.numel()

    def per_sample(self, rows: slice) -> Tensor:
        grad_y = self.grad_y[rows].to(accumulation_dtype(self.grad_y))
        n, t, d = grad_y.shape
        table = grad_y.new_zeros(n, self.num_rows, d)
        return table.scatter_add_(1, self.index[rows, :, None].expand(n, t, d), grad_y)

    def compact(self) -> PerSampleGrad:
        return self

    def squared_norms(self, workspace: int) -> Tensor:
        """Return sum over pairs of positions with the same row of <G_t, G_s>."""
        parts = []
        for rows in chunks(self.num_samples, 2 * self.index.shape[1] ** 2, workspace):
            grad_y = self.grad_y[rows].to(accumulation_dtype(self.grad_y))
            index = self.index[rows]
            is_same = (index[:, :, None] == index[:, None, :]).to(grad_y.dtype)
            gram = grad_y @ grad_y.transpose(1, 2)
            parts.append(einsum("nts,nts->n", is_same, gram).clamp_min(0))
        return torch.cat(parts)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        weighted = self.grad_y.to(weights.dtype) * weights.view(-1, 1, 1)
        table = weighted.new_zeros(self.shape)
        return table.index_add_(0, self.index.flatten(), weighted.flatten(0, 1))

    def zero_where(self, dropped: Tensor) -> Self:
        return replace(self, grad_y=zero_rows(self.grad_y, dropped))


@dataclass(frozen=True)
class Embedding:
    """A bound call of `F.embedding`.

    Attributes:
        num_rows: Rows of the table.
        padding_index: A row that receives no gradient, or None.
    """

    num_rows: int
    padding_index: int | None
    name: str = "embedding"

    def forward(
        self, inputs: Sequence[Tensor], params: Sequence[Tensor]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        return F.embedding(inputs[0], params[0]), (inputs[0],)

    def input_grads(
        self, saved: Sequence[Tensor], grad_y: Tensor, needed: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        return (None,)

    def param_grads(
        self, saved: Sequence[Tensor], grad_y: Tensor, axes: SampleAxes, choose: ChooseWay
    ) -> Sequence[PerSampleGrad]:
        index = axes.split_input(saved[0]).flatten(1)
        g = axes.split_output(grad_y)
        g = g.reshape(*index.shape, g.shape[-1])
        if self.padding_index is not None:
            g = g.masked_fill((index == self.padding_index)[:, :, None], 0)
        return (Rows(index, g, self.num_rows),)


def bind_embedding(
    func: Callable, args: tuple, kwargs: dict, kind: Callable[[Any], Kind]
) -> Bound | None:
    """Take `F.embedding` apart, where the table is used as it is."""

    def signature(
        input: Tensor,
        weight: Tensor,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Bound | None:
        if kind(input) != "batch" or kind(weight) != "param":
            return None
        if max_norm is not None or scale_grad_by_freq:
            option = "max_norm" if max_norm is not None else "scale_grad_by_freq"
            raise CrossSampleError(
                f"an embedding with {option} scales rows by what the whole batch looks up, so one "
                f"sample's gradient depends on the others and cannot be clipped alone. Leave "
                f"{option} unset"
            )
        padding = padding_idx
        if padding is not None and padding < 0:
            padding += weight.shape[0]
        return Bound(Embedding(weight.shape[0], padding), (input,), (weight,))

    return signature(*args, **kwargs)
