"""All measures of one evaluation, also of a model that has diverged."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dpexp.metrics.measures import MEASURES
from dpexp.metrics.predictions import check_labels, check_logits, is_nonfinite, predict


def evaluate_metrics(
    logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"]
) -> dict[str, float | int | None]:
    """Return every measure of `measures.MEASURES` by name, and `num_nonfinite`.

    `num_nonfinite` counts the samples with a logit that is NaN or infinite; above 0 the model has
    diverged. Such a sample is counted as wrong in `accuracy`. All other measures are None then:
    they are means over probabilities that do not exist, and a mean over the rest would flatter.

    Raises:
        MetricError: If logits and labels do not fit each other.
    """
    check_logits(logits)
    labels = check_labels(labels, logits)
    is_broken = is_nonfinite(logits.detach().cpu())
    if is_broken.any():
        is_correct = (logits.detach().cpu().argmax(1) == labels) & ~is_broken
        values = dict.fromkeys(MEASURES) | {"accuracy": float(is_correct.double().mean())}
        return values | {"num_nonfinite": int(is_broken.sum())}

    predictions = predict(logits)
    ones = torch.ones(1, len(labels), dtype=torch.float64)
    values = {
        name: float(function(predictions, labels[None], ones))
        for name, function in MEASURES.items()
    }
    return values | {"num_nonfinite": 0}
