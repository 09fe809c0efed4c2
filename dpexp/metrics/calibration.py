"""Every measure of an evaluation with its uncertainty, as calibration.json holds them."""

from dataclasses import asdict, dataclass

from jaxtyping import Float, Int
from torch import Tensor

from dpexp.metrics.binning import DEFAULT_BINS
from dpexp.metrics.measures import MEASURES
from dpexp.metrics.reliability import Reliability, reliability
from dpexp.metrics.resampling import bootstrap_intervals, null_bands
from dpexp.metrics.summary import evaluate_metrics

LEVEL = 0.95
FEWEST, MOST = 100, 1000  # replicates
# Replicates times samples times classes: about a second of one core, 400 replicates of 10,000
# samples of 10 classes.
WORK = 40_000_000


@dataclass(frozen=True)
class Measured:
    """One measure on one test set.

    Attributes:
        value: As measured.
        low: Lower end of the bootstrap interval: how far another test set would have moved it.
        high: Upper end.
        null_low: Lower end of what a calibrated model with these confidences would measure.
        null_high: Upper end; a calibration error below it cannot be told from none.
    """

    value: float
    low: float
    high: float
    null_low: float
    null_high: float


@dataclass(frozen=True)
class Calibration:
    """All measures of one evaluation.

    Attributes:
        num_samples: Samples of the test set.
        bins: Bins of every binned error.
        replicates: Resampled test sets, and drawn sets of labels, behind the intervals.
        level: Of intervals and bands.
        mce_count: Samples of the bin that sets MCE; few of them, and it is chance.
        measures: By the names of `measures.MEASURES`.
    """

    num_samples: int
    bins: int
    replicates: int
    level: float
    mce_count: int
    measures: dict[str, Measured]

    def to_dict(self) -> dict[str, object]:
        """Return plain values under the keys of calibration.json."""
        return asdict(self)


def calibration(
    logits: Float[Tensor, "n k"],
    labels: Int[Tensor, " n"],
    *,
    replicates: int | None = None,
    level: float = LEVEL,
) -> Calibration:
    """Return every measure, its bootstrap interval and the band of a calibrated model.

    Args:
        logits: Finite.
        labels: Class of each sample.
        replicates: None takes as many, 100 to 1000, as about a second of one core allows.
        level: Of the intervals and bands, in (0, 1).

    Raises:
        MetricError: If logits and labels do not fit each other, a logit is not finite, or
            `replicates` or `level` is out of range.
    """
    if replicates is None:
        replicates = max(FEWEST, min(MOST, WORK // max(1, logits.numel())))
    names = list(MEASURES)
    intervals = bootstrap_intervals(logits, labels, names, replicates=replicates, level=level)
    bands = null_bands(logits, names, replicates=replicates, level=level)
    values = evaluate_metrics(logits, labels)
    measured = {
        name: Measured(_number(values[name]), *intervals[name], *bands[name]) for name in names
    }
    count = mce_count(reliability(logits, labels))
    return Calibration(len(labels), DEFAULT_BINS, replicates, level, count, measured)


def mce_count(bins: Reliability) -> int:
    """Return how many samples are in the bin with the largest gap; the smallest such, on a tie."""
    gaps = [(abs(acc - conf), n) for n, acc, conf in bins.filled_bins()]
    largest = max(gap for gap, _ in gaps)
    return min(n for gap, n in gaps if gap == largest)


def _number(value: float | int | None) -> float:
    assert value is not None  # the intervals have refused logits that are not finite
    return float(value)
