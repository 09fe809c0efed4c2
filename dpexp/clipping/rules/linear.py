"""Linear: y = x W^T + b, at every position.

Axes in einsum: n sample, t position, i input (D of them), o output (p of them). With l_n the loss
of sample n and G_n = dl_n/dy_n,

    dl_n/dW = G_n^T x_n    and    dl_n/db = sum_t G_n[t].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, einsum
from torch.nn import functional as F

from dpexp.clipping.per_sample import (
    Dense,
    PerSampleGrad,
    accumulation_dtype,
    chunks,
    zero_rows,
)
from dpexp.clipping.plan import ChooseWay, Way
from dpexp.clipping.rules.rule import Affine, Bound, Kind, SampleAxes, under_autocast


@dataclass(frozen=True)
class Outer:
    """Weight gradients G_n^T x_n, held as the pair (x, G).

    Attributes:
        x: Inputs, shape (n, t, i).
        grad_y: Output gradients G, shape (n, t, o).
        way: How the norm is taken.
    """

    x: Tensor
    grad_y: Tensor
    way: Way

    @property
    def num_samples(self) -> int:
        return self.x.shape[0]

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.grad_y.shape[2], self.x.shape[2]))

    @property
    def num_held(self) -> int:
        return self.x.numel() + self.grad_y.numel()

    def per_sample(self, rows: slice) -> Tensor:
        dtype = accumulation_dtype(self.x, self.grad_y)
        return self.grad_y[rows].to(dtype).transpose(1, 2) @ self.x[rows].to(dtype)

    def compact(self) -> PerSampleGrad:
        """Return the gradients themselves where they are wanted anyway and smaller."""
        if self.way == "instantiate" and self.num_samples * self.shape.numel() <= self.num_held:
            return Dense(self.per_sample(slice(0, self.num_samples)))
        return self

    def squared_norms(self, workspace: int) -> Tensor:
        """Return |G_n^T x_n|^2 = <x_n x_n^T, G_n G_n^T>, by the way chosen.

        Source: Goodfellow 2015, arXiv:1510.01799, for t = 1; Li et al. 2022, arXiv:2110.05679,
        for sequences.
        """
        dtype = accumulation_dtype(self.x, self.grad_y)
        num_positions = self.x.shape[1]
        if num_positions == 1:
            return self.x.to(dtype).square().sum((1, 2)) * self.grad_y.to(dtype).square().sum(
                (1, 2)
            )
        is_ghost = self.way == "ghost"
        numbers_each = 2 * num_positions**2 if is_ghost else self.shape.numel()
        parts = []
        for rows in chunks(self.num_samples, numbers_each, workspace):
            if is_ghost:
                x, grad_y = self.x[rows].to(dtype), self.grad_y[rows].to(dtype)
                gram_x, gram_g = x @ x.transpose(1, 2), grad_y @ grad_y.transpose(1, 2)
                parts.append(einsum("nts,nts->n", gram_x, gram_g).clamp_min(0))
            else:
                parts.append(self.per_sample(rows).square().sum((1, 2)))
        return torch.cat(parts)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        weighted = self.grad_y * weights.view(-1, 1, 1).to(self.grad_y.dtype)
        return (weighted.flatten(0, 1).t() @ self.x.flatten(0, 1)).to(weights.dtype)

    def zero_where(self, dropped: Tensor) -> Self:
        return replace(self, x=zero_rows(self.x, dropped), grad_y=zero_rows(self.grad_y, dropped))


@dataclass(frozen=True)
class Linear:
    """A bound call of `F.linear`.

    Attributes:
        affine: Weight and bias.
    """

    affine: Affine
    name: str = "linear"

    def forward(
        self, inputs: Sequence[Tensor], params: Sequence[Tensor]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        weight, bias = self.affine.filled(params)
        assert weight is not None
        x, weight, bias = under_autocast(inputs[0], weight, bias)
        return F.linear(x, weight, bias), (x if "weight" in self.affine.roles else None, weight)

    def input_grads(
        self, saved: Sequence[Tensor], grad_y: Tensor, needed: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        return (grad_y @ saved[1] if needed[0] else None,)

    def param_grads(
        self, saved: Sequence[Tensor], grad_y: Tensor, axes: SampleAxes, choose: ChooseWay
    ) -> Sequence[PerSampleGrad]:
        g = merge_positions(axes.split_output(grad_y))
        grads: list[PerSampleGrad] = []
        if "weight" in self.affine.roles:
            x = merge_positions(axes.split_input(saved[0]))
            grads.append(Outer(x, g, choose(x.shape[1], x.shape[2], g.shape[2])))
        if "bias" in self.affine.roles:
            grads.append(Dense(g.sum(1, dtype=accumulation_dtype(g))))
        return grads


def merge_positions(tensor: Tensor) -> Tensor:
    """Return (n, k, ..., d) as (n, t, d), one axis for all positions."""
    return tensor.flatten(1, -2)


def bind_linear(
    func: Callable, args: tuple, kwargs: dict, kind: Callable[[Any], Kind]
) -> Bound | None:
    """Take `F.linear(x, W, b)` apart, with W, b or both made of trainable parameters."""

    def signature(
        input: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        return input, weight, bias

    x, weight, bias = signature(*args, **kwargs)
    affine = Affine.of(x, weight, bias, kind)
    if affine is None or x.ndim < 2:
        return None
    return Bound(Linear(affine), (x,), affine.params)
