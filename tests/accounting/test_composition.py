"""A run and a Gaussian release after it, against closed forms and an accountant of other code."""

import math
from dataclasses import replace

import pytest

from dpexp.accounting import composition, gaussian, truncated
from dpexp.accounting.composition import compose_with_gaussian
from dpexp.accounting.spent import epsilon_spent
from dpexp.errors import AccountingError
from dpexp.mechanism import Mechanism, Sampler

DELTA = 1e-5


def mechanism(q=0.1, sigma=1.2, sampler: Sampler = "poisson", steps=60) -> Mechanism:
    is_truncated = sampler == "truncated_poisson"
    return Mechanism(
        noise_multiplier=sigma,
        clip_norm=1.0,
        sampling_rate=q,
        num_steps=steps,
        expected_batch_size=100,
        sampler=sampler,
        batch_limit=truncated.default_limit(1000, q, steps, DELTA) if is_truncated else None,
        num_train=1000 if is_truncated else None,
    )


def by_prv(run: Mechanism, steps: int, mu: float) -> tuple[float, float]:
    """Lower and upper bound of the composition by prv-accountant, which takes both at once."""
    from prv_accountant import (
        GaussianMechanism,
        PoissonSubsampledGaussianMechanism,
        PRVAccountant,
    )

    accountant = PRVAccountant(
        prvs=[
            PoissonSubsampledGaussianMechanism(
                sampling_probability=run.sampling_rate, noise_multiplier=run.noise_multiplier
            ),
            GaussianMechanism(noise_multiplier=1 / mu),
        ],
        eps_error=0.02,
        delta_error=DELTA / 1000,
        max_self_compositions=[steps, 1],
    )
    low, _, high = accountant.compute_epsilon(delta=DELTA, num_self_compositions=[steps, 1])
    return low, high


@pytest.mark.parametrize("mu", [0.15, 0.6])
def test_poisson_run_agrees_with_another_accountant(mu):
    found = compose_with_gaussian(mechanism(), 60, mu, DELTA)
    low, high = by_prv(mechanism(), 60, mu)
    assert low <= found.epsilon <= high + 0.01
    assert found.accountant == "privacy loss distributions of both, convolved"
    assert found.delta == DELTA


@pytest.mark.parametrize(("sigma", "steps", "mu"), [(4.0, 30, 0.4), (20.0, 5, 1.5)])
def test_full_batches_compose_exactly(sigma, steps, mu):
    run = mechanism(q=1.0, sigma=sigma)
    expected = gaussian.epsilon_of(math.sqrt(steps / sigma**2 + mu**2), DELTA)
    found = compose_with_gaussian(run, steps, mu, DELTA)
    assert expected <= found.epsilon <= expected + 1.01e-4
    # The convolution, on the same run, may be looser but never below.
    assert expected - 1e-9 <= composition._poisson(run, steps, mu, DELTA) <= expected * 1.01


SAMPLERS = ("poisson", "truncated_poisson", "balls_and_bins")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_whole_costs_at_least_each_part_and_at_most_their_sum(sampler):
    run, mu = mechanism(sampler=sampler), 0.25
    whole = compose_with_gaussian(run, 60, mu, DELTA).epsilon
    assert whole > epsilon_spent(run, 60, DELTA) > gaussian.epsilon_of(mu, DELTA)
    parts = epsilon_spent(run, 60, DELTA / 2) + gaussian.epsilon_of(mu, DELTA / 2)
    assert whole <= parts + 1e-4
    if sampler == "balls_and_bins":
        assert whole == pytest.approx(parts, abs=1.01e-4)
    else:
        # Convolved: below even the sum that would count delta once for each.
        assert whole < epsilon_spent(run, 60, DELTA) + gaussian.epsilon_of(mu, DELTA)


def test_a_limit_costs_as_poisson_with_twice_the_share_at_most():
    run = mechanism(sampler="truncated_poisson", sigma=3.0)
    found = compose_with_gaussian(run, 60, 0.3, DELTA).epsilon
    poisson = compose_with_gaussian(mechanism(sigma=3.0), 60, 0.3, DELTA).epsilon
    doubled = gaussian.epsilon_of(math.hypot(2 * math.sqrt(60) / 3.0, 0.3), DELTA)
    assert poisson - 1e-3 <= found <= doubled
    # Where nearly every batch overflows, the bound without amplification is taken.
    full = replace(run, sampling_rate=1.0, batch_limit=1)
    assert compose_with_gaussian(full, 60, 0.3, DELTA).epsilon <= doubled + 1e-4


def test_a_part_that_is_not_there_costs_nothing():
    run = mechanism()
    alone = compose_with_gaussian(run, 0, 0.3, DELTA).epsilon
    assert alone == pytest.approx(gaussian.epsilon_of(0.3, DELTA), abs=1.01e-4)
    assert alone >= gaussian.epsilon_of(0.3, DELTA)
    no_release = compose_with_gaussian(run, 60, 0.0, DELTA).epsilon
    assert no_release == pytest.approx(epsilon_spent(run, 60, DELTA), abs=1.01e-4)


def test_without_noise_there_is_no_bound():
    assert compose_with_gaussian(mechanism(), 60, math.inf, DELTA).epsilon == math.inf
    assert compose_with_gaussian(mechanism(sigma=0.0), 60, 0.3, DELTA).epsilon == math.inf


def test_a_bound_of_the_run_by_the_other_accountant_is_not_undercut(monkeypatch):
    monkeypatch.setattr(composition, "epsilon_spent", lambda *_: 50.0)
    assert compose_with_gaussian(mechanism(), 60, 0.3, DELTA).epsilon == 50.0


@pytest.mark.parametrize(
    ("mu", "delta", "message"),
    [(-1.0, DELTA, r"mu=-1.0.*at least 0"), (0.1, 2.0, r"delta=2.0.*must be in \(0, 1\)")],
)
def test_what_is_out_of_range_is_refused(mu, delta, message):
    with pytest.raises(AccountingError, match=message):
        compose_with_gaussian(mechanism(), 60, mu, delta)
