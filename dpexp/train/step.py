"""One training step: what the whole toolkit is about, on one screen."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dpexp.clipping.engine import PrivacyEngine
from dpexp.train.task import CLASSIFICATION


@dataclass(frozen=True)
class StepStats:
    """What a step saw. Not private: for the lab's log, never for release.

    Attributes:
        losses: One a sample, in the unit of the loss, shape (n,).
        grad_norms: |g_n|, gradient units, shape (n,); empty for ordinary training.
    """

    losses: Tensor
    grad_norms: Tensor


def train_step(
    model: nn.Module,
    optimizer: Optimizer,
    engine: PrivacyEngine | None,
    micro_batches: Iterable[tuple[Tensor, Tensor]],
    *,
    expected_batch_size: float,
    autocast: AbstractContextManager,
    loss: Callable[[Tensor, Tensor], Tensor] = CLASSIFICATION.loss,
) -> StepStats:
    """Take one step on one batch, given in micro-batches that fit in memory.

    With an engine the optimizer sees (sum_n C_n g_n + sigma R z) / B, z standard normal: clipped in
    each micro-batch, noised once by the engine's step hook, divided by a constant and not by the
    size drawn. Without micro-batches it is the empty batch: noise alone, and the accountant counts
    it. Without an engine it is ordinary training, sum_n g_n / B, on the same batches.

    Source: Abadi et al. 2016, arXiv:1607.00133, Algorithm 1, with the constant B as lot size.

    Args:
        model: In train mode.
        optimizer: Over the trainable parameters of `model`.
        engine: Watches `model` and `optimizer`; None trains without clipping or noise.
        micro_batches: (images, labels) on the device of `model`; together, one draw.
        expected_batch_size: B, for ordinary training alone; the engine has its own.
        autocast: Entered for the forward pass.
        loss: From outputs in float32 and labels to one loss a sample, shape (n,).
    """
    optimizer.zero_grad(set_to_none=True)
    losses, grad_norms = [torch.zeros(0)], [torch.zeros(0)]
    for images, labels in micro_batches:
        with autocast:
            outputs = model(images)
        micro_losses = loss(outputs.float(), labels)
        if engine is None:
            (micro_losses.sum() / expected_batch_size).backward()
        else:
            grad_norms.append(engine.backward(micro_losses).cpu())
        losses.append(micro_losses.detach().cpu())
    optimizer.step()
    return StepStats(torch.cat(losses), torch.cat(grad_norms))
