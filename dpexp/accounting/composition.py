"""Epsilon of a run followed by one more Gaussian release, such as a recalibration of its model.

The release may depend on what the run gave out. Both are charged to the same sample (sequential
composition), at one delta for the whole. Where the run's privacy loss has a distribution, it is
convolved with the release's; full batches (q = 1) are Gaussian, and compose exactly,

    mu = sqrt(K / sigma^2 + mu_release^2).

For a sampler whose losses are not composed here, each part gives up half of delta and the epsilons
are added: epsilon_run(delta / 2) + epsilon_release(delta / 2).

Source: Dong, Roth & Su 2019, arXiv:1905.02383, Section 3 (mu); Koskela, Jalko & Honkela 2020,
arXiv:1906.03049 (convolution); Dwork & Roth 2014, Theorem 3.16 (the sum).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dpexp.accounting import gaussian, pld, truncated
from dpexp.accounting.inputs import check_inputs
from dpexp.accounting.spent import epsilon_spent
from dpexp.errors import AccountingError
from dpexp.mechanism import Mechanism

DECIMALS = 4  # of a composed epsilon, rounded up


@dataclass(frozen=True)
class Composed:
    """What a run and a Gaussian release cost together.

    Attributes:
        epsilon: An upper bound, rounded up to 4 decimals; infinite without noise in either.
        delta: Of the whole.
        accountant: How the two were composed.
    """

    epsilon: float
    delta: float
    accountant: str


def compose_with_gaussian(
    mechanism: Mechanism, num_steps: int, mu: float, delta: float
) -> Composed:
    """Return a bound on epsilon of the first `num_steps` steps and a mu-Gaussian release after.

    It is never below the epsilon of either part alone at the same delta. Seconds when the run's
    own epsilon is not cached.

    Args:
        mechanism: Of the run; its own `num_steps` is not read.
        num_steps: Steps that the run was charged for; 0 leaves the release alone.
        mu: Of the release: sqrt(T) / sigma for T full-batch steps of noise sigma; 0 is no release,
            infinity one without noise.
        delta: In (0, 1).

    Raises:
        AccountingError: If an argument is out of range.
    """
    sigma, q = mechanism.noise_multiplier, mechanism.sampling_rate
    check_inputs(sigma, q, max(1, num_steps), delta)
    if not mu >= 0:
        raise AccountingError(
            f"mu={mu}: a release is told apart like N(0, 1) from N(mu, 1), so mu must be at least "
            f"0; give sqrt(steps) / noise_multiplier"
        )
    alone = gaussian.epsilon_of(mu, delta)
    if math.isinf(mu) or (sigma == 0 and num_steps):
        return Composed(math.inf, delta, "no noise, so no bound")
    if num_steps == 0:
        return Composed(_round_up(alone), delta, "Gaussian mechanism, exact")
    run = epsilon_spent(mechanism, num_steps, delta)
    if mu == 0:
        return Composed(_round_up(run), delta, "that of the run")
    if q == 1 and mechanism.sampler == "poisson":
        both = gaussian.epsilon_of(math.hypot(math.sqrt(num_steps) / sigma, mu), delta)
        return Composed(_round_up(max(both, run)), delta, "Gaussian mechanism, exact")
    compose = COMPOSERS.get(mechanism.sampler)
    if compose is None:
        both = epsilon_spent(mechanism, num_steps, delta / 2) + gaussian.epsilon_of(mu, delta / 2)
        words = "sum of both epsilons, each at half of delta"
    else:
        both = compose(mechanism, num_steps, mu, delta)
        words = "privacy loss distributions of both, convolved"
    # The run's own bound is the larger of two accountants, the convolution that of one.
    return Composed(_round_up(max(both, run, alone)), delta, words)


def _poisson(mechanism: Mechanism, num_steps: int, mu: float, delta: float) -> float:
    from dp_accounting.pld import privacy_loss_distribution

    sigma, q = mechanism.noise_multiplier, mechanism.sampling_rate
    step = max(pld.interval(sigma, q, num_steps, delta), _least_interval(mu))
    single = privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=sigma,
        sampling_prob=q,
        pessimistic_estimate=True,
        value_discretization_interval=step,
    )
    return _convolved(single, num_steps, mu, step, delta)


def _truncated(mechanism: Mechanism, num_steps: int, mu: float, delta: float) -> float:
    num_train, limit = mechanism.num_train, mechanism.batch_limit
    assert num_train is not None
    assert limit is not None
    sigma, q = mechanism.noise_multiplier, mechanism.sampling_rate
    step = max(truncated.interval(sigma, q, num_steps, delta), _least_interval(mu))
    # Two samples' shares at most, however a batch is drawn.
    plain = gaussian.epsilon_of(math.hypot(2 * math.sqrt(num_steps) / sigma, mu), delta)
    singles = (
        truncated.single_step(sigma, q, size, limit, step) for size in (num_train, num_train + 1)
    )
    return min(plain, max(_convolved(single, num_steps, mu, step, delta) for single in singles))


def _convolved(single: Any, num_steps: int, mu: float, step: float, delta: float) -> float:
    """Return epsilon of K steps with this privacy loss, and a mu-Gaussian release."""
    from dp_accounting.pld import privacy_loss_distribution

    tail = min(1e-15, 1e-5 * delta)  # counts as an infinite loss
    release = privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=1 / mu, pessimistic_estimate=True, value_discretization_interval=step
    )
    both = single.self_compose(num_steps, tail).compose(release, tail)
    return float(both.get_epsilon_for_delta(delta))


def _least_interval(mu: float) -> float:
    """Return the finest grid on which a mu-Gaussian loss, 10 deviations wide, still fits."""
    return (mu**2 / 2 + 10 * mu) / pld.MAX_POINTS


def _round_up(epsilon: float) -> float:
    return math.ceil(epsilon * 10**DECIMALS) / 10**DECIMALS


COMPOSERS: dict[str, Callable[[Mechanism, int, float, float], float]] = {
    "poisson": _poisson,
    "truncated_poisson": _truncated,
}
