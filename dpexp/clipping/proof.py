"""Proves, before any update, what the engine relies on: that nothing gets past it.

Three proofs, none of which trusts the engine's own list of operations:

* every trainable parameter that autograd can reach from the losses is reached through a use;
* replacing one sample moves that sample's own rows of every tensor a use sees, and no others (see
  `independence.py`);
* the losses of some samples have no gradient at the other samples' rows of any use.

What no proof here sees is a loss function that reads other samples' values without a gradient, such
as a weight taken over the batch and detached: losses are computed outside the engine.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations, count, islice
from math import comb
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dpexp.clipping.rules.rule import SampleAxes, split_samples
from dpexp.clipping.tap import Use, use_of, walk
from dpexp.errors import CrossSampleError, UncoveredParameterError


class Reached(NamedTuple):
    """What the backward pass of some losses will run.

    Attributes:
        uses: The uses of parameters.
        graph: The kind of every node, in the order of a walk: the same for the same computation.
    """

    uses: list[Use]
    graph: tuple[str, ...]


def uses_reached(losses: Tensor, names: dict[nn.Parameter, str]) -> Reached:
    """Return what the backward pass of `losses` will run.

    Raises:
        UncoveredParameterError: If autograd reaches a trainable parameter any other way. Its
            gradient would be left out of the norm, and reach the optimizer unclipped or not at all.
    """
    uses: list[Use] = []
    graph: list[str] = []
    leaks: dict[str, str] = {}
    for node, parent in walk(losses.grad_fn, _edges_past_params):
        graph.append(type(node).__name__)
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
    return Reached(uses, tuple(graph))


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


def parts(num_samples: int) -> Iterator[Tensor]:
    """Yield parts of the samples, as masks of shape (n,), that tell every two samples apart.

    For any two, one part has the first without the second, and one the second without the first:
    each sample is given another choice of half of the parts, and no choice holds another. 256
    samples take 11 parts.
    """
    num_parts = next(k for k in count(1) if comb(k, k // 2) >= num_samples)
    choices = list(islice(combinations(range(num_parts), num_parts // 2), num_samples))
    for part in range(num_parts):
        yield torch.tensor([part in choice for choice in choices])


def check_only_own_rows(
    use: Use, grads_y: Sequence[Tensor], axes: SampleAxes, part: Tensor
) -> None:
    """Check that the gradient of some samples' losses is zero at the others' outputs of a use.

    Whatever mixes samples after the use, in the model or in the loss, leaves its trace there. What
    is not finite leaves none: 0 times inf is nan, so it may come from the other sample alone.

    Args:
        use: The use, for the message.
        grads_y: Gradients of its outputs.
        axes: Where the samples lie in them.
        part: Which samples' losses were taken, shape (n,).

    Raises:
        CrossSampleError: If another sample has a gradient.
    """
    for grad, axis in zip(grads_y, axes.outputs, strict=True):
        rows = split_samples(grad, axis, axes.num_samples).nan_to_num(0, 0, 0)
        if rows[~part.to(rows.device)].any():
            raise CrossSampleError(
                f"the loss of one sample depends on other samples' values at {use.label}, so one "
                f"sample's gradient cannot be clipped alone. Keep the model from mixing samples, "
                f"and use a loss of one sample each, such as cross_entropy(..., reduction='none')"
            )
