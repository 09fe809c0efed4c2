"""Linear: y = x W^T + b, at every position.

Axes: n sample, t position, i input (D of them), o output (p of them). With l_n the loss
of sample n and G_n = dl_n/dy_n,

    dl_n/dW = G_n^T x_n    and    dl_n/db = sum_t G_n[t].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from dpexp.clipping.per_sample import Dense, PerSampleGrad, accumulation_dtype
from dpexp.clipping.plan import ChooseWay
from dpexp.clipping.rules.outer import Outer, outer_problem
from dpexp.clipping.rules.rule import Affine, Bound, Kind, SampleAxes, under_autocast


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
            grads.append(Outer(x, g, choose(outer_problem(x.shape[1], x.shape[2], g.shape[2]))))
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
