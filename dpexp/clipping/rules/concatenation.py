"""Concatenation of the batch with parameters, such as class tokens before patch tokens.

The parameter was spread over the samples before, so sample n's gradient is its own piece of G_n.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dpexp.clipping.per_sample import Aligned, PerSampleGrad
from dpexp.clipping.plan import ChooseWay
from dpexp.clipping.rules.rule import Bound, Kind, SampleAxes


@dataclass(frozen=True)
class Concatenation:
    """A bound call of `torch.cat` along an axis that holds no samples.

    Attributes:
        order: For each piece, whether it is a parameter ("param"), the batch, or a constant.
        sizes: Size of each piece along the axis.
        axis: The axis, counted from the front.
        constants: The constant pieces, in order.
    """

    order: tuple[Kind, ...]
    sizes: tuple[int, ...]
    axis: int
    constants: tuple[Tensor, ...]
    name: str = "cat"

    def forward(
        self, inputs: Sequence[Tensor], params: Sequence[Tensor]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        sources = {"batch": iter(inputs), "param": iter(params), "constant": iter(self.constants)}
        return torch.cat([next(sources[kind]) for kind in self.order], self.axis), ()

    def _pieces(self, grad_y: Tensor, kind: Kind) -> list[Tensor]:
        pieces = zip(self.order, grad_y.split(self.sizes, self.axis), strict=True)
        return [piece for of_kind, piece in pieces if of_kind == kind]

    def input_grads(
        self, saved: Sequence[Tensor], grad_y: Tensor, needed: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        return self._pieces(grad_y, "batch")

    def param_grads(
        self, saved: Sequence[Tensor], grad_y: Tensor, axes: SampleAxes, choose: ChooseWay
    ) -> Sequence[PerSampleGrad]:
        axes.require_first(self.name)
        return [Aligned(axes.split_output(piece)) for piece in self._pieces(grad_y, "param")]


def bind_concatenation(
    func: Callable, args: tuple, kwargs: dict, kind: Callable[[Any], Kind]
) -> Bound | None:
    """Take `torch.cat` apart, where it is not along the first axis, which holds the samples."""

    def signature(
        tensors: Sequence[Tensor], dim: int = 0, axis: int | None = None
    ) -> tuple[Sequence[Tensor], int]:
        return tensors, (dim if axis is None else axis) % tensors[0].ndim

    tensors, axis = signature(*args, **kwargs)
    if axis == 0 or len({t.dtype for t in tensors}) > 1:
        return None
    order = tuple(kind(t) for t in tensors)
    by_kind = {k: tuple(t for t in tensors if kind(t) == k) for k in set(order)}
    sizes = tuple(t.shape[axis] for t in tensors)
    operation = Concatenation(order, sizes, axis, by_kind.get("constant", ()))
    return Bound(operation, by_kind["batch"], by_kind["param"])
