"""Class probabilities from logits, in float64, and the checks that every measure shares.

Axes, in the annotations of this room: n sample, k class, j bin, r replicate.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dpexp.errors import MetricError


@dataclass(frozen=True)
class Predictions:
    """What a model says about n samples, in float64 on the CPU.

    Attributes:
        log_probs: log softmax of the logits, nats; shape (n, k).
        probs: softmax of the logits; shape (n, k).
        top: The predicted class, that of the largest logit (the first one on a tie); shape (n,).
        confidence: Probability of the predicted class, in (0, 1]; shape (n,).
    """

    log_probs: Float[Tensor, "n k"]
    probs: Float[Tensor, "n k"]
    top: Int[Tensor, " n"]
    confidence: Float[Tensor, " n"]


def predict(logits: Float[Tensor, "n k"]) -> Predictions:
    """Return the probabilities that finite logits stand for.

    Raises:
        MetricError: If there is no sample, or if a logit is NaN or infinite: such a sample has
            no probabilities, so no calibration either.
    """
    check_logits(logits)
    logits = logits.detach().cpu().double()  # in this order: some devices have no float64
    num_broken = int(is_nonfinite(logits).sum())
    if num_broken:
        raise MetricError(
            f"{num_broken} of {len(logits)} samples have a logit that is NaN or infinite, so they "
            f"have no probabilities to measure; the model has most likely diverged: lower the "
            f"learning rate, or use evaluate_metrics, which reports such a model without failing"
        )
    probs = logits.softmax(1)
    return Predictions(logits.log_softmax(1), probs, logits.argmax(1), probs.amax(1))


def is_nonfinite(logits: Float[Tensor, "n k"]) -> Bool[Tensor, " n"]:
    """Return which samples have at least one logit that is NaN or infinite."""
    return ~logits.isfinite().all(1)


def check_logits(logits: Float[Tensor, "n k"]) -> None:
    """Check the shape of `logits`.

    Raises:
        MetricError: If it is not (n, k) with at least one sample and one class.
    """
    if logits.ndim != 2 or not logits.numel():
        raise MetricError(
            f"logits have shape {tuple(logits.shape)}, but must be (samples, classes) with at "
            f"least one of each: a measure is a mean over samples; pass the model's raw output"
        )


def check_labels(labels: Int[Tensor, " n"], logits: Float[Tensor, "n k"]) -> Int[Tensor, " n"]:
    """Return `labels` on the CPU as int64, after checking that they index the rows of `logits`.

    Raises:
        MetricError: If they are not integers, not one a sample, or not a class.
    """
    num_samples, num_classes = logits.shape
    if labels.shape != (num_samples,) or labels.is_floating_point():
        raise MetricError(
            f"labels have shape {tuple(labels.shape)} and type {labels.dtype}, but must be "
            f"{num_samples} integers, one class index for each row of the logits"
        )
    labels = labels.detach().cpu().to(torch.int64)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise MetricError(
            f"labels reach from {low} to {high}, but logits have {num_classes} classes, so labels "
            f"must lie in 0 to {num_classes - 1}; check model and data set for the number of "
            f"classes"
        )
    return labels
