"""Evaluation: logits of a split, and everything measured on them."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dpexp.data.splits import Split
from dpexp.metrics.reliability import Reliability, reliability
from dpexp.train.task import Task, task_of


@dataclass(frozen=True)
class Evaluation:
    """What was measured on one split.

    Attributes:
        metrics: By name; None where a measure does not exist because the model has diverged.
        num_samples: How many samples it was measured on.
        reliability: Accuracy and confidence per bin; None for a diverged model, and for a task
            without confidence.
        logits: What the model said, float32 on the CPU, shape (n, outputs).
        labels: What it should have said, shape (n,).
        task: What was asked.
    """

    metrics: dict[str, Any]
    num_samples: int
    reliability: Reliability | None
    logits: Tensor
    labels: Tensor
    task: Task

    @property
    def has_diverged(self) -> bool:
        """Whether an output is not finite."""
        return self.metrics["num_nonfinite"] > 0

    def named(self, place: str) -> dict[str, Any]:
        """Return the metrics as `place`/<name>."""
        metrics = {"num_samples": self.num_samples, **self.metrics}
        return {f"{place}/{name}": value for name, value in metrics.items()}


def some_of(split: Split, count: int) -> Split:
    """Return a fixed part of `split`, the same in every run; all of it if it has no more."""
    if count >= len(split):
        return split
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(split), generator=generator)[:count].sort().values
    return replace(split, rows=split.rows[chosen])


class EvaluationStopped(Exception):
    """Somebody asked to stop while an evaluation ran; it has no result."""


@torch.no_grad()
def logits_of(
    model: nn.Module,
    split: Split,
    *,
    batch: int,
    autocast: AbstractContextManager,
    should_stop: Callable[[], bool],
) -> Tensor:
    """Return the outputs for every sample, float32 on the CPU, shape (n, outputs).

    The model is in eval mode meanwhile.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    parts = []
    try:
        for start in range(0, len(split), batch):
            images, _ = split.batch(list(range(start, min(start + batch, len(split)))))
            if should_stop():
                raise EvaluationStopped
            with autocast:
                parts.append(model(images.to(device)).float().cpu())
    finally:
        model.train(was_training)
    return torch.cat(parts)


def evaluate(
    model: nn.Module,
    split: Split,
    *,
    batch: int,
    autocast: AbstractContextManager,
    should_stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Return every measure of `model` on `split`, read `batch` samples at a time.

    Raises:
        EvaluationStopped: As soon as `should_stop` says so, between two batches.
    """
    logits = logits_of(model, split, batch=batch, autocast=autocast, should_stop=should_stop)
    return measure(logits, split)


def measure(logits: Tensor, split: Split) -> Evaluation:
    """Return every measure of a model that answered `split` with these outputs."""
    task = task_of(split)
    metrics = task.measure(logits, split.labels)
    has_bins = task.has_confidence and not metrics["num_nonfinite"]
    bins = reliability(logits, split.labels) if has_bins else None
    return Evaluation(metrics, len(split), bins, logits, split.labels, task)
