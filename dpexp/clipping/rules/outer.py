"""Weight gradients that are a product of two matrices, G_n^T U_n, and the ways to take them.

Axes: n sample, t position (T of them), i input (D), o output (p).
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

import torch
from torch import Tensor

from dpexp.clipping.per_sample import (
    INSTANTIATED,
    PerSampleGrad,
    accumulation_dtype,
    chunks,
    instantiated,
    squared_norms_of,
    tiled,
    zero_rows,
)
from dpexp.clipping.plan import KEPT, NormWay, Problem, Way, is_instantiating
from dpexp.clipping.rules.gram import GRAM_PRODUCTS, SMALLEST

# Gram matrices are worked through in pieces of this many numbers, which stay in a core's cache.
CACHED = 2**18


@dataclass(frozen=True)
class Outer:
    """Weight gradients G_n^T x_n, held as the pair (x, G).

    Attributes:
        x: Inputs, shape (n, t, i).
        grad_y: Output gradients G, shape (n, t, o).
        way: How norm and sum are taken.
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

    @property
    def problem(self) -> Problem:
        """What the plan is asked."""
        return outer_problem(self.x.shape[1], self.x.shape[2], self.grad_y.shape[2])

    def by(self, way: Way) -> Self:
        """Return the same gradients, to be taken another way."""
        return replace(self, way=way)

    def per_sample(self, rows: slice) -> Tensor:
        dtype = accumulation_dtype(self.x, self.grad_y)
        return self.grad_y[rows].to(dtype).transpose(1, 2) @ self.x[rows].to(dtype)

    def compact(self) -> PerSampleGrad:
        """Return the gradients themselves where the plan keeps them."""
        return instantiated(self, self.shape.numel()) if self.way.sum == KEPT else self

    def squared_norms(self, workspace: int) -> Tensor:
        """Return |G_n^T x_n|^2 = <x_n x_n^T, G_n G_n^T>, by the way chosen.

        Source: Goodfellow 2015, arXiv:1510.01799, for t = 1; Li et al. 2022, arXiv:2110.05679,
        for sequences.
        """
        dtype = accumulation_dtype(self.x, self.grad_y)
        num_positions = self.x.shape[1]
        if num_positions == 1:
            return squared_norms_of(self.x) * squared_norms_of(self.grad_y)
        if is_instantiating(self.way.norm):
            every = chunks(self.num_samples, self.shape.numel(), tiled(workspace, INSTANTIATED))
            return torch.cat([squared_norms_of(self.per_sample(rows)) for rows in every])
        product = GRAM_PRODUCTS[self.way.norm]
        every = chunks(self.num_samples, 2 * num_positions**2, tiled(workspace, CACHED))
        parts = [product(self.x[rows].to(dtype), self.grad_y[rows].to(dtype)) for rows in every]
        return torch.cat(parts).clamp_min(0)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        # In the dtype of the weights: rounded to bfloat16, C_n would let a sample pass its bound.
        x, grad_y = self.x.to(weights.dtype), self.grad_y.to(weights.dtype)
        each = weights.view(-1, 1, 1)
        if x.numel() < grad_y.numel():
            x = x * each
        else:
            grad_y = grad_y * each
        return grad_y.flatten(0, 1).t() @ x.flatten(0, 1)

    def zero_where(self, dropped: Tensor) -> Self:
        return replace(self, x=zero_rows(self.x, dropped), grad_y=zero_rows(self.grad_y, dropped))


@lru_cache(maxsize=4096)
def outer_problem(positions: int, inputs: int, outputs: int) -> Problem:
    """Return the problem of a linear operation."""
    ghost, product = positions**2 * (inputs + outputs), positions * inputs * outputs
    instantiate = NormWay("instantiate", product, inputs * outputs)
    return Problem(
        "linear", positions, inputs, outputs, positions * (inputs + outputs),
        (*gram_ways(positions, ghost), instantiate), (("product", product),), inputs * outputs,
    )  # fmt: skip


def gram_ways(
    positions: int, ghost: int, groups: int = 1, unfolded: int = 0
) -> tuple[NormWay, ...]:
    """Return the ways by Gram matrices: whole, and by halves where that is less work.

    Args:
        positions: T.
        ghost: Multiply-adds of the whole matrices.
        groups: Of channels, each with matrices of its own.
        unfolded: Numbers of a sample's patches, if they have to be laid out.
    """
    whole = 2 * groups * positions**2
    ways = [NormWay("ghost", ghost, whole + unfolded)]
    if positions > SMALLEST:
        ways.append(NormWay("triangle", ghost * 5 // 8, whole // 4 + unfolded))
        ways.append(NormWay("syrk", ghost * 5 // 8, whole + unfolded))
    return tuple(ways)
