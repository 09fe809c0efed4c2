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
            step, size, places = self.stride[axis], inputs[axis], outputs[axis]
            met *= sum(
                1
                for shift in self.shifts(kernel, axis)
                for place in range(places)
                if 0 <= place * step + shift < size
            )
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


def overlap(size: int, places: int, shift: int) -> tuple[slice, slice]:
    """Return where outputs and the pixels `shift` further on meet: slices of outputs and pixels."""
    first = max(0, -shift)
    last = max(first, min(places, size - shift))
    return slice(first, last), slice(first + shift, last + shift)


def numbers_of(shape: Sequence[int]) -> int:
    """Return the product of sizes."""
    return math.prod(shape)
