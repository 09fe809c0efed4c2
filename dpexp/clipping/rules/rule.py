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
from dpexp.errors import CrossSampleError

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

    def require_first(self, name: str) -> None:
        """Refuse samples along another axis than the first.

        Raises:
            CrossSampleError: If there are.
        """
        elsewhere = [axis for axis in (*self.inputs, *self.outputs) if axis]
        if elsewhere:
            raise CrossSampleError(
                f"{name} was called with the samples along axis {elsewhere[0]}, where its "
                f"parameters' gradients cannot be told apart by sample. Put the samples on the "
                f"first axis before it, or freeze its parameters"
            )


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


class Affine(NamedTuple):
    """The weight and bias of a call, told apart.

    Attributes:
        roles: Which of "weight" and "bias" are made of trainable parameters, in that order.
        params: Those.
        weight: The weight, if it is a constant.
        bias: The bias, if it is a constant.
    """

    roles: tuple[str, ...]
    params: tuple[Tensor, ...]
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def of(
        cls, x: Tensor, weight: Tensor | None, bias: Tensor | None, kind: Callable[[Any], Kind]
    ) -> "Affine | None":
        """Tell weight and bias apart; None unless x alone is of the batch."""
        if kind(x) != "batch" or kind(weight) == "batch" or kind(bias) == "batch":
            return None
        given = {"weight": weight, "bias": bias}
        params = {role: t for role, t in given.items() if t is not None and kind(t) == "param"}
        constants = {role: t for role, t in given.items() if role not in params}
        return cls(
            tuple(params), tuple(params.values()), constants.get("weight"), constants.get("bias")
        )

    def filled(self, params: Sequence[Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """Return weight and bias, with `params` where they belong."""
        given = dict(zip(self.roles, params, strict=True))
        return given.get("weight", self.weight), given.get("bias", self.bias)


def under_autocast(
    x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the tensors in the dtype autocast computes matrix products in, if it is on."""
    device = x.device.type
    if not torch.is_autocast_enabled(device) or x.dtype == torch.float64:
        return x, weight, bias
    dtype = torch.get_autocast_dtype(device)
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
