"""Accuracy, proper scores and calibration errors, each for many weightings of a sample at once.

A measure maps predictions, labels (r, n) and weights (r, n) to r values, where one of labels and
weights may have a single row. Row after row of weights are bootstrap replicates; row after row of
labels are draws from the model's own probabilities. The functions of logits and labels below are
the case of one row of each and equal weights.

With p_n the confidence of sample n, c_n = 1 where its prediction is right and 0 elsewhere, and
acc_j, conf_j the means of c and p over the n_j samples of bin j:

    ECE = sum_j (n_j / n) |acc_j - conf_j|    and    MCE = max_j |acc_j - conf_j|.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dpexp.metrics.binning import DEFAULT_BINS, equal_mass_bin, equal_width_bin, sum_by_bin
from dpexp.metrics.predictions import Predictions, check_labels, predict

Measure = Callable[[Predictions, Tensor, Tensor], Tensor]
_TIE = 1e-12  # confidences no further apart differ by rounding alone


def accuracy(logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> float:
    """Return the fraction of samples whose largest logit is at their label."""
    return measure(_accuracy, logits, labels)


def nll_nats(logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> float:
    """Return the negative log likelihood of the labels, in nats, mean over samples."""
    return measure(_nll_nats, logits, labels)


def brier(logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> float:
    """Return the Brier score: sum over classes of (p_k - [k = label])^2, mean over samples.

    In [0, 2], as Brier defined it; for two classes it is twice the score of one probability.

    Source: Brier 1950, Monthly Weather Review 78(1).
    """
    return measure(_brier, logits, labels)


def ece(logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"], bins: int = DEFAULT_BINS) -> float:
    """Return the expected calibration error over equal-width, right-closed bins of confidence.

    Biased upward: a perfectly calibrated model measures above 0; see `null_bands`.

    Source: Guo et al. 2017, arXiv:1706.04599, Equation 3.
    """
    return measure(partial(_ece, bins=bins), logits, labels)


def mce(logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"], bins: int = DEFAULT_BINS) -> float:
    """Return the maximum calibration error over the bins of `ece` that hold a sample.

    One sample in a bin is enough to set it, so differences between models are noise unless they
    leave the band of `null_bands`.

    Source: Guo et al. 2017, arXiv:1706.04599, Equation 5.
    """
    return measure(partial(_mce, bins=bins), logits, labels)


def adaptive_ece(
    logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"], bins: int = DEFAULT_BINS
) -> float:
    """Return the expected calibration error over bins of equal mass; ties share a bin.

    Source: Mukhoti et al. 2020, arXiv:2002.09437 (AdaECE: of the predicted class).
    """
    return measure(partial(_adaptive_ece, bins=bins), logits, labels)


def classwise_ece(
    logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"], bins: int = DEFAULT_BINS
) -> float:
    """Return the expected calibration error of each class's probability, mean over classes.

    Source: Nixon et al. 2019, arXiv:1904.01685 (there: static calibration error, SCE).
    """
    return measure(partial(_classwise_ece, bins=bins), logits, labels)


def overconfidence(
    logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"], bins: int = DEFAULT_BINS
) -> float:
    """Return the part of `ece` from bins whose confidence exceeds their accuracy.

    `overconfidence + underconfidence` is ECE, and their difference is mean confidence minus
    accuracy.
    """
    return measure(partial(_signed_ece, bins=bins, sign=-1), logits, labels)


def underconfidence(
    logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"], bins: int = DEFAULT_BINS
) -> float:
    """Return the part of `ece` from bins whose accuracy exceeds their confidence."""
    return measure(partial(_signed_ece, bins=bins, sign=1), logits, labels)


def ks_error(logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> float:
    """Return the Kolmogorov-Smirnov calibration error of the predicted class; needs no bins.

    max over s of |sum over p_n <= s of (c_n - p_n)| / n: the largest distance between accuracy and
    confidence, both accumulated in the order of confidence. Equal confidences are taken in one
    step, so the result does not depend on the order of the samples.

    Source: Gupta et al. 2021, arXiv:2006.12800, Section 3 (there: KS error, top-1).
    """
    return measure(_ks_error, logits, labels)


def measure(function: Measure, logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> float:
    """Return the value of one measure on every sample once.

    Raises:
        MetricError: If logits and labels do not fit each other, or a logit is not finite.
    """
    predictions = predict(logits)
    labels = check_labels(labels, logits)[None]
    return float(function(predictions, labels, torch.ones(labels.shape, dtype=torch.float64)))


def _accuracy(predictions: Predictions, labels: Tensor, weights: Tensor) -> Tensor:
    return _mean(_is_correct(predictions, labels), weights)


def _nll_nats(predictions: Predictions, labels: Tensor, weights: Tensor) -> Tensor:
    return _mean(-_at_labels(predictions.log_probs, labels), weights)


def _brier(predictions: Predictions, labels: Tensor, weights: Tensor) -> Tensor:
    # sum_k (p_k - [k = y])^2 with p_y taken apart, so that a perfect prediction scores exactly 0.
    p_label = _at_labels(predictions.probs, labels)
    other = predictions.probs.square().sum(1) - p_label.square()
    return _mean((1 - p_label).square() + other.clamp(min=0), weights)


def _ece(predictions: Predictions, labels: Tensor, weights: Tensor, *, bins: int) -> Tensor:
    gaps, _ = _top_label_gaps(predictions, labels, weights, bins)
    return gaps.abs().sum(1) / weights.sum(1)


def _mce(predictions: Predictions, labels: Tensor, weights: Tensor, *, bins: int) -> Tensor:
    gaps, mass = _top_label_gaps(predictions, labels, weights, bins)
    return torch.where(mass > 0, gaps.abs() / mass, 0.0).amax(1)


def _signed_ece(
    predictions: Predictions, labels: Tensor, weights: Tensor, *, bins: int, sign: int
) -> Tensor:
    gaps, _ = _top_label_gaps(predictions, labels, weights, bins)
    return (sign * gaps).clamp(min=0).sum(1) / weights.sum(1)


def _adaptive_ece(
    predictions: Predictions, labels: Tensor, weights: Tensor, *, bins: int
) -> Tensor:
    bin_index = equal_mass_bin(predictions.confidence, bins)
    residuals = weights * (_is_correct(predictions, labels) - predictions.confidence)
    return sum_by_bin(residuals, bin_index, bins).abs().sum(1) / weights.sum(1)


def _classwise_ece(
    predictions: Predictions, labels: Tensor, weights: Tensor, *, bins: int
) -> Tensor:
    total = weights.new_zeros(())
    for k, probs in enumerate(predictions.probs.T.contiguous()):
        residuals = weights * ((labels == k).double() - probs)
        gaps = sum_by_bin(residuals, equal_width_bin(probs, bins), bins)
        total = total + gaps.abs().sum(1)
    return total / (predictions.probs.shape[1] * weights.sum(1))


def _ks_error(predictions: Predictions, labels: Tensor, weights: Tensor) -> Tensor:
    confidence, order = predictions.confidence.sort()
    is_last_tied = torch.ones_like(confidence, dtype=torch.bool)
    is_last_tied[:-1] = confidence.diff() > _TIE
    residuals = weights * (_is_correct(predictions, labels) - predictions.confidence)
    sums = residuals[:, order].cumsum(1)[:, is_last_tied]
    return sums.abs().amax(1) / weights.sum(1)


def _top_label_gaps(
    predictions: Predictions, labels: Tensor, weights: Tensor, bins: int
) -> tuple[Float[Tensor, "#r j"], Float[Tensor, "#r j"]]:
    """Return n_j (acc_j - conf_j) and n_j of every bin; positive where under-confident."""
    bin_index = equal_width_bin(predictions.confidence, bins)
    residuals = weights * (_is_correct(predictions, labels) - predictions.confidence)
    return sum_by_bin(residuals, bin_index, bins), sum_by_bin(weights, bin_index, bins)


def _is_correct(predictions: Predictions, labels: Int[Tensor, "r n"]) -> Float[Tensor, "r n"]:
    return (labels == predictions.top).double()


def _at_labels(values: Float[Tensor, "n k"], labels: Int[Tensor, "r n"]) -> Float[Tensor, "r n"]:
    return values.gather(1, labels.T).T


def _mean(values: Float[Tensor, "#r n"], weights: Float[Tensor, "#r n"]) -> Float[Tensor, " r"]:
    return (values * weights).sum(1) / weights.sum(1)


# Every measure by the name that it has in metrics.jsonl and summary.json.
MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "accuracy": _accuracy,
        "ece": partial(_ece, bins=DEFAULT_BINS),
        "mce": partial(_mce, bins=DEFAULT_BINS),
        "nll_nats": _nll_nats,
        "brier": _brier,
        "adaptive_ece": partial(_adaptive_ece, bins=DEFAULT_BINS),
        "classwise_ece": partial(_classwise_ece, bins=DEFAULT_BINS),
        "overconfidence": partial(_signed_ece, bins=DEFAULT_BINS, sign=-1),
        "underconfidence": partial(_signed_ece, bins=DEFAULT_BINS, sign=1),
        "ks_error": _ks_error,
    }
)
