"""Truncated Poisson batches: an upper bound on epsilon, and the limit on a batch by default.

A step includes each of N samples with chance q; where more than `batch_limit` come, a uniformly
random subset of that size stays. For the larger one of two data sets that differ by a sample, let m
be how many of the N - 1 others are included. Where m is below the limit the step is the Poisson
one. Otherwise the sample, if it stays, displaces another: the sums differ by two samples' shares,
with the chance that it is included and stays,

    P(m >= limit) = P(Bin(N - 1, q) >= limit),
    P(stays | m >= limit) = P(Bin(N, q) > limit) limit / (N P(m >= limit)).

The bound is that of seeing which of the two it was. Neighbors add or remove a sample, and it really
takes a place: a sample replaced by an empty one that keeps its place would be cheaper. N is the
larger of the two sizes, so both N and N + 1 are taken and the larger epsilon counts.

dp-accounting 0.6.0 composes this in `from_truncated_subsampled_gaussian_mechanism`, for its
relation ADD_OR_REMOVE_ONE and with the larger data set's size; it takes the second case, of
sensitivity 2, as a replacement, which is slightly loose.

Source: Ganesh 2025, arXiv:2508.15089 (this analysis); Chua et al. 2024, arXiv:2411.04205 (the
sampler, with a cruder bound that tests hold beside this one: a run is within the chance of an
overflow, eta <= K P(Bin(N, q) > limit), of the Poisson run, hence delta + (1 + e^eps) eta).
"""

import math
from typing import Any

from dpexp.accounting import gaussian, pld
from dpexp.accounting.inputs import check_inputs
from dpexp.errors import AccountingError

IS_UPPER_BOUND = True

DEFAULT_OVERFLOW = 1e-3  # of delta: chance that a run with the default limit drops any sample


def epsilon(
    noise_multiplier: float,
    sampling_rate: float,
    num_steps: int,
    delta: float,
    num_train: int,
    batch_limit: int,
) -> float:
    """Return an upper bound on epsilon of K truncated Poisson steps, add/remove-one.

    Args:
        noise_multiplier: sigma.
        sampling_rate: q, before truncation.
        num_steps: K.
        delta: In (0, 1).
        num_train: N; public.
        batch_limit: The most samples that a step takes.
    """
    return epsilons(noise_multiplier, sampling_rate, [num_steps], delta, num_train, batch_limit)[0]


def epsilons(
    noise_multiplier: float,
    sampling_rate: float,
    num_steps: list[int],
    delta: float,
    num_train: int,
    batch_limit: int,
) -> list[float]:
    """Return the bound after each count in `num_steps`, with one grid for all of them.

    Raises:
        AccountingError: If an argument is out of range.
    """
    steps = max(num_steps)
    sigma, q, steps, delta = check_inputs(noise_multiplier, sampling_rate, steps, delta)
    if num_train < 1 or batch_limit < 1:
        raise AccountingError(
            f"num_train={num_train}, batch_limit={batch_limit}: a truncated batch takes at least "
            f"1 of at least 1 samples; give the size of the data set and a limit near batch"
        )
    if sigma == 0:
        return [math.inf for _ in num_steps]
    step = interval(sigma, q, steps, delta)
    singles = [
        single_step(sigma, q, size, batch_limit, step) for size in (num_train, num_train + 1)
    ]
    plain = [gaussian.epsilon_of_steps(sigma / 2, count, delta) for count in num_steps]
    truncated = [
        max(pld.composed_epsilon(one, count, delta) for one in singles) for count in num_steps
    ]
    # A step's sums never differ by more than two samples' shares, however it is drawn.
    return [min(pair) for pair in zip(plain, truncated, strict=True)]


def overflow_chance(num_train: int, sampling_rate: float, num_steps: int, limit: int) -> float:
    """Return K P(Bin(N, q) > limit): a bound on the chance that any step draws more than that."""
    from scipy.stats import binom

    return min(1.0, num_steps * float(binom.sf(limit, num_train, sampling_rate)))


def default_limit(num_train: int, sampling_rate: float, num_steps: int, delta: float) -> int:
    """Return the smallest limit that a whole run passes with a chance below 1e-3 delta.

    From public numbers alone: N, q, K, delta. With one sample more the chance is as low, or adding
    one would displace another: full batches (q = 1) have the limit N + 1.
    """
    num_train += 1
    low, high = 0, num_train  # the chance at `high` meets the aim, that at `low` need not
    while low < high:
        middle = (low + high) // 2
        if overflow_chance(num_train, sampling_rate, num_steps, middle) < DEFAULT_OVERFLOW * delta:
            high = middle
        else:
            low = middle + 1
    return max(1, high)


def single_step(sigma: float, q: float, size: int, limit: int, step: float) -> Any:
    """Return the privacy loss distribution of one step on at most `size` samples."""
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_truncated_subsampled_gaussian_mechanism(
        dataset_size=size,
        sampling_probability=q,
        truncated_batch_size=limit,
        noise_multiplier=sigma,
        value_discretization_interval=step,
    )


def interval(sigma: float, q: float, steps: int, delta: float) -> float:
    """Return the grid's interval: the Poisson run's, but for the wider loss of sensitivity 2."""
    widest_loss = (2 + 20 * sigma) / sigma**2
    return max(pld.interval(sigma, q, steps, delta), widest_loss / pld.MAX_POINTS)
