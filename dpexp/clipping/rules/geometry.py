"""The options of a convolution, and what follows from them alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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

    @property
    def dims(self) -> int:
        """Number of spatial dimensions."""
        return len(self.stride)

    @property
    def is_dense(self) -> bool:
        """Whether the kernel visits every pixel: stride 1, not transposed, one group."""
        return not self.transposed and self.groups == 1 and set(self.stride) == {1}

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the convolution of `x`."""
        padding = self.output_padding or (0,) * self.dims
        return torch.convolution(
            x, weight, bias, self.stride, self.padding, self.dilation,
            self.transposed, padding, self.groups,
        )  # fmt: skip

    def backward(
        self, grad_y: Tensor, x: Tensor, weight: Tensor, mask: tuple[bool, bool], groups: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of x and weight, each only where `mask` asks for it."""
        padding = self.output_padding or (0,) * self.dims
        grad_x, grad_weight, _ = _backward(
            grad_y, x, weight, None, self.stride, self.padding, self.dilation,
            self.transposed, padding, groups or self.groups, [*mask, False],
        )  # fmt: skip
        return grad_x, grad_weight

    def shifts(self, kernel: Sequence[int], axis: int) -> list[int]:
        """Return by how many pixels each offset of the kernel looks away along a dimension."""
        return [i * self.dilation[axis] - self.padding[axis] for i in range(kernel[axis])]

    def num_visits(
        self, kernel: Sequence[int], inputs: Sequence[int], outputs: Sequence[int]
    ) -> int:
        """Return at how many pairs of kernel offset and position a pixel, not padding, is met."""
        met = 1
        for axis in range(self.dims):
            outs = [
                overlap(inputs[axis], outputs[axis], shift, self.stride[axis])[0]
                for shift in self.shifts(kernel, axis)
            ]
            met *= sum(out.stop - out.start for out in outs)
        return met

    def __str__(self) -> str:
        options = [f"stride {self._each(self.stride)}", f"padding {self._each(self.padding)}"]
        if set(self.dilation) != {1}:
            options.append(f"dilation {self._each(self.dilation)}")
        if self.groups > 1:
            options.append(f"groups {self.groups}")
        return ", ".join(options)

    def _each(self, numbers: Sequence[int]) -> str:
        return "x".join(map(str, numbers if len(set(numbers)) > 1 else numbers[:1]))


def overlap(size: int, places: int, shift: int, stride: int = 1) -> tuple[slice, slice]:
    """Return which outputs meet which pixels, as slices: output t meets pixel t stride + shift.

    Args:
        size: Number of pixels; outside of them is padding.
        places: Number of outputs.
        shift: Pixels.
        stride: Pixels.
    """
    first = max(0, -(shift // stride))
    last = max(first, min(places, (size - 1 - shift) // stride + 1))
    start = first * stride + shift
    return slice(first, last), slice(start, start + (last - first) * stride, stride)


def numbers_of(shape: Sequence[int]) -> int:
    """Return the product of sizes."""
    return math.prod(shape)
