"""Any operation at all, slowly: the safe default for what no rule covers.

Every sample gets its own copy of the parameter, and the one operation is differentiated with
respect to the copies under `vmap`, or in a loop where `vmap` cannot. That the operation can be run
on one sample alone is not assumed: its result there is compared with its result on the batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.utils import _pytree as pytree

from dpexp.clipping.per_sample import Aligned, Dense, PerSampleGrad
from dpexp.clipping.plan import ChooseWay
from dpexp.clipping.rules.rule import Bound, Kind, SampleAxes
from dpexp.errors import CrossSampleError


@dataclass(frozen=True)
class General:
    """A bound call of any function of tensors.

    Attributes:
        func: The function; pure, also where the original changed its first argument in place.
        order: The kind of each argument, flattened.
        constants: The constant ones, in order.
        spec: How the arguments become (args, kwargs) again.
        num_inputs: How many inputs there are.
    """

    func: Callable
    order: tuple[Kind, ...]
    constants: tuple[Any, ...]
    spec: Any
    num_inputs: int

    @property
    def name(self) -> str:
        return getattr(self.func, "__name__", str(self.func))

    def call(self, inputs: Sequence[Tensor], params: Sequence[Tensor]) -> Any:
        """Return the function of these inputs and params."""
        sources = {"batch": iter(inputs), "param": iter(params), "constant": iter(self.constants)}
        leaves = [next(sources[kind]) for kind in self.order]
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return self.func(*args, **kwargs)

    def outputs(self, inputs: Sequence[Tensor], params: Sequence[Tensor]) -> list[Tensor]:
        """Return the differentiable tensors among the results."""
        leaves = pytree.tree_leaves(self.call(inputs, params))
        return [y for y in leaves if isinstance(y, Tensor) and y.is_floating_point()]

    def forward(
        self, inputs: Sequence[Tensor], params: Sequence[Tensor]
    ) -> tuple[Any, Sequence[Tensor | None]]:
        return self.call(inputs, params), (*inputs, *params)

    def _saved(self, saved: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        return saved[: self.num_inputs], saved[self.num_inputs :]

    def input_grads(
        self, saved: Sequence[Tensor], grad_y: Any, needed: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        inputs, params = self._saved(saved)
        if not any(needed):
            return [None] * len(inputs)
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_(n) for x, n in zip(inputs, needed, strict=True)]
            outputs = self.outputs(inputs, [p.detach() for p in params])
        pairs = [(y, g) for y, g in zip(outputs, as_list(grad_y), strict=True) if y.requires_grad]
        wanted = [x for x in inputs if x.requires_grad]
        grads = iter(
            torch.autograd.grad(
                [y for y, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True
            )
        )
        return [next(grads) if n else None for n in needed]

    def param_grads(
        self, saved: Sequence[Tensor], grad_y: Any, axes: SampleAxes, choose: ChooseWay
    ) -> Sequence[PerSampleGrad]:
        inputs, params = self._saved(saved)
        n = axes.num_samples
        xs = [_in_place(x, axis, n) for x, axis in zip(inputs, axes.inputs, strict=True)]
        gs = [_in_place(g, axis, n) for g, axis in zip(as_list(grad_y), axes.outputs, strict=True)]
        spread = self._which_are_spread(inputs, params, xs, axes)
        ps = [
            p.unflatten(0, (n, p.shape[0] // n)) if is_spread else p
            for p, is_spread in zip(params, spread, strict=True)
        ]
        grads = self._per_sample(ps, spread, xs, gs)
        return [
            Aligned(g) if is_spread else Dense(g)
            for g, is_spread in zip(grads, spread, strict=True)
        ]

    def _per_sample(
        self, ps: list[Tensor], spread: tuple[bool, ...], xs: list[Tensor], gs: list[Tensor]
    ) -> Sequence[Tensor]:
        """Return dl_n/dp for every param, shape (n, ...), by vmap or else one sample at a time."""

        def inner_product(p: list[Tensor], x: list[Tensor], g: list[Tensor]) -> Tensor:
            pairs = zip(self.outputs(x, p), g, strict=True)
            return torch.stack([(y * each).sum() for y, each in pairs]).sum()

        ps, xs, gs = ([t.detach() for t in ts] for ts in (ps, xs, gs))
        with torch.enable_grad():
            try:
                in_dims = ([0 if is_spread else None for is_spread in spread], 0, 0)
                return vmap(grad(inner_product), in_dims=in_dims, randomness="error")(ps, xs, gs)
            except (RuntimeError, ValueError, NotImplementedError):
                # vmap does not know the operation, or it looks at values: go one at a time.
                pass
            parts = []
            for i in range(xs[0].shape[0]):
                each = [
                    (p[i] if is_spread else p).detach().requires_grad_()
                    for p, is_spread in zip(ps, spread, strict=True)
                ]
                total = inner_product(each, [x[i] for x in xs], [g[i] for g in gs])
                parts.append(torch.autograd.grad(total, each, materialize_grads=True))
        return [torch.stack(column) for column in zip(*parts, strict=True)]

    @torch.no_grad()
    def _which_are_spread(
        self,
        inputs: Sequence[Tensor],
        params: Sequence[Tensor],
        xs: list[Tensor],
        axes: SampleAxes,
    ) -> tuple[bool, ...]:
        """Return which params carry a row for each sample, found by running one sample alone."""
        n = axes.num_samples
        if n == 1:
            return (False,) * len(params)
        whole = self.outputs(inputs, params)
        wanted = [_in_place(y, axis, n)[-1] for y, axis in zip(whole, axes.outputs, strict=True)]
        for spread in _candidates(params, n):
            alone = [
                p.unflatten(0, (n, p.shape[0] // n))[-1] if is_spread else p
                for p, is_spread in zip(params, spread, strict=True)
            ]
            try:
                found = self.outputs([x[-1] for x in xs], alone)
            except (RuntimeError, ValueError, IndexError):
                continue  # the shapes do not fit: not this way
            if all(_is_close(a, b) for a, b in zip(found, wanted, strict=True)):
                return spread
        raise CrossSampleError(
            f"the operation {self.name!r} gives one sample alone another result than within its "
            f"batch: it mixes samples, or is random. Its parameters then have no per-sample "
            f"gradient. Freeze them, or write the operation so that samples lie along one axis"
        )


def as_list(grads: Any) -> list[Tensor]:
    """Return the gradients of one or several outputs as a list."""
    return [grads] if isinstance(grads, Tensor) else list(grads)


def _in_place(tensor: Tensor, axis: int, num_samples: int) -> Tensor:
    """Return (n, ...) in which each sample's k rows stay on the axis that held the samples."""
    split = (num_samples, tensor.shape[axis] // num_samples)
    return tensor.unflatten(axis, split).movedim(axis, 0)


def _candidates(params: Sequence[Tensor], n: int) -> Iterator[tuple[bool, ...]]:
    """Yield which params could carry a row for each sample: none first, then all that fit."""
    yield (False,) * len(params)
    fits = tuple(p.ndim > 0 and p.shape[0] > 0 and p.shape[0] % n == 0 for p in params)
    if any(fits):
        yield fits


def _is_close(a: Tensor, b: Tensor) -> bool:
    rtol = 1e-9 if a.dtype == torch.float64 else 1e-3
    return a.shape == b.shape and torch.allclose(
        a, b, rtol=rtol, atol=rtol * float(b.abs().amax()) if b.numel() else 0.0, equal_nan=True
    )


def bind_general(func: Callable, args: tuple, kwargs: dict, kind: Callable[[Any], Kind]) -> Bound:
    """Take any call apart."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    order = tuple(kind(leaf) for leaf in leaves)
    of_kind = {
        each: tuple(t for t, k in zip(leaves, order, strict=True) if k == each)
        for each in ("batch", "param", "constant")
    }
    operation = General(func, order, of_kind["constant"], spec, len(of_kind["batch"]))
    return Bound(operation, of_kind["batch"], of_kind["param"])
