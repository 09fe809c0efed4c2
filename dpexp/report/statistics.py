"""Comparisons over few seeds: paired intervals, exact permutation, effect sizes, Holm.

With n seeds a permutation test cannot give less than 2 / 2^n, which is 0.25 for three: there the
interval of Student's t carries the verdict, at the price of taking differences as normal.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
EXACT_UP_TO = 12  # pairs; 2^12 sign flips are few, more are drawn
RESAMPLES = 9_999


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Differences between two settings, seed by seed.

    Attributes:
        num_seeds: n, pairs; at least 2.
        first: Mean of the first setting over the shared seeds.
        second: Mean of the second.
        difference: Mean of second minus first.
        low: Lower end of the 95 % interval of the mean difference, Student's t with n - 1 degrees
            of freedom.
        high: Upper end of it.
        p_t: Two-sided p of the paired t test.
        p_exact: Two-sided p of the sign-flip permutation test of the mean difference.
        smallest_p: The smallest that `p_exact` can be with n pairs: 2 / 2^n.
        effect: Cohen's d_z, mean over standard deviation of the differences; infinite if all
            differences are equal and not 0, and 0 if all are 0.
    """

    num_seeds: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    p_t: float
    p_exact: float
    smallest_p: float
    effect: float

    @property
    def is_lower(self) -> bool:
        """Whether the second is lower, by the paired t test at 5 %."""
        return self.high < 0 and self.p_t < 1 - LEVEL

    @property
    def is_higher(self) -> bool:
        """Whether the second is higher, by the paired t test at 5 %."""
        return self.low > 0 and self.p_t < 1 - LEVEL

    @property
    def is_constant(self) -> bool:
        """Whether all differences are equal, so that their spread is not known."""
        return self.low == self.high


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Spearman's rank correlation.

    Attributes:
        rho: In [-1, 1].
        p: Two-sided, by permuting within each block.
        num_runs: How many pairs it is over.
    """

    rho: float
    p: float
    num_runs: int


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Paired | None:
    """Return the differences second minus first over the seeds that both have.

    Differences that are all equal have no spread, and Student's t says nothing: their interval is a
    point, and p_t is the exact p, which few seeds keep large.

    Source: Student 1908, Biometrika 6(1); Cohen 1988, Statistical Power Analysis, Chapter 2 (d_z);
    Fisher 1935, The Design of Experiments, Section 21 (sign flips).

    Args:
        first: Seed -> value.
        second: Seed -> value, in the same unit.

    Returns:
        None if they share fewer than two seeds.
    """
    seeds = sorted(first.keys() & second.keys())
    if len(seeds) < 2:
        return None
    before = np.array([first[seed] for seed in seeds])
    differences = np.array([second[seed] for seed in seeds]) - before
    mean, sd = float(differences.mean()), float(differences.std(ddof=1))
    # Rounding leaves a spread of some 1e-17 where every difference is the same number.
    is_constant = sd <= 1e-12 * max(float(np.abs(differences).max()), 1e-300)
    if is_constant:
        low, high, p_t = mean, mean, _sign_flip_p(differences)
        effect = math.copysign(math.inf, mean) if mean else 0.0
    else:
        low, high, p_t = _student(differences)
        effect = mean / sd
    return Paired(
        num_seeds=len(seeds),
        first=float(before.mean()),
        second=float(before.mean()) + mean,
        difference=mean,
        low=low,
        high=high,
        p_t=p_t,
        p_exact=_sign_flip_p(differences),
        smallest_p=2 / 2 ** len(seeds),
        effect=effect,
    )


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean, Student's t; None below two values."""
    if len(values) < 2:
        return None
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    low, high, _ = _student(np.array(values, dtype=float))
    return low, high


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number, in the order given.

    Source: Holm 1979, Scandinavian Journal of Statistics 6(2): the k-th smallest of m is
    multiplied by m - k + 1, and none is below a smaller one's.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def rank_correlation(blocks: Sequence[Sequence[tuple[float, float]]]) -> Correlation | None:
    """Return Spearman's correlation of the pairs of all blocks together.

    Its p permutes second values within each block, so that what a block (a seed) has in common
    counts for nothing. 9,999 permutations from a fixed seed; p counts the observed one.

    Source: Spearman 1904, American Journal of Psychology 15(1).

    Args:
        blocks: Pairs (x, y) of each block.

    Returns:
        None below three different x, or if all y are equal.
    """
    from scipy.stats import rankdata

    pairs = [pair for block in blocks for pair in block]
    if len({x for x, _ in pairs}) < 3 or len({y for _, y in pairs}) < 2:
        return None
    x = _standardised(rankdata([x for x, _ in pairs]))
    y = _standardised(rankdata([y for _, y in pairs]))
    rho = float(x @ y)
    generator = np.random.default_rng(0)
    permuted = np.tile(y, (RESAMPLES, 1))
    start = 0
    for block in blocks:
        part = slice(start, start + len(block))
        permuted[:, part] = generator.permuted(permuted[:, part], axis=1)
        start += len(block)
    as_extreme = int((np.abs(permuted @ x) >= abs(rho) - 1e-12).sum())
    return Correlation(rho=rho, p=(1 + as_extreme) / (1 + RESAMPLES), num_runs=len(pairs))


def _student(values: np.ndarray) -> tuple[float, float, float]:
    from scipy.stats import ttest_1samp

    found = ttest_1samp(values, 0.0)
    interval = found.confidence_interval(LEVEL)
    return float(interval.low), float(interval.high), float(found.pvalue)


def _sign_flip_p(differences: np.ndarray) -> float:
    from scipy.stats import permutation_test

    found = permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=np.inf if len(differences) <= EXACT_UP_TO else RESAMPLES,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def _standardised(ranks: np.ndarray) -> np.ndarray:
    centred = ranks - ranks.mean()
    return np.asarray(centred / np.sqrt(centred @ centred))
