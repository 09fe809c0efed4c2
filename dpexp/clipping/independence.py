"""Proves that a model treats samples alone, and finds where they lie in every tensor of a use.

The model runs on a few of the samples, and again with one of them replaced and with one more. The
axis of the samples is the one that grows with their number; along it, only the replaced sample's
rows may differ, in what every use takes and gives, and in what the model returns.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dpexp.clipping.rules.rule import SampleAxes
from dpexp.clipping.tap import ForwardPass, Tap, Use
from dpexp.errors import CrossSampleError, EngineError

# A move of one sample's rows below this share of the largest value is rounding.
_ROUNDING = 1e-5

# For each use of a pass, the sample axis of each input and of each output.
Axes = list[tuple[tuple[int, ...], tuple[int, ...]]]


@dataclass
class Independence:
    """What has been proved about where the samples lie, for each sequence of calls met so far.

    Attributes:
        views: Rows of the model's inputs that belong to one sample.
        axes: By the signature of a pass.
    """

    views: int = 1
    axes: dict[tuple, Axes] = field(default_factory=dict)

    def of(self, use: Use, num_samples: int, num_outputs: int) -> SampleAxes:
        """Return where the samples lie in the tensors of a use."""
        if num_samples == 1:
            return SampleAxes(1, (0,) * use.num_inputs, (0,) * num_outputs)
        inputs, outputs = self.axes[use.forward_pass.signature][use.index]
        return SampleAxes(num_samples, inputs, outputs)

    def prove(
        self, model: nn.Module, tap: Tap, forward_pass: ForwardPass, num_samples: int
    ) -> None:
        """Run the model on a few samples, on one more, and with one of them replaced.

        Raises:
            CrossSampleError: If another sample's rows move.
            EngineError: If the model's inputs do not hold one row per loss, or if what the samples
                are ends in a buffer of the model.
        """
        _check_rows(forward_pass, num_samples, self.views)
        key = forward_pass.signature
        if num_samples == 1 or key in self.axes:
            return
        few = min(num_samples, 3)
        looked = _Looked.at(model, tap, forward_pass, few, self.views)
        if few < num_samples and looked.first.signature != key:
            # The model does other things to a larger batch: then all of it is looked at.
            looked = _Looked.at(model, tap, forward_pass, num_samples, self.views)
        if looked.first.signature[0] != key[0]:
            raise _other_operations()
        self.axes[key] = looked.axes()


def _check_rows(forward_pass: ForwardPass, num_samples: int, views: int) -> None:
    for leaf in pytree.tree_leaves((forward_pass.args, forward_pass.kwargs)):
        if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] != num_samples * views:
            rows = f"{num_samples} losses" + (f" of {views} views each" if views > 1 else "")
            raise EngineError(
                f"the model was called with a tensor of shape {tuple(leaf.shape)}, but there are "
                f"{rows}: every sample needs a loss of its own and a row of its own on the first "
                f"axis of each input, or several samples would be clipped as one. Use "
                f"reduction='none', views= for augmented views, and a buffer for what is shared"
            )


@dataclass(frozen=True)
class _Seen:
    """What one run showed.

    Attributes:
        signature: Of the pass.
        uses: Each use with its inputs and its outputs.
        outputs: What the model returned.
        buffers: The model's buffers after the run, by name.
    """

    signature: tuple
    uses: list[tuple[Use, list[Tensor], list[Tensor]]]
    outputs: list[Tensor]
    buffers: dict[str, Tensor]


@dataclass(frozen=True)
class _Looked:
    """Three runs of the model on the same `few` samples.

    Attributes:
        few: How many.
        first: As they are.
        moved: With the second one replaced.
        more: With one more.
    """

    few: int
    first: _Seen
    moved: _Seen
    more: _Seen

    @classmethod
    def at(
        cls, model: nn.Module, tap: Tap, forward_pass: ForwardPass, few: int, views: int
    ) -> "_Looked":
        """Run the model three times."""
        inputs = _first_rows((forward_pass.args, forward_pass.kwargs), few * views)
        runs = (inputs, _replace_sample(inputs, few), _one_more(inputs, views))
        looked = cls(few, *(_observe(model, tap, each) for each in runs))
        if len({tuple(use.label for use, *_ in run.uses) for run in looked.runs}) > 1:
            raise _other_operations()
        return looked

    @property
    def runs(self) -> tuple[_Seen, _Seen, _Seen]:
        return self.first, self.moved, self.more

    def axes(self) -> Axes:
        """Return the sample axes of every use; check them, the outputs and the buffers."""
        for name, was in self.first.buffers.items():
            if was.shape == (now := self.moved.buffers[name]).shape and _moved(was, now).any():
                raise EngineError(
                    f"the model's forward pass writes what it computes from the samples to its "
                    f"buffer {name}, which would leave with the model, without noise. Switch it "
                    f"off (track_running_stats=False), or put that layer in eval mode"
                )
        proved = []
        for (use, xs, ys), (_, *moved), (_, *more) in zip(
            *(run.uses for run in self.runs), strict=True
        ):
            pairs = zip((xs, ys), moved, more, strict=True)
            inputs, outputs = (self._axes_of(use.label, *tensors) for tensors in pairs)
            proved.append((inputs, outputs))
        self._axes_of("the output of the model", *(run.outputs for run in self.runs))
        return proved

    def _axes_of(
        self, place: str, was: list[Tensor], moved: list[Tensor], more: list[Tensor]
    ) -> tuple[int, ...]:
        triples = zip(was, moved, more, strict=True)
        return tuple(self._axis(a, b, c, place) for a, b, c in triples)

    def _axis(self, was: Tensor, now: Tensor, more: Tensor, place: str) -> int:
        """Return the axis that grows with the samples, of which the second part alone moved.

        Raises:
            CrossSampleError: If there is none.
        """
        if was.shape == now.shape and was.ndim == more.ndim:
            grows = [
                axis
                for axis, (a, b) in enumerate(zip(was.shape, more.shape, strict=True))
                if a * (self.few + 1) == b * self.few and a
            ]
            others = [axis for axis in range(was.ndim) if axis not in grows]
            same = all(was.shape[axis] == more.shape[axis] for axis in others)
            if len(grows) == 1 and same:
                k = was.shape[grows[0]] // self.few
                rows = _moved(was, now).movedim(grows[0], 0)
                if not rows[:k].any() and not rows[2 * k :].any():
                    return grows[0]
        raise CrossSampleError(
            f"replacing one sample moved another's values at {place}: the model mixes samples, so "
            f"one sample's gradient cannot be clipped alone. Batch normalisation does this (use "
            f"model.norm=groupnorm), and so do layers that route or normalise over the batch; the "
            f"samples must also lie together along one axis"
        )


def _other_operations() -> CrossSampleError:
    return CrossSampleError(
        "which operations the model runs depends on the values or the number of its inputs, so "
        "one sample can change what is done to another. Per-sample gradients need the same "
        "operations for every sample"
    )


def _moved(was: Tensor, now: Tensor) -> Tensor:
    """Return where two tensors differ by more than rounding."""
    moved = was != now
    if was.is_floating_point() and was.numel():
        moved &= ~((was - now).abs() <= _ROUNDING * was.abs().amax())
    return moved


def _on_tensors(inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return the inputs with every tensor changed that has samples."""

    def changed(leaf: Any) -> Any:
        return change(leaf) if isinstance(leaf, Tensor) and leaf.ndim else leaf

    return pytree.tree_map(changed, inputs)


