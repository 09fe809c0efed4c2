"""Sees every operation that uses a trainable parameter.

Operations are watched, not modules: a `TorchFunctionMode` is on while the model's forward runs.
Every tensor is of one of three kinds. *Batch* tensors come from the model's inputs; *params* are
trainable parameters and what is computed from them alone; the rest are *constants*. Where a param
meets the batch, the call is computed by its rule inside an `autograd.Function`: that is one *use*,
and its backward pass hands the per-sample gradients of the params to whoever is receiving.

With no receiver, a use gives its params their ordinary gradient, so that `loss.backward()` outside
the engine means what it always did.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from dpexp.clipping.per_sample import PerSampleGrad, accumulation_dtype
from dpexp.clipping.plan import always_ghost
from dpexp.clipping.rules.registry import (
    PERMUTATIONS,
    RESHAPES,
    SHAPE_ONLY,
    bind,
    decomposition,
    is_in_place,
    pure,
)
from dpexp.clipping.rules.rule import Bound, Kind, Operation, SampleAxes
from dpexp.errors import UncoveredParameterError

# Set on tensors that depend on the batch. Not on parameters or modules.
_BATCH_MARK = "_dpexp_is_batch"


@dataclass(frozen=True, eq=False)
class Expression:
    """A tensor made of trainable parameters alone.

    Attributes:
        value: The tensor, with its graph back to the parameters.
        params: The parameters it is made of, as autograd finds them; empty until it is used.
        is_permutation: Whether it is one parameter, its numbers in any order.
        is_reshape: Whether they are in the parameter's own order.
        version: Of `value` when it was seen; a later one says that it was changed in place.
    """

    value: Tensor
    params: tuple[nn.Parameter, ...]
    is_permutation: bool
    is_reshape: bool
    version: int


@dataclass(eq=False)
class ForwardPass:
    """One call of the model.

    Attributes:
        args: What it was called with, kept until the graph is freed.
        kwargs: Likewise.
        uses: Name and parameters of each use, in order.
        calls: Name of every function that was called, in order.
        is_replay: Whether it is such a recomputation.
    """

    args: tuple
    kwargs: dict
    uses: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    is_replay: bool = False

    @cached_property
    def signature(self) -> tuple[tuple, tuple[str, ...]]:
        """What the pass is recognised by; of a pass that has ended."""
        return tuple(self.uses), tuple(self.calls)

    @property
    def sample_shapes(self) -> tuple:
        """Shape and type of one row of each input; what a plan depends on beside the calls."""
        inputs = pytree.tree_leaves((self.args, self.kwargs))
        return tuple((t.shape[1:], t.dtype) for t in inputs if isinstance(t, Tensor))


@dataclass(eq=False)
class Use:
    """One call in which params met the batch.

    Attributes:
        operation: The call, its options bound.
        expressions: The params, in the order of the operation.
        forward_pass: The call of the model it belongs to.
        index: Its place among the uses of that call.
        num_inputs: How many batch tensors it takes.
        spec: How its output tensors become the call's result.
    """

    operation: Operation
    expressions: tuple[Expression, ...]
    forward_pass: ForwardPass
    index: int
    num_inputs: int
    spec: Any = None

    @cached_property
    def label(self) -> str:
        """Say which parameters in which operation, for messages."""
        name, params = self.forward_pass.uses[self.index]
        return f"{', '.join(params)} in {name}"


# Called with a use, its saved tensors and its output gradient, in the backward pass.
Receiver = Callable[[Use, Sequence[Tensor], Any], None]
# Called with a use, its batch inputs, its constants and its outputs, in the forward pass.
Observer = Callable[[Use, Sequence[Tensor], Sequence[Tensor]], None]


class Tap(TorchFunctionMode):
    """Watches one model; see the module docstring.

    Attributes:
        receiver: Takes over the backward pass of every use while set.
        observer: Sees every use of a forward pass while set.
    """

    def __init__(self, names: dict[nn.Parameter, str]) -> None:
        super().__init__()
        self.names = names
        self.receiver: Receiver | None = None
        self.observer: Observer | None = None
        self.anchor = torch.zeros((), requires_grad=True)
        self.forward_pass: ForwardPass | None = None
        self._expressions: dict[int, Expression] = {}

    def _own(self) -> dict[int, Expression]:
        return {
            id(p): Expression(p, (p,), True, True, p._version)
            for p in self.names
            if p.requires_grad
        }

    def start(self, args: tuple, kwargs: dict) -> ForwardPass:
        """Begin a call of the model with these inputs."""
        for leaf in pytree.tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                setattr(leaf, _BATCH_MARK, True)
        self._expressions = self._own()
        self.forward_pass = ForwardPass(args, kwargs)
        return self.forward_pass

    def stop(self) -> None:
        """End the call: what is computed from here on is not watched."""
        self._expressions = {}
        self.forward_pass = None

    def replay(self) -> None:
        """Begin to watch what a checkpointed model recomputes in the backward pass."""
        self._expressions = self._own()
        self.forward_pass = ForwardPass((), {}, is_replay=True)

    def kind(self, leaf: Any) -> Kind:
        """Return which kind of tensor this is; anything else is a constant."""
        if not isinstance(leaf, Tensor):
            return "constant"
        if id(leaf) in self._expressions:
            return "param"
        return "batch" if hasattr(leaf, _BATCH_MARK) else "constant"

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Run one call, as a use if a param meets the batch in it."""
        kwargs = kwargs or {}
        if self.forward_pass is not None:
            self.forward_pass.calls.append(getattr(func, "__name__", ""))
        kinds = {self.kind(t) for t in _tensors((args, kwargs) if kwargs else args)}
        is_differentiable = "param" in kinds and torch.is_grad_enabled()
        if is_differentiable and func in SHAPE_ONLY:
            out = func(*args, **kwargs)
            return self._expression(func, args[:1], out)
        if not (is_differentiable and "batch" in kinds):
            out = func(*args, **kwargs)
            if is_differentiable:
                return self._expression(func, args, out)
            return _mark(func, args, out) if "batch" in kinds else out
        if decomposed := decomposition(func, args, self.kind):
            with self:
                return decomposed(*args, **kwargs)
        if not is_in_place(func):
            return self._use(bind(func, args, kwargs, self.kind))
        return self._in_place(func, args, kwargs)

    def _in_place(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """Compute what an in-place call would leave behind as a use, and put it there."""
        target, *others = args
        source = target.clone()
        if self.kind(target) == "param":
            expression = self._expressions.pop(id(target))
            self._expressions[id(source)] = replace(expression, value=source)
        setattr(source, _BATCH_MARK, True)
        target.copy_(self._use(bind(pure(func), (source, *others), kwargs, self.kind)))
        setattr(target, _BATCH_MARK, True)
        return None if func is Tensor.__setitem__ else target

    def _expression(self, func: Callable, args: tuple, out: Any) -> Any:
        """Remember what was computed from parameters alone."""
        source = self._expressions.get(id(args[0])) if args else None
        is_permutation = source is not None and source.is_permutation and func in PERMUTATIONS
        is_reshape = source is not None and source.is_reshape and func in RESHAPES
        num_kept = source.value.numel() if source else -1
        changed = args[0] if is_in_place(func) else None  # a constant that took parameters in
        for leaf in _tensors((out, changed)):
            if leaf.requires_grad and leaf not in self.names:
                is_whole = leaf.numel() == num_kept
                self._expressions[id(leaf)] = Expression(
                    leaf, (), is_permutation and is_whole, is_reshape and is_whole, leaf._version
                )
        return out

    def _with_params(self, expression: Expression) -> Expression:
        """Return an expression with the parameters that autograd, not this watch, finds in it.

        Raises:
            UncoveredParameterError: If it depends on the batch after all.
        """
        if expression.params:
            return expression
        params: dict[nn.Parameter, None] = {}
        for node, _ in walk(expression.value.grad_fn):
            if use := use_of(node):
                raise UncoveredParameterError(
                    f"{use.label}: its result came back as if it did not depend on the batch "
                    f"(through numpy, or code that hides its operations), so per-sample gradients "
                    f"would be wrong. Compute it with tensor operations, or freeze the parameters"
                )
            if getattr(node, "variable", None) in self.names:
                params[node.variable] = None
        if expression.value._version != expression.version:
            expression = replace(expression, is_permutation=False, is_reshape=False)
        return replace(expression, params=tuple(params))

    def _use(self, bound: Bound) -> Any:
        """Compute a call as a use."""
        assert self.forward_pass is not None
        operation, inputs, params = bound
        expressions = tuple(self._with_params(self._expressions[id(p)]) for p in params)
        names = dict.fromkeys(self.names[p] for e in expressions for p in e.params)
        use = Use(
            operation, expressions, self.forward_pass, len(self.forward_pass.uses), len(inputs)
        )
        self.forward_pass.uses.append((operation.name, tuple(names)))
        outputs = _Tapped.apply(self.anchor, self, use, *inputs, *params)
        if any(t.is_complex() for t in _tensors((inputs, params, outputs))):
            raise UncoveredParameterError(
                f"{use.label} computes with complex numbers, of which per-sample gradients are not "
                f"known. Split them into real and imaginary parts, or freeze the parameters"
            )
        for output in _tensors(outputs):
            setattr(output, _BATCH_MARK, True)
        if self.observer is not None:
            self.observer(use, inputs, outputs)
        return pytree.tree_unflatten(list(outputs), use.spec)


def walk(root: Any, children: Callable[[Any], Sequence] | None = None) -> Iterator[tuple[Any, Any]]:
    """Yield every node of an autograd graph once, each with the node that led to it.

    Args:
        root: A `grad_fn`, or None.
        children: Node -> the edges to follow; all of them if not given.
    """
    stack = [(root, None)] if root is not None else []
    seen = {root}
    while stack:
        node, parent = stack.pop()
        yield node, parent
        for child, _ in children(node) if children else node.next_functions:
            if child is not None and child not in seen:
                seen.add(child)
                stack.append((child, node))


def _tensors(nested: Any) -> list[Tensor]:
    """Return the tensors in nested arguments."""
    # For every call of a model: a loop is several times as fast as a recursive generator.
    found: list[Tensor] = []
    stack = [nested]
    while stack:
        leaf = stack.pop()
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif isinstance(leaf, tuple | list):
            stack.extend(leaf)
        elif isinstance(leaf, dict):
            stack.extend(leaf.values())
    return found


def _mark(func: Callable, args: tuple, out: Any) -> Any:
    """Mark what was computed from the batch, but for what took only its shape."""
    if func in SHAPE_ONLY and func is not Tensor.to and func is not Tensor.type_as:
        is_from_batch = args and hasattr(args[0], _BATCH_MARK) and "as" in func.__name__
        if not is_from_batch:
            return out
    for tensor in _tensors(out):
        setattr(tensor, _BATCH_MARK, True)
    if is_in_place(func) and args and isinstance(args[0], Tensor):
        setattr(args[0], _BATCH_MARK, True)
    return out


class _Tapped(torch.autograd.Function):
    """A use, as autograd sees it: params are inputs of the node, but follow the receiver."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, tap: Tap, use: Use, *tensors: Tensor) -> Any:
        """Compute the call."""
        inputs, params = tensors[: use.num_inputs], tensors[use.num_inputs :]
        result, saved = use.operation.forward(inputs, params)
        outputs, use.spec = pytree.tree_flatten(result)
        ctx.tap, ctx.use = tap, use
        ctx.save_for_backward(*saved)
        ctx.is_differentiable = [isinstance(y, Tensor) and y.is_floating_point() for y in outputs]
        pairs = zip(outputs, ctx.is_differentiable, strict=True)
        ctx.mark_non_differentiable(*(y for y, d in pairs if isinstance(y, Tensor) and not d))
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads_y: Tensor) -> Any:
        """Return the gradients of the inputs; hand those of the params over."""
        use, saved = ctx.use, ctx.saved_tensors
        kept = [g for g, d in zip(grads_y, ctx.is_differentiable, strict=True) if d]
        grad_y = kept[0] if len(kept) == 1 else kept
        with torch._C.DisableTorchFunction():  # a replay is not to watch this
            return _Tapped.gradients(ctx, use, saved, grad_y)

    @staticmethod
    def gradients(ctx: Any, use: Use, saved: Sequence[Tensor], grad_y: Any) -> Any:
        """Return a gradient, or None, for each argument of `forward`."""
        needed = ctx.needs_input_grad[3 : 3 + use.num_inputs]
        if ctx.tap.receiver is not None:
            ctx.tap.receiver(use, saved, grad_y)
            grads: Sequence[Tensor | None] = (None,) * len(use.expressions)
        else:
            wanted = ctx.needs_input_grad[3 + use.num_inputs :]
            grads = plain_grads(use, saved, grad_y) if any(wanted) else (None,) * len(wanted)
        return (None, None, None, *use.operation.input_grads(saved, grad_y, needed), *grads)


def use_of(node: Any) -> Use | None:
    """Return the use that a node of the autograd graph belongs to, if it does."""
    return node.use if isinstance(node, _Tapped._backward_cls) else None  # type: ignore[attr-defined]


def plain_grads(use: Use, saved: Sequence[Tensor], grad_y: Any) -> list[Tensor]:
    """Return the ordinary gradients of a use's params: the whole batch as one sample."""
    num_outputs = 1 if isinstance(grad_y, Tensor) else len(grad_y)
    axes = SampleAxes(1, (0,) * use.num_inputs, (0,) * num_outputs)
    grads: Sequence[PerSampleGrad] = use.operation.param_grads(saved, grad_y, axes, always_ghost)
    values = [expression.value for expression in use.expressions]
    return [
        grad.weighted_sum(torch.ones(1, dtype=accumulation_dtype(v), device=v.device))
        .view(v.shape)
        .to(v.dtype)
        for grad, v in zip(grads, values, strict=True)
    ]
