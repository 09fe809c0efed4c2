"""Shuffled fixed-size batches: the bound that holds for them, without amplification.

Within an epoch a sample is in one batch at most, and all other batches are computed without it:
given the order, an epoch releases one Gaussian mechanism of the sample, and E epochs compose to
mu = sqrt(E) / sigma whatever the batch size. Amplification by shuffling is not claimed: no tight
bound of it is known, and the Poisson bound does not hold (Chua et al. 2024, arXiv:2403.17673).

Neighbors replace a sample by an empty one, whose gradient is zero. Where batches have a fixed size
this stands for add/remove-one: taking a sample out would move others between batches.
"""

import math

from dpexp.accounting import gaussian
from dpexp.accounting.inputs import check_inputs
from dpexp.mechanism import whole_batches

IS_UPPER_BOUND = True


def epsilon(noise_multiplier: float, num_epochs: float, delta: float) -> float:
    """Return epsilon of `num_epochs` passes, a started one counted whole; exact, and a bound."""
    sigma, _, epochs, delta = check_inputs(noise_multiplier, 1.0, math.ceil(num_epochs), delta)
    return gaussian.epsilon_of_steps(sigma, epochs, delta)


def epochs_started(num_steps: int, sampling_rate: float) -> int:
    """Return how many epochs K steps touch."""
    return -(-num_steps // whole_batches(sampling_rate))
