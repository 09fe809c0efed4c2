"""The privacy loss distribution of dp-accounting: a tight upper bound, and the fast one.

Every rounding is pessimistic (losses up, truncated mass to infinity), so a coarse grid is loose
but never wrong.
"""

import math
from typing import Any

from dpexp.accounting import gaussian, gdp, rdp
from dpexp.accounting.inputs import check_inputs

IS_UPPER_BOUND = True

# What the grid may add to epsilon: about h^2 K / epsilon for interval h, measured at epsilon from
# 0.01 to 10 and q from 0.001 to 0.5.
RELATIVE_ERROR = 2.5e-4
ABSOLUTE_ERROR = 1e-3
MAX_POINTS = 2_000_000  # complex numbers in one transform: about a second, 0.2 GiB


def epsilon(
    noise_multiplier: float,
    sampling_rate: float,
    num_steps: int,
    delta: float,
    relative_error: float = RELATIVE_ERROR,
) -> float:
    """Return an upper bound on epsilon of K Poisson-subsampled Gaussian steps, add/remove-one.

    q = 1 is the Gaussian mechanism and is taken exactly. `relative_error` is what the grid may add;
    any value gives a bound.

    Source: Koskela, Jalko & Honkela 2020, arXiv:1906.03049 (losses on a grid, by transform);
    Doroshenko et al. 2022, arXiv:2207.04380 (the pessimistic grid).
    """
    sigma, q, steps, delta = check_inputs(noise_multiplier, sampling_rate, num_steps, delta)
    if sigma == 0:
        return math.inf
    if q == 1:
        return gaussian.epsilon_of_steps(sigma, steps, delta)
    return composed_epsilon(_single_step(sigma, q, steps, delta, relative_error), steps, delta)


def epsilons(
    noise_multiplier: float, sampling_rate: float, num_steps: list[int], delta: float
) -> list[float]:
    """Return the bound after each count in `num_steps`, with one grid for all of them."""
    sigma, q, steps, delta = check_inputs(noise_multiplier, sampling_rate, max(num_steps), delta)
    if sigma == 0:
        return [math.inf for _ in num_steps]
    if q == 1:
        return [gaussian.epsilon_of_steps(sigma, k, delta) for k in num_steps]
    single = _single_step(sigma, q, steps, delta, RELATIVE_ERROR)
    return [composed_epsilon(single, k, delta) for k in num_steps]


def deltas(
    noise_multiplier: float,
    sampling_rate: float,
    num_steps: int,
    epsilons: list[float],
    near_delta: float,
) -> list[float]:
    """Return an upper bound on delta of K steps at each epsilon; q below 1, sigma above 0.

    `near_delta` sets the grid, which is as fine as for an epsilon at that delta.
    """
    sigma, q, steps, delta = check_inputs(noise_multiplier, sampling_rate, num_steps, near_delta)
    single = _single_step(sigma, q, steps, delta, RELATIVE_ERROR)
    composed = single.self_compose(steps, min(1e-15, 1e-5 * delta))
    return [float(composed.get_delta_for_epsilon(epsilon)) for epsilon in epsilons]


def _single_step(sigma: float, q: float, steps: int, delta: float, relative_error: float) -> Any:
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=sigma,
        sampling_prob=q,
        pessimistic_estimate=True,
        value_discretization_interval=interval(sigma, q, steps, delta, relative_error),
    )


def composed_epsilon(single: Any, steps: int, delta: float) -> float:
    """Return epsilon of K steps, given the privacy loss distribution of one."""
    # What is cut off counts as an infinite loss, so it has to stay far below delta.
    composed = single.self_compose(steps, min(1e-15, 1e-5 * delta))
    return float(composed.get_epsilon_for_delta(delta))


def interval(
    sigma: float, q: float, steps: int, delta: float, relative_error: float = RELATIVE_ERROR
) -> float:
    """Return the grid's interval: as fine as the error asks for, as coarse as memory asks for."""
    above = rdp.rough_epsilon(sigma, q, steps, delta)
    # RDP is far too high for tiny epsilons and the central limit too low for few steps; only the
    # cost and the looseness hang on this guess, never the bound.
    near = max(above / 10, min(above, 2 * gdp.epsilon(sigma, q, steps, delta)))
    error = min(relative_error * near, ABSOLUTE_ERROR * relative_error / RELATIVE_ERROR)
    # One step's loss reaches (1/2 + z sigma) / sigma^2 before z = 10 deviations truncate it.
    widest_loss = max(above, (0.5 + 10 * sigma) / sigma**2)
    return max(math.sqrt(error * near / steps), widest_loss / MAX_POINTS)
