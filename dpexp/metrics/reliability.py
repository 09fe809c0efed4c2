"""The reliability curve: accuracy against confidence, bin by bin."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dpexp.errors import MetricError
from dpexp.metrics.binning import DEFAULT_BINS, equal_width_bin, equal_width_edges, sum_by_bin
from dpexp.metrics.predictions import check_labels, predict


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Accuracy and mean confidence in right-closed bins of confidence.

    Attributes:
        edges: Ends of the bins, from 0 to 1; one more than there are bins.
        count: Samples in each bin.
        accuracy: Fraction of right predictions in each bin; None where it is empty.
        confidence: Mean probability of the predicted class in each bin; None where it is empty.
    """

    edges: tuple[float, ...]
    count: tuple[int, ...]
    accuracy: tuple[float | None, ...]
    confidence: tuple[float | None, ...]

    def __post_init__(self) -> None:
        lengths = (len(self.edges) - 1, len(self.count), len(self.accuracy), len(self.confidence))
        if len(set(lengths)) != 1 or not sum(self.count):
            raise MetricError(
                f"a reliability curve has {lengths[0]} bins by its edges, and counts "
                f"{self.count}; edges, count, accuracy and confidence must describe the same bins "
                f"and hold at least one sample"
            )

    @property
    def num_samples(self) -> int:
        """Samples in all bins."""
        return sum(self.count)

    @property
    def mean_accuracy(self) -> float:
        """Fraction of right predictions over all samples."""
        return math.fsum(n * acc for n, acc, _ in self.filled_bins()) / self.num_samples

    @property
    def mean_confidence(self) -> float:
        """Mean probability of the predicted class over all samples."""
        return math.fsum(n * conf for n, _, conf in self.filled_bins()) / self.num_samples

    @property
    def ece(self) -> float:
        """Expected calibration error over these bins."""
        gaps = (n * abs(acc - conf) for n, acc, conf in self.filled_bins())
        return math.fsum(gaps) / self.num_samples

    def filled_bins(self) -> list[tuple[int, float, float]]:
        """Return (count, accuracy, confidence) of each bin that holds a sample."""
        bins = zip(self.count, self.accuracy, self.confidence, strict=True)
        return [(n, acc, conf) for n, acc, conf in bins if acc is not None and conf is not None]

    def to_dict(self) -> dict[str, list[Any]]:
        """Return plain lists under the keys of reliability.json."""
        return {
            "edges": list(self.edges),
            "count": list(self.count),
            "accuracy": list(self.accuracy),
            "confidence": list(self.confidence),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Sequence[Any]]) -> "Reliability":
        """Return what `to_dict` wrote; other keys are passed over.

        Raises:
            MetricError: If a key is missing or its bins do not fit the others.
        """
        keys = ("edges", "count", "accuracy", "confidence")
        missing = [key for key in keys if key not in data]
        if missing:
            raise MetricError(
                f"no {', '.join(missing)} among {', '.join(data) or 'no keys'}: this is not a "
                f"reliability curve; evaluate the run again to write one"
            )
        return cls(**{key: tuple(data[key]) for key in keys})


def reliability(
    logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"], bins: int = DEFAULT_BINS
) -> Reliability:
    """Return the reliability curve of the predicted class over equal-width bins.

    Source: Guo et al. 2017, arXiv:1706.04599, Section 2.

    Raises:
        MetricError: If logits and labels do not fit each other, or a logit is not finite.
    """
    predictions = predict(logits)
    is_correct = (check_labels(labels, logits) == predictions.top).double()
    values = torch.stack([torch.ones_like(is_correct), is_correct, predictions.confidence])
    bin_index = equal_width_bin(predictions.confidence, bins)
    count, correct, confidence = sum_by_bin(values, bin_index, bins).tolist()
    return Reliability(
        edges=tuple(equal_width_edges(bins).tolist()),
        count=tuple(int(n) for n in count),
        accuracy=tuple(c / n if n else None for c, n in zip(correct, count, strict=True)),
        confidence=tuple(p / n if n else None for p, n in zip(confidence, count, strict=True)),
    )
