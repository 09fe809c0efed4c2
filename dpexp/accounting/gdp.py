"""The central-limit accountant of Gaussian differential privacy: an approximation, no bound.

It replaces the privacy loss of K subsampled steps by its normal limit, so it understates epsilon
where steps are few or noise is small (eps 1 stands for 1.26 at q 0.02, 150 steps). It is here
because both papers calibrate with it; no guarantee may rest on it.

    mu = q sqrt(K (e^(1 / sigma^2) - 1)), then the exact Gaussian epsilon of mu.

Source: Bu, Dong, Long & Su 2019, arXiv:1911.11607 (the limit under Poisson sampling).
"""

import math

from dpexp.accounting import gaussian
from dpexp.accounting.inputs import check_inputs, check_target

IS_UPPER_BOUND = False


def epsilon(noise_multiplier: float, sampling_rate: float, num_steps: int, delta: float) -> float:
    """Return the central-limit approximation of epsilon; it may lie below the true one."""
    sigma, q, steps, delta = check_inputs(noise_multiplier, sampling_rate, num_steps, delta)
    # Beyond 1 / sigma^2 = 700 the exponential leaves float64, and mu any useful range.
    if sigma == 0 or 1 / sigma**2 > 700:
        return math.inf
    return gaussian.epsilon_of(q * math.sqrt(steps * math.expm1(1 / sigma**2)), delta)


def noise_multiplier(eps: float, delta: float, sampling_rate: float, num_steps: int) -> float:
    """Return the sigma whose central-limit epsilon is `eps`, in closed form; 0 for eps = inf."""
    eps, delta, q, steps = check_target(eps, delta, sampling_rate, num_steps)
    if math.isinf(eps):
        return 0.0
    mu = gaussian.mu_of(eps, delta)
    return 1 / math.sqrt(math.log1p((mu / q) ** 2 / steps))
