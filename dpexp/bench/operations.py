"""Multiply-adds of an ordinary step, counted as it runs, and of a clipped one, from its plan.

With F the forward pass, I the gradients of inputs and W those of weights, an ordinary step is
F + I + W. A clipped step of one backward pass is F + I + W and the norms; a gradient that is kept
for the clipped sum takes the place of its share of W. A step of two passes is F + I, the norms,
and then I + W. Only products of matrices, convolutions and attention are counted: what is done to
each number once (normalisation, activations, the squares of a kept gradient) is bound by memory.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from dpexp.bench.subject import Subject, Work
from dpexp.clipping.plan import KEPT
from dpexp.config import Algorithm


@dataclass(frozen=True)
class Counts:
    """Multiply-adds of a batch.

    Attributes:
        ordinary: Forward and backward pass of ordinary training.
        norms: Of a clipped step's norms, those of kept gradients left out.
        second_pass: Of the gradients of inputs, where they are taken twice.
    """

    ordinary: int
    norms: int
    second_pass: int

    @property
    def ratio(self) -> float:
        """Clipped over ordinary; 1 for a model without a product."""
        if not self.ordinary:
            return 1.0
        return 1 + (self.norms + self.second_pass) / self.ordinary


def counts_of(
    subject: Subject, algorithm: Algorithm, rows: Sequence[Mapping[str, Any]], passes: int
) -> Counts:
    """Count a step of `subject`.

    Args:
        subject: What steps.
        algorithm: How it is clipped.
        rows: The full plan of the engine, after a step.
        passes: Backward passes of the engine.
    """
    ordinary = multiply_adds(subject.ordinary_step())
    second = 0
    if passes == 2:
        forward = multiply_adds(lambda: subject.losses(subject.model))
        second = ordinary - forward - subject.batch * weight_operations(rows)
    norms = subject.batch * norm_operations(rows, algorithm, passes)
    return Counts(ordinary, norms, second)


def weight_operations(rows: Iterable[Mapping[str, Any]]) -> int:
    """Return the multiply-adds of the ordinary weight gradients, a sample: T D p of each use."""
    return sum(row["positions"] * row["inputs"] * row["outputs"] for row in rows)


def norm_operations(rows: Iterable[Mapping[str, Any]], algorithm: Algorithm, passes: int) -> int:
    """Return the multiply-adds of the norms, a sample.

    Nothing for a gradient that is kept: its product is the ordinary one, taken sample by sample.
    Two passes keep none, and `instantiate` keeps all.
    """
    if algorithm == "instantiate":
        return 0
    is_keeping = passes == 1
    return sum(_of_norm(row) for row in rows if not (is_keeping and row["sum"] == KEPT))


def _of_norm(row: Mapping[str, Any]) -> int:
    # At one position the gradient is of rank one, and its norm is a product of two norms.
    is_rank_one = row["problem"].startswith("linear") and row["positions"] == 1
    if is_rank_one and row["sum"] != KEPT:
        return row["inputs"] + row["outputs"]
    return row["operations"]


def multiply_adds(work: Work) -> int:
    """Return the multiply-adds of products, convolutions and attention while `work` runs."""
    counter = FlopCounterMode(
        display=False,
        custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward},
    )
    with counter:
        work()
    return counter.get_total_flops() // 2


def _convolution_backward(
    grad_y: Sequence[int], x: Sequence[int], weight: Sequence[int], *rest: Any, **_: Any
) -> int:
    """Return the operations of a convolution's gradients, two a multiply-add.

    Torch's own formula takes a grouped convolution's weight gradient for a dense one's. Each of the
    two gradients meets every weight at every position, as the forward pass does.
    """
    # Between them: bias, stride, padding, dilation; output padding, groups.
    is_transposed, mask = rest[4], rest[7]
    positions = prod((x if is_transposed else grad_y)[2:])
    return 2 * x[0] * positions * prod(weight) * sum(map(bool, mask[:2]))
