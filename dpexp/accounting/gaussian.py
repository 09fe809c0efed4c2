"""The exact (epsilon, delta) curve of the Gaussian mechanism, in both directions.

A release is mu-Gaussian if telling neighbors apart is as hard as telling N(0, 1) from N(mu, 1).
K unsampled steps of noise sigma compose to mu = sqrt(K) / sigma exactly. With Phi the standard
normal distribution function, it is (epsilon, delta)-private if and only if

    delta >= Phi(-epsilon / mu + mu / 2) - e^epsilon Phi(-epsilon / mu - mu / 2).

Source: Balle & Wang 2018, arXiv:1805.06530, Theorem 8 (the curve); Dong, Roth & Su 2019,
arXiv:1905.02383 (mu, and its composition).
"""

import math
from collections.abc import Callable


def delta_of(mu: float, epsilon: float) -> float:
    """Return the smallest delta at `epsilon`; 0 at mu = 0."""
    from scipy.special import log_ndtr

    if mu == 0:
        return 0.0
    if math.isinf(mu):
        return 1.0
    log_first = float(log_ndtr(-epsilon / mu + mu / 2))
    log_second = epsilon + float(log_ndtr(-epsilon / mu - mu / 2))
    # A difference of logarithms: both terms underflow long before their ratio loses meaning.
    return math.exp(log_first) * -math.expm1(min(0.0, log_second - log_first))


def epsilon_of(mu: float, delta: float) -> float:
    """Return the smallest epsilon at `delta`, rounded up by at most 1e-12 of itself.

    It is 0 where mu alone is below what delta allows, and infinite at mu = inf.
    """
    if math.isinf(mu):
        return math.inf
    if delta_of(mu, 0.0) <= delta:
        return 0.0
    return _bisect(lambda epsilon: delta_of(mu, epsilon) <= delta)[1]


def mu_of(epsilon: float, delta: float) -> float:
    """Return the largest mu that is (epsilon, delta)-private, rounded down by at most 1e-12."""
    return _bisect(lambda mu: delta_of(mu, epsilon) > delta)[0]


def epsilon_of_steps(noise_multiplier: float, num_steps: int, delta: float) -> float:
    """Return epsilon of K Gaussian steps that each see every sample (q = 1); exact."""
    if noise_multiplier == 0:
        return math.inf
    return epsilon_of(math.sqrt(num_steps) / noise_multiplier, delta)


def _bisect(is_above: Callable[[float], bool]) -> tuple[float, float]:
    """Return two positive numbers, 1e-12 apart relatively, with the switch between them."""
    low, high = 0.0, 1.0
    while not is_above(high):
        low, high = high, 2 * high
    while high - low > 1e-12 * high and high > 1e-300:
        middle = (low + high) / 2
        low, high = (low, middle) if is_above(middle) else (middle, high)
    return low, high
