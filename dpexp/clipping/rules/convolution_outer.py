"""Weight gradients of a convolution, G_n^T U(x_n), and the ways to take them.

Source: Rochette, Manoel & Tramel 2019, arXiv:1912.06015 (grouped convolution); Bu, Mao & Xu 2022,
arXiv:2205.10683, Section 3 (patches); `patches.py` has those that are our own.
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
from dpexp.clipping.rules.geometry import Geometry, numbers_of
from dpexp.clipping.rules.gram import GRAM_PRODUCTS
from dpexp.clipping.rules.outer import CACHED, gram_ways
from dpexp.clipping.rules.patches import (
    gradients_by_correlation,
    patches,
    pixel_gram_product,
    sum_by_offsets,
)


@dataclass(frozen=True)
class ConvolutionOuter:
    """Weight gradients of a convolution, held as the pair (x, G).

    Attributes:
        x: Inputs, shape (n k, channels, *space); k rows belong to each sample.
        grad_y: Output gradients, shape (n k, channels, *space).
        num_samples: n.
        geometry: The options of the call.
        weight: The weight, for its shape and type alone.
        way: How norm and sum are taken.
    """

    x: Tensor
    grad_y: Tensor
    num_samples: int
    geometry: Geometry
    weight: Tensor
    way: Way

    @property
    def shape(self) -> torch.Size:
        return self.weight.shape

    @property
    def num_held(self) -> int:
        return self.x.numel() + self.grad_y.numel()

    @property
    def num_rows(self) -> int:
        """Rows of x and G that belong to each sample, k."""
        return self.x.shape[0] // self.num_samples

    @property
    def problem(self) -> Problem:
        """What the plan is asked."""
        return convolution_problem(
            self.geometry, self.shape, self.x.shape[1:], self.grad_y.shape[1:], self.num_rows
        )

    @property
    def _num_working(self) -> int:
        """Numbers that the norm holds at once for one sample."""
        return next(way.num_held for way in self.problem.norms if way.name == self.way.norm)

    def by(self, way: Way) -> Self:
        """Return the same gradients, to be taken another way."""
        return replace(self, way=way)

    def _rows(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Return x and G of some samples, in the dtype of sums."""
        dtype = accumulation_dtype(self.x, self.grad_y)
        taken = slice(rows.start * self.num_rows, rows.stop * self.num_rows)
        return self.x[taken].to(dtype), self.grad_y[taken].to(dtype)

    def per_sample(self, rows: slice) -> Tensor:
        x, grad_y = self._rows(rows)
        if self.way.norm == "instantiate_patches":
            u, g = self._products(x, grad_y)
            return (g @ u.transpose(-1, -2)).reshape(-1, *self.shape)
        if self.way.norm == "instantiate_correlation":
            grads = gradients_by_correlation(x, grad_y, self.shape[2:], self.geometry)
        else:
            grads = self._by_grouped_convolution(x, grad_y)
        k = self.num_rows
        return grads.view(-1, k, *self.shape).sum(1) if k > 1 else grads.view(-1, *self.shape)

    def _by_grouped_convolution(self, x: Tensor, grad_y: Tensor) -> Tensor:
        """Return dl/dW of every row as the weight gradient of one convolution of many groups."""
        m = x.shape[0]
        # Stands for its shape alone: the weight gradient does not depend on the weight.
        weight = self.weight.to(x.dtype)[None].expand(m, *self.shape).flatten(0, 1)
        return self.geometry.backward(
            grad_y.reshape(1, m * grad_y.shape[1], *grad_y.shape[2:]),
            x.reshape(1, m * x.shape[1], *x.shape[2:]),
            weight,
            (False, True),
            groups=m * self.geometry.groups,
        )[1]

    def _products(self, x: Tensor, grad_y: Tensor) -> tuple[Tensor, Tensor]:
        """Return U and G of each sample, shapes (n, groups, D, k T) and (n, groups, p', k T)."""
        # The patches come from the side that slides under the kernel.
        slid, fixed = (grad_y, x) if self.geometry.transposed else (x, grad_y)
        u = patches(slid, self.shape[2:], self.geometry, fixed.shape[2:])
        g = fixed.reshape(fixed.shape[0], self.geometry.groups, -1, u.shape[-1])
        if self.num_rows == 1:
            return u, g
        u, g = (t.unflatten(0, (-1, self.num_rows)).movedim(1, 3).flatten(3) for t in (u, g))
        return u, g

    def compact(self) -> PerSampleGrad:
        """Return the gradients themselves where the plan keeps them."""
        return instantiated(self, self._num_working) if self.way.sum == KEPT else self

    def squared_norms(self, workspace: int) -> Tensor:
        """Return |G_n^T U(x_n)|^2 by the way chosen.

        Source: Bu, Mao & Xu 2022, arXiv:2205.10683, Section 3: <U U^T, G G^T>.
        """
        if is_instantiating(self.way.norm):
            every = chunks(self.num_samples, self._num_working, tiled(workspace, INSTANTIATED))
            return torch.cat([squared_norms_of(self.per_sample(rows)) for rows in every])
        every = chunks(self.num_samples, self._num_working, tiled(workspace, CACHED))
        return torch.cat([self._gram_product(*self._rows(rows)) for rows in every]).clamp_min(0)

    def _gram_product(self, x: Tensor, grad_y: Tensor) -> Tensor:
        if self.way.norm == "pixels":
            return pixel_gram_product(x, grad_y, self.shape[2:], self.geometry)
        u, g = self._products(x, grad_y)
        return GRAM_PRODUCTS[self.way.norm](u.transpose(-1, -2), g.transpose(-1, -2))

    def weighted_sum(self, weights: Tensor) -> Tensor:
        # In the dtype of the weights: rounded to bfloat16, C_n would let a sample pass its bound.
        each = weights.repeat_interleave(self.num_rows) if self.num_rows > 1 else weights
        weighted = self.grad_y.to(weights.dtype) * each.view(-1, *[1] * (self.grad_y.ndim - 1))
        x = self.x.to(weights.dtype)
        if self.way.sum == "offsets":
            return sum_by_offsets(x, weighted, self.shape[2:], self.geometry)
        if self.way.sum == "patches":
            u = patches(x, self.shape[2:], self.geometry, weighted.shape[2:])[:, 0]
            g = weighted.flatten(2).transpose(0, 1).flatten(1)
            return (g @ u.transpose(0, 1).flatten(1).t()).view(self.shape)
        return self.geometry.backward(weighted, x, self.weight.to(x.dtype), (False, True))[1]

    def zero_where(self, dropped: Tensor) -> Self:
        each = dropped.repeat_interleave(self.num_rows)
        return replace(self, x=zero_rows(self.x, each), grad_y=zero_rows(self.grad_y, each))


