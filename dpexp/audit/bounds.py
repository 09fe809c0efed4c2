"""From how often an attacker errs to a lower bound on epsilon, with confidence.

An attacker says of each canary whether it was in. With chance 1 - error both true error rates lie
below their Clopper-Pearson limits; whatever privacy those limits rule out is ruled out. The limits
are for independent trials: canaries of one run are independent in the mechanism claimed, where each
has a coordinate of its own; a faulty one may tie them together, and is then not bounded by this but
often still found by it. Runs of their own are independent whatever the mechanism.

Sources: Clopper & Pearson 1934 (limits); Kairouz, Oh & Viswanath 2015, arXiv:1311.0776 (the region
of error rates that (epsilon, delta) allows); Dong, Roth & Su 2019, arXiv:1905.02383 (mu-Gaussian
privacy); Nasr et al. 2023, arXiv:2302.07956 (audits by the curve of the claimed mechanism).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpexp.accounting import gaussian

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class ErrorRates:
    """How often an attacker with one threshold, fixed before, was wrong.

    Attributes:
        num_out: Canaries that were not in.
        num_in: Canaries that were in.
        false_positives: Of those that were not in, how many it took to be in.
        false_negatives: Of those that were in, how many it missed.
        fpr_above: Upper limit on the true false positive rate.
        fnr_above: Upper limit on the true false negative rate; both hold with chance 1 - error.
    """

    num_out: int
    num_in: int
    false_positives: int
    false_negatives: int
    fpr_above: float
    fnr_above: float


def upper_limit(count: int, total: int, error: float) -> float:
    """Return the Clopper-Pearson upper limit on a chance: below the truth with chance `error`.

    Args:
        count: How often it happened.
        total: Of how many independent times; none gives 1.
        error: In (0, 1).
    """
    from scipy.stats import beta

    return 1.0 if count >= total else float(beta.ppf(1 - error, count + 1, total - count))


def error_rates(scores: Scores, is_in: NDArray[np.bool_], threshold: float, error: float) -> (
    ErrorRates
):  # fmt: skip
    """Return how often "in where the score is above the threshold" is wrong; each side has half.

    Args:
        scores: Larger where a canary seems to be in, shape (m,); never NaN.
        is_in: Whether it was.
        threshold: Chosen without looking at these scores.
        error: Chance that one of the two limits fails.
    """
    assert not np.isnan(scores).any()
    num_in = int(is_in.sum())
    num_out = len(is_in) - num_in
    false_positives = int((scores[~is_in] > threshold).sum())
    false_negatives = int((scores[is_in] <= threshold).sum())
    return ErrorRates(
        num_out=num_out,
        num_in=num_in,
        false_positives=false_positives,
        false_negatives=false_negatives,
        fpr_above=upper_limit(false_positives, num_out, error / 2),
        fnr_above=upper_limit(false_negatives, num_in, error / 2),
    )


def epsilon_any(rates: ErrorRates, delta: float) -> float:
    """Return the smallest epsilon that allows such rates of independent trials.

    (epsilon, delta) asks FPR e^epsilon + FNR >= 1 - delta, and the same with the two exchanged.
    """
    fpr, fnr = rates.fpr_above, rates.fnr_above
    ways = [(1 - delta - fnr, fpr), (1 - delta - fpr, fnr)]
    return max([0.0, *(math.log(top / bottom) for top, bottom in ways if top > bottom)])


def mu_above_chance(rates: ErrorRates) -> float:
    """Return the smallest mu of a mu-Gaussian release that allows such rates; 0 if all do.

    It is Phi^-1(1 - FPR) - Phi^-1(FNR), with Phi the standard normal distribution function.
    """
    from scipy.special import ndtri

    if rates.fpr_above >= 1 or rates.fnr_above >= 1:
        return 0.0
    return max(0.0, float(-ndtri(rates.fpr_above) - ndtri(rates.fnr_above)))


def epsilon_gaussian(rates: ErrorRates, delta: float) -> float:
    """Return the smallest epsilon that allows such rates, for a Gaussian mechanism at q = 1."""
    mu = mu_above_chance(rates)
    return gaussian.epsilon_of(mu, delta) if mu else 0.0
