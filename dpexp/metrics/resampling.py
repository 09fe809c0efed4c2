"""How sure a measured value is: bootstrap intervals, and what a calibrated model would measure."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from dpexp.errors import MetricError
from dpexp.metrics.measures import MEASURES
from dpexp.metrics.predictions import Predictions, check_labels, predict

DEFAULT_MEASURES = ("accuracy", "ece", "mce", "nll_nats", "brier")
_CHUNK_ELEMENTS = 2**21  # values held at once: 16 MiB in float64


class Interval(NamedTuple):
    """Lower and upper end, in the unit of the measure."""

    low: float
    high: float


def bootstrap_intervals(
    logits: Float[Tensor, "n k"],
    labels: Int[Tensor, " n"],
    measures: Iterable[str] = DEFAULT_MEASURES,
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return the interval of each measure over resampled test sets of the same size.

    Percentiles of the replicates, moved by the bootstrap's estimate of its bias so that the
    interval lies around the value measured, and cut at 0. A binned error is biased upward and is
    more so on a resampled set; unmoved percentiles could exclude the value itself. The spread is
    that of drawing the test set, not of training. Adaptive bins stay those of the whole sample.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, Chapters 10 and 13.

    Raises:
        MetricError: If logits and labels do not fit each other, a logit is not finite, or a
            measure, `replicates` or `level` is not one there is.
    """
    names = _check(measures, replicates, level)
    predictions, labels = predict(logits), check_labels(labels, logits)[None]
    ones = torch.ones(labels.shape, dtype=torch.float64)
    draws = ((labels, weights) for weights in _resampled_weights(labels.shape[1], replicates, seed))
    values = _replicate(predictions, names, draws)
    intervals = {}
    for name in names:
        value = float(MEASURES[name](predictions, labels, ones))
        low, high = _percentiles(values[name], level)
        bias = float(values[name].mean()) - value
        intervals[name] = Interval(max(low - bias, 0.0), high - bias)
    return intervals


def null_bands(
    logits: Float[Tensor, "n k"],
    measures: Iterable[str] = DEFAULT_MEASURES,
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return what each measure would show if the model were perfectly calibrated.

    Labels are drawn from the model's own probabilities, so the confidences are the same and only
    the chance of drawing labels is left. A calibration error inside its band is indistinguishable
    from 0; an accuracy outside of it shows a model that misjudges itself.

    Source: Broecker & Smith 2007, Weather and Forecasting 22(3) (consistency resampling);
    Vaicenavicius et al. 2019, arXiv:1902.06977, for classifiers.

    Raises:
        MetricError: If a logit is not finite, or a measure, `replicates` or `level` is not one
            there is.
    """
    names = _check(measures, replicates, level)
    predictions = predict(logits)
    ones = torch.ones(1, len(logits), dtype=torch.float64)
    draws = ((labels, ones) for labels in _drawn_labels(predictions.probs, replicates, seed))
    values = _replicate(predictions, names, draws)
    return {name: _percentiles(values[name], level) for name in names}


def _check(measures: Iterable[str], replicates: int, level: float) -> tuple[str, ...]:
    names = tuple(measures)
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        raise MetricError(
            f"unknown measure {', '.join(unknown)}: nothing to resample; there are "
            f"{', '.join(MEASURES)}"
        )
    if replicates < 2 or not 0 < level < 1:
        raise MetricError(
            f"replicates={replicates}, level={level}: percentiles need at least 2 replicates and "
            f"a level in (0, 1), such as 1000 and 0.95"
        )
    return names


def _replicate(
    predictions: Predictions, names: tuple[str, ...], draws: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, Float[Tensor, " r"]]:
    """Return every named measure on every row of the drawn (labels, weights)."""
    chunks: dict[str, list[Tensor]] = {name: [] for name in names}
    for labels, weights in draws:
        for name in names:
            chunks[name].append(MEASURES[name](predictions, labels, weights))
    return {name: torch.cat(values) for name, values in chunks.items()}


def _resampled_weights(
    num_samples: int, replicates: int, seed: int
) -> Iterator[Float[Tensor, "r n"]]:
    """Yield how often each sample is drawn, when n samples are drawn with replacement."""
    generator = Generator().manual_seed(seed)
    for rows in _chunk_rows(num_samples, replicates):
        drawn = torch.randint(num_samples, (rows, num_samples), generator=generator)
        weights = torch.zeros(rows, num_samples, dtype=torch.float64)
        yield weights.scatter_add_(1, drawn, torch.ones_like(weights))


def _drawn_labels(
    probs: Float[Tensor, "n k"], replicates: int, seed: int
) -> Iterator[Int[Tensor, "r n"]]:
    """Yield labels drawn from the probabilities of each sample, by inverting its distribution."""
    generator = Generator().manual_seed(seed)
    cumulative = probs.cumsum(1)
    cumulative /= cumulative[:, -1:].clone()
    for rows in _chunk_rows(len(probs), replicates):
        uniform = torch.rand(len(probs), rows, dtype=torch.float64, generator=generator)
        # The first class whose cumulative probability exceeds u; u < 1, so there is one.
        yield torch.searchsorted(cumulative, uniform, right=True).T.contiguous()


def _chunk_rows(num_samples: int, replicates: int) -> Iterator[int]:
    rows = max(1, _CHUNK_ELEMENTS // num_samples)
    for start in range(0, replicates, rows):
        yield min(rows, replicates - start)


def _percentiles(values: Float[Tensor, " r"], level: float) -> Interval:
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    return Interval(*values.quantile(tails).tolist())
