"""Elementwise sums and products with a parameter that is shared over samples and positions.

With y = x + E, x - E, x E or x / E, the gradient of E for sample n is

    G_n,    -G_n,    G_n x_n    or    -G_n y_n / E,

summed over the axes along which E was repeated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dpexp.clipping.per_sample import Dense, PerSampleGrad, accumulation_dtype
from dpexp.clipping.plan import ChooseWay
from dpexp.clipping.rules.rule import Bound, Kind, SampleAxes, split_samples

Elementwise = Literal["add", "subtract", "subtract_from", "multiply", "divide"]


@dataclass(frozen=True)
class Broadcast:
    """A bound elementwise call.

    Attributes:
        name: What is computed; "subtract_from" is E - x, the others have x on the left.
        x_shape: Shape of x.
    """

    name: Elementwise
    x_shape: torch.Size

    def forward(
        self, inputs: Sequence[Tensor], params: Sequence[Tensor]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        x, e = inputs[0], params[0]
        if self.name == "multiply":
            return x * e, (x, e)
        if self.name == "divide":
            y = x / e
            return y, (y, e)
        # Its gradient needs neither, but E has a shape to be summed to.
        shape_only = e.detach()
        if self.name == "add":
            return x + e, (None, shape_only)
        return (x - e if self.name == "subtract" else e - x), (None, shape_only)

    def input_grads(
        self, saved: Sequence[Tensor], grad_y: Tensor, needed: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        if not needed[0]:
            return (None,)
        if self.name == "multiply":
            grad_x = grad_y * saved[1]
        elif self.name == "divide":
            grad_x = grad_y / saved[1]
        else:
            grad_x = -grad_y if self.name == "subtract_from" else grad_y
        return (grad_x.sum_to_size(self.x_shape),)

    def param_grads(
        self, saved: Sequence[Tensor], grad_y: Tensor, axes: SampleAxes, choose: ChooseWay
    ) -> Sequence[PerSampleGrad]:
        x_or_y, e = saved
        if self.name == "multiply":
            grads = grad_y * x_or_y
        elif self.name == "divide":
            grads = -(grad_y * x_or_y) / e
        else:
            grads = -grad_y if self.name == "subtract" else grad_y
        return (Dense(sum_to_param(grads, e.shape, axes)),)


def sum_to_param(grads: Tensor, shape: torch.Size, axes: SampleAxes) -> Tensor:
    """Return gradients of the output's shape summed to (n, *shape), the parameter's own shape.

    Trailing axes are matched, as in broadcasting; the parameter has size 1 along the sample axis.
    """
    axis = axes.outputs[0]
    sizes = [1] * (grads.ndim - len(shape)) + list(shape)
    split = split_samples(grads, axis, axes.num_samples)  # (n, k, the other axes in order)
    if sizes.pop(axis) != 1 and axes.num_samples > 1:
        axes.require_first("an elementwise operation with a parameter spread over the samples")
    repeated = [i + 2 for i, size in enumerate(sizes) if size == 1]
    total = split.sum([1, *repeated], dtype=accumulation_dtype(grads))
    return total.reshape(axes.num_samples, *shape)


ELEMENTWISE: dict[Callable, tuple[Elementwise, Elementwise | None]] = {
    # For each function: what it is with the batch on the left, and with the batch on the right.
    torch.add: ("add", "add"),
    torch.Tensor.add: ("add", "add"),
    torch.Tensor.__add__: ("add", "add"),
    torch.Tensor.__radd__: ("add", "add"),
    torch.sub: ("subtract", "subtract_from"),
    torch.subtract: ("subtract", "subtract_from"),
    torch.Tensor.sub: ("subtract", "subtract_from"),
    torch.Tensor.__sub__: ("subtract", "subtract_from"),
    torch.Tensor.__rsub__: ("subtract_from", "subtract"),
    torch.mul: ("multiply", "multiply"),
    torch.multiply: ("multiply", "multiply"),
    torch.Tensor.mul: ("multiply", "multiply"),
    torch.Tensor.multiply: ("multiply", "multiply"),
    torch.Tensor.__mul__: ("multiply", "multiply"),
    torch.Tensor.__rmul__: ("multiply", "multiply"),
    torch.div: ("divide", None),
    torch.Tensor.div: ("divide", None),
    torch.Tensor.__truediv__: ("divide", None),
}


def bind_broadcast(
    func: Callable, args: tuple, kwargs: dict, kind: Callable[[Any], Kind]
) -> Bound | None:
    """Take an elementwise call of the batch and a parameter apart, where the shapes tell them."""
    if kwargs or len(args) != 2:
        return None
    left, right = ELEMENTWISE[func]
    if kind(args[0]) == "batch" and kind(args[1]) == "param":
        name, x, e = left, args[0], args[1]
    elif kind(args[0]) == "param" and kind(args[1]) == "batch" and right is not None:
        name, x, e = right, args[1], args[0]
    else:
        return None
    # A parameter that reaches the sample axis may have been spread over the batch.
    reaches_first_axis = e.ndim >= x.ndim and e.shape[0] != 1
    if reaches_first_axis or e.ndim > x.ndim or not x.is_floating_point():
        return None
    return Bound(Broadcast(name, x.shape), (x,), (e,))