@lru_cache(maxsize=4096)
def convolution_problem(
    geometry: Geometry, weight: torch.Size, x: torch.Size, grad_y: torch.Size, num_rows: int
) -> Problem:
    """Return the problem of a convolution.

    Args:
        geometry: Its options.
        weight: Shape of the weight.
        x: Shape of one row of x.
        grad_y: Shape of one row of G.
        num_rows: Rows that belong to each sample.
    """
    kernel, groups = weight[2:], geometry.groups
    slid, fixed = (grad_y, x) if geometry.transposed else (x, grad_y)
    positions = numbers_of(fixed[1:]) * num_rows
    inputs, outputs = numbers_of(weight[1:]), weight[0]
    product, size = positions * numbers_of(weight), numbers_of(weight)
    ghost = positions**2 * (inputs * groups + outputs)
    unfolded = positions * inputs * groups * (numbers_of(kernel) > 1)
    norms = list(gram_ways(positions, ghost, groups, unfolded))
    sums = [("backward", product)]
    if geometry.is_dense and numbers_of(kernel) > 1 and num_rows == 1:
        pixels = max(numbers_of(x[1:]), positions)
        # Shifting is additions, bound by memory: each counts for four.
        count = pixels**2 * (x[0] + grad_y[0] + 4 * sum(kernel))
        norms.append(NormWay("pixels", count, 3 * pixels**2))
    if groups == 1 and not geometry.transposed and numbers_of(kernel) > 1:
        met = geometry.num_visits(kernel, x[1:], grad_y[1:])
        sums.append(("offsets", met * x[0] * grad_y[0]))
    if weight[1] == 1 and groups > 1 and not geometry.transposed:
        norms.append(NormWay("instantiate_correlation", product, size))
    # The kernels of a grouped convolution lay out channels by sixteen.
    blocked = size // weight[1] * -(-weight[1] // 16) * 16
    norms.append(NormWay("instantiate", product, blocked + size))
    norms.append(NormWay("instantiate_patches", product, size + unfolded))
    if groups == 1 and not geometry.transposed:
        sums.append(("patches", product))
    name = f"conv{'_transpose' * geometry.transposed}{geometry.dims}d "
    name += f"{'x'.join(map(str, kernel))}, {geometry}, at {'x'.join(map(str, slid[1:]))}"
    held = num_rows * (numbers_of(x) + numbers_of(grad_y))
    return Problem(name, positions, inputs, outputs, held, tuple(norms), tuple(sums), size)
