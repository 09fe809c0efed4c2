"""Layer and group normalisation with a trainable scale and shift: y = w xhat + b.

xhat is the normalised input, a function of one sample alone. With G_n = dl_n/dy_n,

    dl_n/dw = sum_t G_n[t] xhat_n[t]    and    dl_n/db = sum_t G_n[t].

The other normalisations are split into their normalisation and the product and sum that follow;
see `decompose.py`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dpexp.clipping.per_sample import Dense, PerSampleGrad, accumulation_dtype
from dpexp.clipping.plan import ChooseWay
from dpexp.clipping.rules.broadcast import sum_to_param
from dpexp.clipping.rules.rule import Affine, Bound, Kind, SampleAxes

_aten = torch.ops.aten


@dataclass(frozen=True)
class LayerNorm:
    """A bound call of `F.layer_norm`.

    Attributes:
        affine: Weight and bias.
        shape: The trailing axes that are normalised.
        eps: Added to the variance.
    """

    affine: Affine
    shape: tuple[int, ...]
    eps: float
    name: str = "layer_norm"

    def forward(
        self, inputs: Sequence[Tensor], params: Sequence[Tensor]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        weight, bias = self.affine.filled(params)
        x = _in_dtype_of(inputs[0], weight, bias)
        y, mean, rstd = torch.native_layer_norm(x, self.shape, weight, bias, self.eps)
        return y, (x, mean, rstd, weight)

    def input_grads(
        self, saved: Sequence[Tensor], grad_y: Tensor, needed: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        if not needed[0]:
            return (None,)
        x, mean, rstd, weight = saved
        mask = [True, False, False]
        backward = _aten.native_layer_norm_backward
        return (backward(grad_y, x, self.shape, mean, rstd, weight, None, mask)[0],)

    def param_grads(
        self, saved: Sequence[Tensor], grad_y: Tensor, axes: SampleAxes, choose: ChooseWay
    ) -> Sequence[PerSampleGrad]:
        x, mean, rstd, _ = saved
        shape = torch.Size(self.shape)
        grads: list[PerSampleGrad] = []
        if "weight" in self.affine.roles:
            products = (x - mean).mul_(rstd).mul_(grad_y)
            grads.append(Dense(sum_to_param(products, shape, axes)))
        if "bias" in self.affine.roles:
            grads.append(Dense(sum_to_param(grad_y, shape, axes)))
        return grads


@dataclass(frozen=True)
class GroupNorm:
    """A bound call of `F.group_norm`.

    Attributes:
        affine: Weight and bias.
        groups: Number of groups of channels.
        eps: Added to the variance.
    """

    affine: Affine
    groups: int
    eps: float
    name: str = "group_norm"

    def forward(
        self, inputs: Sequence[Tensor], params: Sequence[Tensor]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        weight, bias = self.affine.filled(params)
        x = _in_dtype_of(inputs[0], weight, bias).contiguous()
        n, channels, space = _sizes(x)
        y, mean, rstd = torch.native_group_norm(
            x, weight, bias, n, channels, space, self.groups, self.eps
        )
        return y, (x, mean, rstd, weight)

    def input_grads(
        self, saved: Sequence[Tensor], grad_y: Tensor, needed: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        if not needed[0]:
            return (None,)
        x, mean, rstd, weight = saved
        mask = [True, False, False]
        backward = _aten.native_group_norm_backward
        grad_y = grad_y.contiguous()
        return (backward(grad_y, x, mean, rstd, weight, *_sizes(x), self.groups, mask)[0],)

    def param_grads(
        self, saved: Sequence[Tensor], grad_y: Tensor, axes: SampleAxes, choose: ChooseWay
    ) -> Sequence[PerSampleGrad]:
        axes.require_first(self.name)
        x, mean, rstd, weight = saved
        rows, channels, space = _sizes(x)
        dtype = accumulation_dtype(x, grad_y)
        # All rows as one, with the channels of each for channels of its own: then the kernel's sums
        # over the batch are over one row.
        shape = (1, rows * channels, space)
        _, *by_channel = _aten.native_group_norm_backward(
            grad_y.to(dtype).reshape(shape), x.to(dtype).view(shape),
            mean.to(dtype).view(1, -1), rstd.to(dtype).view(1, -1),
            None if weight is None else weight.to(dtype).repeat(rows),
            *shape, rows * self.groups, [False, True, True],
        )  # fmt: skip
        by_role = dict(zip(("weight", "bias"), by_channel, strict=True))
        sums = (by_role[role].view(axes.num_samples, -1, channels) for role in self.affine.roles)
        return [Dense(each[:, 0] if each.shape[1] == 1 else each.sum(1)) for each in sums]


def _sizes(x: Tensor) -> tuple[int, int, int]:
    return x.shape[0], x.shape[1], math.prod(x.shape[2:])


def _in_dtype_of(x: Tensor, *params: Tensor | None) -> Tensor:
    """Return `x` as wide as the parameters: under autocast, norms are taken in float32."""
    wide = [p.dtype for p in params if p is not None]
    return x.to(wide[0]) if wide and x.dtype != wide[0] else x


def bind_layer_norm(
    func: Callable, args: tuple, kwargs: dict, kind: Callable[[Any], Kind]
) -> Bound | None:
    """Take `F.layer_norm` apart."""

    def signature(
        input: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
        cudnn_enable: bool = True,
    ) -> Bound | None:
        affine = Affine.of(input, weight, bias, kind)
        if affine is None:
            return None
        return Bound(LayerNorm(affine, tuple(normalized_shape), eps), (input,), affine.params)

    return signature(*args, **kwargs)


def bind_group_norm(
    func: Callable, args: tuple, kwargs: dict, kind: Callable[[Any], Kind]
) -> Bound | None:
    """Take `F.group_norm` apart."""

    def signature(
        input: Tensor,
        num_groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
        cudnn_enabled: bool = True,
    ) -> Bound | None:
        affine = Affine.of(input, weight, bias, kind)
        if affine is None:
            return None
        return Bound(GroupNorm(affine, num_groups, eps), (input,), affine.params)

    return signature(*args, **kwargs)