def _first_rows(inputs: Any, num_rows: int) -> Any:
    """Return the first rows of the model's inputs."""

    def cut(leaf: Tensor) -> Tensor:
        # A sample that is not finite would hide what moves.
        rows = leaf[:num_rows]
        return rows.nan_to_num(0, 0, 0) if leaf.is_floating_point() else rows

    return _on_tensors(inputs, cut)


def _one_more(inputs: Any, views: int) -> Any:
    """Return the inputs with the first sample once more at their end."""
    return _on_tensors(inputs, lambda leaf: torch.cat([leaf, leaf[:views]]))


def _replace_sample(inputs: Any, few: int) -> Any:
    """Return the inputs with the second sample replaced by another."""

    def replaced(leaf: Tensor) -> Tensor:
        leaf = leaf.clone()
        each = leaf.shape[0] // few
        if leaf.is_floating_point():
            # Reversed and shifted: another picture of the same scale, whatever it was.
            leaf[each : 2 * each] = -leaf[each : 2 * each].flip(-1) + 0.5
        else:
            leaf[each : 2 * each] = leaf[:each].roll(1, -1)
        return leaf

    return _on_tensors(inputs, replaced)


def _observe(model: nn.Module, tap: Tap, inputs: Any) -> _Seen:
    """Run the model and return what it showed, with the same dropout and buffers every time."""
    seen: list[tuple[Use, list[Tensor], list[Tensor]]] = []

    def observer(use: Use, xs: Sequence[Tensor], ys: Sequence[Any]) -> None:
        seen.append((use, [x.detach() for x in xs], _differentiable(ys)))

    devices = {t.device for t in pytree.tree_leaves(inputs) if isinstance(t, Tensor)}
    with (
        torch.random.fork_rng([d for d in devices if d.type == "cuda"]),
        torch.enable_grad(),
        _copied_buffers(model),
    ):
        torch.manual_seed(0)
        tap.observer = observer
        try:
            args, kwargs = inputs
            outputs = model(*args, **kwargs)
        finally:
            tap.observer = None
        buffers = dict(model.named_buffers())
    signature = seen[0][0].forward_pass.signature if seen else ((), ())
    # A number alone, such as a penalty over the batch, holds no sample's rows.
    rows = [y for y in _differentiable(pytree.tree_leaves(outputs)) if y.ndim]
    return _Seen(signature, seen, rows, buffers)


def _differentiable(tensors: Sequence[Any]) -> list[Tensor]:
    return [t.detach() for t in tensors if isinstance(t, Tensor) and t.is_floating_point()]


@contextmanager
def _copied_buffers(model: nn.Module) -> Iterator[None]:
    """Let the model write to copies of its buffers meanwhile."""
    own = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    for module, name, buffer in own:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in own:
            setattr(module, name, buffer)
