"""What a rule is: one call of an operation, and how to differentiate it per sample.

A call is taken apart into tensors that carry the batch (`inputs`), tensors made of trainable
parameters alone (`params`), and options. The rule computes the output, the gradients of the inputs
and, for each of the params, the per-sample gradients in the form that is cheapest to hold.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from dpexp.clipping.per_sample import PerSampleGrad
from dpexp.clipping.plan import ChooseWay

Kind = Literal["param", "batch", "constant"]


@dataclass(frozen=True)
class SampleAxes:
    """Where the samples lie in the tensors of one call.

    Attributes:
        num_samples: n.
        inputs: For each input, the axis that holds the samples, outermost within the axis.
        outputs: The same for each output.
    """

    num_samples: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def split_input(self, tensor: Tensor, index: int = 0) -> Tensor:
        """Return an input as (n, k, ...): k rows belong to each sample."""
        return split_samples(tensor, self.inputs[index], self.num_samples)

    def split_output(self, tensor: Tensor) -> Tensor:
        """Return the only output, or its gradient, as (n, k, ...)."""
        return split_samples(tensor, self.outputs[0], self.num_samples)


def split_samples(tensor: Tensor, axis: int, num_samples: int) -> Tensor:
    """Return `tensor` with its sample axis first and split: (n, k, remaining axes in order)."""
    moved = tensor.movedim(axis, 0) if axis else tensor
    return moved.reshape(num_samples, moved.shape[0] // num_samples, *moved.shape[1:])


class Operation(Protocol):
    """One call of an operation, with its options bound; holds no tensor of the batch."""

    @property
    def name(self) -> str:
        """The operation, for messages and the plan."""
        ...

    def forward(
        self, inputs: Sequence[Tensor], params: Sequence[Tensor]
    ) -> tuple[Any, Sequence[Tensor | None]]:
        """Return the output, and the tensors to keep for the backward pass."""
        ...

    def input_grads(
        self, saved: Sequence[Tensor], grad_y: Tensor, needed: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        """Return the gradient of each input that is needed, None for the others."""
        ...

    def param_grads(
        self, saved: Sequence[Tensor], grad_y: Tensor, axes: SampleAxes, choose: ChooseWay
    ) -> Sequence[PerSampleGrad]:
        """Return the per-sample gradients of each of the params, in their order."""
        ...


class Bound(NamedTuple):
    """A call taken apart by a rule."""

    operation: Operation
    inputs: tuple[Tensor, ...]
    params: tuple[Tensor, ...]


# (func, args, kwargs, kind of a tensor) -> the call taken apart, or None if it does not apply.
Bind = Callable[[Callable, tuple, dict, Callable[[Any], Kind]], Bound | None]


def under_autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Return the tensors in the dtype autocast computes matrix products in, if it is on."""
    device = next(t.device.type for t in tensors if t is not None)
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t.to(dtype) if t is not None and t.dtype != torch.float64 else t for t in tensors)
