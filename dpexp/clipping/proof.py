"""Proves, before any update, what the engine relies on: that nothing gets past it.

Three proofs, none of which trusts the engine's own list of operations:

* every trainable parameter that autograd can reach from the losses is reached through a use;
* replacing one sample moves that sample's own rows of every tensor a use sees, and no others;
* the loss of one sample has no gradient at the other samples' rows of any use.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dpexp.clipping.rules.rule import SampleAxes, split_samples
from dpexp.clipping.tap import ForwardPass, Tap, Use, use_of, walk
from dpexp.errors import CrossSampleError, UncoveredParameterError

# A move of one sample's rows below this share of the largest value is rounding.
_ROUNDING = 1e-5


def uses_reached(losses: Tensor, names: dict[nn.Parameter, str]) -> list[Use]:
    """Return the uses that the backward pass of `losses` will run.

    Raises:
        UncoveredParameterError: If autograd reaches a trainable parameter any other way. Its
            gradient would be left out of the norm, and reach the optimizer unclipped or not at all.
    """
    uses: list[Use] = []
    leaks: dict[str, str] = {}
    for node, parent in walk(losses.grad_fn, _edges_past_params):
        if use := use_of(node):
            uses.append(use)
        elif type(node).__name__ == "CheckpointFunctionBackward":
            raise UncoveredParameterError(
                "the model uses reentrant activation checkpointing, which hides its operations "
                "from autograd until the backward pass, so coverage cannot be proved beforehand. "
                "Pass use_reentrant=False to torch.utils.checkpoint.checkpoint"
            )
        elif getattr(node, "variable", None) in names:
            leaks[names[node.variable]] = parent.name() if parent else "the losses"
    if leaks:
        raise UncoveredParameterError(_leak_message(leaks))
    return uses


def _edges_past_params(node: Any) -> Sequence:
    """Return the edges of a node, without those of a use to its own params."""
    use = use_of(node)
    return node.next_functions[: 1 + use.num_inputs] if use else node.next_functions


def _leak_message(leaks: dict[str, str]) -> str:
    shown = "; ".join(f"{name} (in {where})" for name, where in list(leaks.items())[:10])
    hidden = f"; and {len(leaks) - 10} more" if len(leaks) > 10 else ""
    return (
        f"{len(leaks)} trainable parameter(s) reach the losses past the engine, so their gradients "
        f"would not be clipped and epsilon would be meaningless: {shown}{hidden}. Call the model "
        f"itself (not model.forward_features or a submodule), keep penalties on weights out of the "
        f"losses (use weight_decay), or freeze the parameters"
    )


@dataclass
class Independence:
    """What has been proved about where the samples lie, for each sequence of uses met so far."""

    axes: dict[tuple, list[tuple[tuple[int, ...], tuple[int, ...]]]] = field(default_factory=dict)

    def of(self, use: Use, num_samples: int, num_outputs: int) -> SampleAxes:
        """Return where the samples lie in the tensors of a use."""
        if num_samples == 1:
            return SampleAxes(1, (0,) * use.num_inputs, (0,) * num_outputs)
        inputs, outputs = self.axes[tuple(use.forward_pass.uses)][use.index]
        return SampleAxes(num_samples, inputs, outputs)

    def prove(
        self, model: nn.Module, tap: Tap, forward_pass: ForwardPass, num_samples: int
    ) -> None:
        """Run the model on a few samples, twice, with one of them replaced the second time.

        Raises:
            CrossSampleError: If another sample's rows move.
        """
        key = tuple(forward_pass.uses)
        if num_samples == 1 or key in self.axes:
            return
        few = min(num_samples, 3)
        inputs = _first_samples((forward_pass.args, forward_pass.kwargs), num_samples, few)
        first = _observe(model, tap, inputs)
        second = _observe(model, tap, _replace_sample(inputs, few))
        if [use.label for use, *_ in first] != [use.label for use, *_ in second]:
            raise CrossSampleError(
                "which operations the model runs depends on the values of its inputs, so one "
                "sample can change what is done to another. Per-sample gradients need the same "
                "operations for every sample"
            )
        proved = [
            (_sample_axes(xs, xs_moved, few, use), _sample_axes(ys, ys_moved, few, use))
            for (use, xs, ys), (_, xs_moved, ys_moved) in zip(first, second, strict=True)
        ]
        self.axes[key] = proved
        # On fewer samples the model may run other operations: then this call is not yet proved.
        self.axes[tuple(first[0][0].forward_pass.uses) if first else key] = proved


def _first_samples(inputs: Any, num_samples: int, few: int) -> Any:
    """Return the model's inputs for the first `few` samples alone."""

    def cut(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.ndim == 0:
            return leaf
        if leaf.shape[0] % num_samples:
            raise CrossSampleError(
                f"the model was called with a tensor of shape {tuple(leaf.shape)}, but there are "
                f"{num_samples} samples: the first axis of every input must hold the samples, so "
                f"that each one's gradient can be told apart"
            )
        leaf = leaf[: leaf.shape[0] // num_samples * few]
        # A sample that is not finite would hide what moves.
        return leaf.nan_to_num(0, 0, 0) if leaf.is_floating_point() else leaf

    return pytree.tree_map(cut, inputs)


def _replace_sample(inputs: Any, few: int) -> Any:
    """Return the inputs with the second sample replaced by another."""

    def replaced(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.ndim == 0:
            return leaf
        leaf = leaf.clone()
        each = leaf.shape[0] // few
        if leaf.is_floating_point():
            # Reversed and shifted: another picture of the same scale, whatever it was.
            leaf[each : 2 * each] = -leaf[each : 2 * each].flip(-1) + 0.5
        else:
            leaf[each : 2 * each] = leaf[:each].roll(1, -1)
        return leaf

    return pytree.tree_map(replaced, inputs)


def _observe(
    model: nn.Module, tap: Tap, inputs: Any
) -> list[tuple[Use, list[Tensor], list[Tensor]]]:
    """Run the model and return what every use saw and gave, with the same dropout every time."""
    seen: list[tuple[Use, list[Tensor], list[Tensor]]] = []

    def observer(use: Use, xs: Sequence[Tensor], ys: Sequence[Any]) -> None:
        kept = [y.detach() for y in ys if isinstance(y, Tensor) and y.is_floating_point()]
        seen.append((use, [x.detach() for x in xs], kept))

    devices = {t.device for t in pytree.tree_leaves(inputs) if isinstance(t, Tensor)}
    with torch.random.fork_rng([d for d in devices if d.type == "cuda"]), torch.enable_grad():
        torch.manual_seed(0)
        tap.observer = observer
        try:
            args, kwargs = inputs
            model(*args, **kwargs)
        finally:
            tap.observer = None
    return seen


def _sample_axes(was: list[Tensor], now: list[Tensor], few: int, use: Use) -> tuple[int, ...]:
    return tuple(_sample_axis(a, b, few, use) for a, b in zip(was, now, strict=True))


def _sample_axis(was: Tensor, now: Tensor, few: int, use: Use) -> int:
    """Return the axis whose second part alone moved.

    Raises:
        CrossSampleError: If no axis is split so.
    """
    if was.shape == now.shape:
        moved = was != now
        if was.is_floating_point() and was.numel():
            moved &= ~((was - now).abs() <= _ROUNDING * was.abs().amax())
        for axis in range(was.ndim):
            k, rest = divmod(was.shape[axis], few)
            along = moved.movedim(axis, 0).flatten(1).any(1) if was.ndim > 1 else moved
            if not rest and not along[:k].any() and not along[2 * k :].any():
                return axis
    raise CrossSampleError(
        f"replacing one sample moved another's values at {use.label}: the model mixes samples, "
        f"so one sample's gradient cannot be clipped alone. Batch normalisation does this (use "
        f"model.norm=groupnorm), and so do layers that route or normalise over the batch; the "
        f"samples must also lie together along one axis"
    )


def check_only_own_rows(use: Use, grads_y: Sequence[Tensor], axes: SampleAxes, sample: int) -> None:
    """Check that the gradient of one sample's loss is zero at the others' outputs of a use.

    Whatever mixes samples after the use, in the model or in the loss, leaves its trace there. What
    is not finite leaves none: 0 times inf is nan, so it may come from the other sample alone.

    Raises:
        CrossSampleError: If another sample has a gradient.
    """
    for grad, axis in zip(grads_y, axes.outputs, strict=True):
        rows = split_samples(grad, axis, axes.num_samples).nan_to_num(0, 0, 0)
        if rows[:sample].any() or rows[sample + 1 :].any():
            raise CrossSampleError(
                f"the loss of one sample depends on other samples' values at {use.label}, so one "
                f"sample's gradient cannot be clipped alone. Keep the model from mixing samples, "
                f"and use a loss of one sample each, such as cross_entropy(..., reduction='none')"
            )
