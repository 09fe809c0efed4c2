"""Convolution in 1, 2 and 3 dimensions, grouped or not, and its transpose.

A convolution is a linear map on patches: with U(x) the patches of the padded input, shape
(T, D) for T output positions and D = channels in a group times kernel size, y = U(x) W^T, and

    dl_n/dW = G_n^T U(x_n)    and    dl_n/db = sum_t G_n[t].

A transposed convolution is the adjoint: in its weight gradient, x and G change places.

Source: Rochette, Manoel & Tramel 2019, arXiv:1912.06015 (grouped convolution); Bu, Mao & Xu 2022,
arXiv:2205.10683, Section 3 (patches).
"""

import math
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

_backward = torch.ops.aten.convolution_backward


@dataclass(frozen=True)
class Geometry:
    """The options of a convolution, one number per spatial dimension."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool = False
    output_padding: tuple[int, ...] = ()

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the convolution of `x`."""
        padding = self.output_padding or (0,) * len(self.stride)
        return torch.convolution(
            x, weight, bias, self.stride, self.padding, self.dilation,
            self.transposed, padding, self.groups,
        )  # fmt: skip

    def backward(
        self, grad_y: Tensor, x: Tensor, weight: Tensor, mask: tuple[bool, bool], groups: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of x and weight, each only where `mask` asks for it."""
        padding = self.output_padding or (0,) * len(self.stride)
        grad_x, grad_weight, _ = _backward(
            grad_y, x, weight, None, self.stride, self.padding, self.dilation,
            self.transposed, padding, groups or self.groups, [*mask, False],
        )  # fmt: skip
        return grad_x, grad_weight


@dataclass(frozen=True)
class ConvolutionOuter:
    """Weight gradients of a convolution, held as the pair (x, G).

    Attributes:
        x: Inputs, shape (n k, channels, *space); k rows belong to each sample.
        grad_y: Output gradients, shape (n k, channels, *space).
        num_samples: n.
        geometry: The options of the call.
        weight: The weight, for its shape and type alone.
        way: How the norm is taken.
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

    def per_sample(self, rows: slice) -> Tensor:
        """Return dl_n/dW as the weight gradient of one convolution with a group per sample."""
        k = self.x.shape[0] // self.num_samples
        dtype = accumulation_dtype(self.x, self.grad_y)
        x = self.x[rows.start * k : rows.stop * k].to(dtype)
        grad_y = self.grad_y[rows.start * k : rows.stop * k].to(dtype)
        m = x.shape[0]
        # Stands for its shape alone: the weight gradient does not depend on the weight.
        weight = self.weight.to(dtype)[None].expand(m, *self.shape).flatten(0, 1)
        _, grads = self.geometry.backward(
            grad_y.reshape(1, m * grad_y.shape[1], *grad_y.shape[2:]),
            x.reshape(1, m * x.shape[1], *x.shape[2:]),
            weight,
            (False, True),
            groups=m * self.geometry.groups,
        )
        return grads.view(m // k, k, *self.shape).sum(1) if k > 1 else grads.view(m, *self.shape)

    def compact(self) -> PerSampleGrad:
        """Return the gradients themselves where they are wanted anyway and smaller."""
        if self.way == "instantiate" and self.num_samples * self.shape.numel() <= self.num_held:
            return Dense(self.per_sample(slice(0, self.num_samples)))
        return self

    def squared_norms(self, workspace: int) -> Tensor:
        """Return |G_n^T U(x_n)|^2 by the way chosen.

        Source: Bu, Mao & Xu 2022, arXiv:2205.10683, Section 3: <U U^T, G G^T>.
        """
        # The patches come from the side that slides under the kernel.
        slid, fixed = (self.grad_y, self.x) if self.geometry.transposed else (self.x, self.grad_y)
        k = self.x.shape[0] // self.num_samples
        num_positions = k * math.prod(fixed.shape[2:])
        is_ghost = self.way == "ghost"
        numbers_each = self.shape.numel()
        if is_ghost:
            width = slid.shape[1] * math.prod(self.shape[2:]) + fixed.shape[1]
            numbers_each = num_positions * (2 * num_positions * self.geometry.groups + width)
        parts = []
        for rows in chunks(self.num_samples, numbers_each, workspace):
            if is_ghost:
                taken = slice(rows.start * k, rows.stop * k)
                parts.append(self._ghost(slid[taken], fixed[taken], k))
            else:
                parts.append(self.per_sample(rows).flatten(1).square().sum(1))
        return torch.cat(parts)

    def _ghost(self, slid: Tensor, fixed: Tensor, k: int) -> Tensor:
        dtype = accumulation_dtype(slid, fixed)
        groups = self.geometry.groups
        u = patches(slid.to(dtype), self.shape[2:], self.geometry, fixed.shape[2:])
        n = u.shape[0] // k
        # (n k, groups, T, D) -> (n, groups, k T, D), and the same for the other side.
        u = u.view(n, k, *u.shape[1:]).transpose(1, 2).flatten(2, 3)
        g = fixed.to(dtype).reshape(n, k, groups, fixed.shape[1] // groups, -1)
        g = g.permute(0, 2, 1, 4, 3).flatten(2, 3)
        gram_u, gram_g = u @ u.transpose(-1, -2), g @ g.transpose(-1, -2)
        return einsum("ngts,ngts->n", gram_u, gram_g).clamp_min(0)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        k = self.x.shape[0] // self.num_samples
        each = weights.repeat_interleave(k).to(self.grad_y.dtype)
        weighted = self.grad_y * each.view(-1, *[1] * (self.grad_y.ndim - 1))
        weight = self.weight.to(self.x.dtype)
        return self.geometry.backward(weighted, self.x, weight, (False, True))[1].to(weights.dtype)

    def zero_where(self, dropped: Tensor) -> Self:
        each = dropped.repeat_interleave(self.x.shape[0] // self.num_samples)
        return replace(self, x=zero_rows(self.x, each), grad_y=zero_rows(self.grad_y, each))


def patches(x: Tensor, kernel: torch.Size, geometry: Geometry, positions: torch.Size) -> Tensor:
    """Return the patches of `x` under a kernel, shape (n, groups, T, D), zero padding included."""
    dims = len(kernel)
    pads = [pad for padding in reversed(geometry.padding) for pad in (padding, padding)]
    x = F.pad(x, pads).contiguous()
    n, channels = x.shape[:2]
    space = x.stride()[2:]
    view = x.as_strided(
        (n, channels, *positions, *kernel),
        (
            *x.stride()[:2],
            *[s * step for s, step in zip(space, geometry.stride, strict=True)],
            *[s * step for s, step in zip(space, geometry.dilation, strict=True)],
        ),
    )
    view = view.unflatten(1, (geometry.groups, channels // geometry.groups))
    # (n, groups, c, *positions, *kernel) -> (n, groups, *positions, c, *kernel)
    order = [0, 1, *range(3, 3 + dims), 2, *range(3 + dims, 3 + 2 * dims)]
    width = channels // geometry.groups * math.prod(kernel)
    return view.permute(order).reshape(n, geometry.groups, math.prod(positions), width)


@dataclass(frozen=True)
class Convolution:
    """A bound call of a convolution.

    Attributes:
        affine: Weight and bias.
        geometry: The options of the call.
    """

    affine: Affine
    geometry: Geometry

    @property
    def name(self) -> str:
        dims = len(self.geometry.stride)
        return f"conv_transpose{dims}d" if self.geometry.transposed else f"conv{dims}d"

    def forward(
        self, inputs: Sequence[Tensor], params: Sequence[Tensor]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        weight, bias = self.affine.filled(params)
        assert weight is not None
        x, weight, bias = under_autocast(inputs[0], weight, bias)
        # x is also what shapes its own gradient, so it is kept for a frozen weight too.
        return self.geometry.apply(x, weight, bias), (x, weight)

    def input_grads(
        self, saved: Sequence[Tensor], grad_y: Tensor, needed: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        if not needed[0]:
            return (None,)
        return (self.geometry.backward(grad_y, saved[0], saved[1], (True, False))[0],)

    def param_grads(
        self, saved: Sequence[Tensor], grad_y: Tensor, axes: SampleAxes, choose: ChooseWay
    ) -> Sequence[PerSampleGrad]:
        axes.require_first(self.name)
        x, weight = saved
        n = axes.num_samples
        grads: list[PerSampleGrad] = []
        if "weight" in self.affine.roles:
            positions = (x if self.geometry.transposed else grad_y).shape[2:]
            num_positions = math.prod(positions) * x.shape[0] // n
            way = choose(num_positions, weight[0].numel(), weight.shape[0])
            grads.append(ConvolutionOuter(x, grad_y, n, self.geometry, weight, way))
        if "bias" in self.affine.roles:
            channels = grad_y.reshape(n, -1, grad_y.shape[1], math.prod(grad_y.shape[2:]))
            grads.append(Dense(channels.sum((1, 3), dtype=accumulation_dtype(grad_y))))
        return grads


def _each(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value)


def _taken_apart(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    kind: Callable[[Any], Kind],
) -> Bound | None:
    affine = Affine.of(x, weight, bias, kind)
    if affine is None or x.ndim != weight.ndim:
        return None
    return Bound(Convolution(affine, geometry), (x,), affine.params)


def bind_convolution(
    func: Callable, args: tuple, kwargs: dict, kind: Callable[[Any], Kind]
) -> Bound | None:
    """Take `F.conv1d`, `F.conv2d` or `F.conv3d` apart."""

    def signature(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> Bound | None:
        dims = weight.ndim - 2
        strides, dilations = _each(stride, dims), _each(dilation, dims)
        if isinstance(padding, str):
            spans = [d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
            if padding == "same" and any(span % 2 for span in spans):
                return None  # padded on one side more than on the other
            pads = tuple(span // 2 for span in spans) if padding == "same" else (0,) * dims
        else:
            pads = _each(padding, dims)
        geometry = Geometry(strides, pads, dilations, groups)
        return _taken_apart(input, weight, bias, geometry, kind)

    return signature(*args, **kwargs)


def bind_transposed_convolution(
    func: Callable, args: tuple, kwargs: dict, kind: Callable[[Any], Kind]
) -> Bound | None:
    """Take `F.conv_transpose1d`, `F.conv_transpose2d` or `F.conv_transpose3d` apart."""

    def signature(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        dilation: int | Sequence[int] = 1,
    ) -> Bound | None:
        dims = weight.ndim - 2
        geometry = Geometry(
            _each(stride, dims), _each(padding, dims), _each(dilation, dims), groups,
            transposed=True, output_padding=_each(output_padding, dims),
        )  # fmt: skip
        return _taken_apart(input, weight, bias, geometry, kind)

    return signature(*args, **kwargs)
