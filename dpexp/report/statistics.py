"""Comparisons over few seeds: paired intervals, exact permutation, effect sizes, Holm."""

from dataclasses import dataclass


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


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Spearman's rank correlation.

    Attributes:
        rho: In [-1, 1].
        p: Two-sided, by permutation of one side.
        num_runs: How many pairs it is over.
    """

    rho: float
    p: float
    num_runs: int
