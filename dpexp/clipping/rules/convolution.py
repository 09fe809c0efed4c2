"""Convolution in 1, 2 and 3 dimensions, grouped or not, and its transpose.

A convolution is a linear map on patches: with U(x) the patches of the padded input, shape
(T, D) for T output positions and D = channels in a group times kernel size, y = U(x) W^T, and

    dl_n/dW = G_n^T U(x_n)    and    dl_n/db = sum_t G_n[t].

A transposed convolution is the adjoint: in its weight gradient, x and G change places.

Source: Rochette, Manoel & Tramel 2019, arXiv:1912.06015 (grouped convolution); Bu, Mao & Xu 2022,
arXiv:2205.10683, Section 3 (patches).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dpexp.clipping.per_sample import Dense, PerSampleGrad, accumulation_dtype
from dpexp.clipping.plan import ChooseWay
from dpexp.clipping.rules.convolution_outer import ConvolutionOuter, convolution_problem
from dpexp.clipping.rules.geometry import Geometry, numbers_of
from dpexp.clipping.rules.rule import Affine, Bound, Kind, SampleAxes, under_autocast


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
            problem = convolution_problem(
                self.geometry, weight.shape, x.shape[1:], grad_y.shape[1:], x.shape[0] // n
            )
            way = choose(problem)
            grads.append(ConvolutionOuter(x, grad_y, n, self.geometry, weight, way))
        if "bias" in self.affine.roles:
            channels = grad_y.reshape(n, -1, grad_y.shape[1], numbers_of(grad_y.shape[2:]))
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
