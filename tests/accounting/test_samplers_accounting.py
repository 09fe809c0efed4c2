"""Epsilon of each sampler, against quadrature, Monte Carlo, and bounds found in other ways."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate, stats

from dpexp.accounting import balls_and_bins, gaussian, pld, samplers, shuffled, truncated
from dpexp.accounting.spent import epsilon_spent, spent_table
from dpexp.errors import AccountingError
from dpexp.mechanism import Mechanism


def mechanism(sampler, sigma=1.0, steps=40, batches=8, **fields):
    if sampler == "truncated_poisson":
        fields = {"batch_limit": 190, "num_train": 1200, **fields}
    return Mechanism(
        noise_multiplier=sigma,
        clip_norm=1.0,
        sampling_rate=1 / batches,
        num_steps=steps,
        expected_batch_size=150.0,
        sampler=sampler,
        **fields,
    )


# Balls and bins.


def exact_deltas_of_two_batches(sigma, epsilon):
    """Return delta(P || Q) and delta(Q || P) of one epoch of T = 2, by one quadrature each.

    R = (y_1 + y_2) / 2 of two lognormals of mean 1; given y_1, the expectation over y_2 is that of
    a call, or a put, whose strike is what y_1 leaves.
    """
    s = 1 / sigma

    def call(strike):
        if strike <= 0:
            return 1 - strike
        low = (-math.log(strike) - s**2 / 2) / s
        return stats.norm.cdf(low + s) - strike * stats.norm.cdf(low)

    def expected(payoff, level):
        def integrand(z):
            y = math.exp(s * z - s**2 / 2)
            return payoff(2 * level - y) / 2 * stats.norm.pdf(z)

        switch = (math.log(2 * level) + s**2 / 2) / s
        edges = [-12.0, *(x for x in (switch,) if abs(x) < 12), 12.0 + s]
        pieces = itertools.pairwise(edges)
        return sum(
            integrate.quad(integrand, *piece, limit=500, epsabs=1e-13)[0] for piece in pieces
        )

    # (1 - e^eps R)^+ = e^eps (e^-eps - R)^+, and a put is a call less what the mean leaves.
    def put(strike):
        return call(strike) - (1 - strike) if strike > 0 else 0.0

    above = expected(call, math.exp(epsilon))
    below = math.exp(epsilon) * expected(put, math.exp(-epsilon))
    return above, below


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-8])
def test_balls_and_bins_is_just_above_the_exact_epsilon_of_two_batches(sigma, delta):
    epsilon = balls_and_bins.epsilon(sigma, 2, 1, delta)
    assert max(exact_deltas_of_two_batches(sigma, epsilon)) <= delta * (1 + 1e-6)
    assert max(exact_deltas_of_two_batches(sigma, 0.998 * epsilon)) > delta


def sampled_deltas(sigma, num_batches, num_epochs, epsilon, count=400_000):
    """Return estimates of both deltas by sampling the pair itself, with their standard errors."""
    rng = np.random.default_rng(5)
    losses = []
    for is_member in (1, 0):
        loss = np.zeros(count)
        for _ in range(num_epochs):
            x = sigma * rng.standard_normal((count, num_batches))
            x[:, 0] += is_member  # the sample's batch; which one does not matter
            exponents = (2 * x - 1) / (2 * sigma**2)
            loss += np.log(np.mean(np.exp(exponents), 1))
        losses.append(loss)
    values = (
        np.maximum(0, -np.expm1(epsilon - losses[0])),
        np.maximum(0, -np.expm1(epsilon + losses[1])),
    )
    return [(v.mean(), v.std() / math.sqrt(count)) for v in values]


SAMPLED = [(1.0, 7, 3, 1e-2), (0.8, 12, 2, 1e-2), (2.0, 3, 4, 3e-2)]


@pytest.mark.parametrize(("sigma", "batches", "epochs", "delta"), SAMPLED)
def test_balls_and_bins_agrees_with_monte_carlo(sigma, batches, epochs, delta):
    epsilon = balls_and_bins.epsilon(sigma, batches, epochs, delta)
    found, error = max(sampled_deltas(sigma, batches, epochs, epsilon))
    assert abs(found - delta) < 4 * error
    assert error < 0.02 * delta
    # Less noise, or another epoch, is seen.
    for wrong in ((0.95 * sigma, batches, epochs), (sigma, batches, epochs + 1)):
        off, error = max(sampled_deltas(*wrong, epsilon))
        assert off - delta > 6 * error


@pytest.mark.parametrize("batches", [1, 2, 3, 5, 6, 7, 8, 13, 100])
@pytest.mark.parametrize("sigma", [0.6, 2.0])
def test_the_ratio_keeps_mass_and_mean_and_hardly_gains_variance(batches, sigma):
    step = balls_and_bins.interval(sigma, batches)
    ratio = balls_and_bins.mean_ratio(sigma, batches, step)
    values = np.exp((ratio.first + np.arange(len(ratio.masses))) * step)
    exact = math.expm1(1 / sigma**2) / batches
    assert ratio.masses.min() >= 0
    assert ratio.masses.sum() == pytest.approx(1, abs=1e-11)
    assert (ratio.masses * values).sum() == pytest.approx(1, abs=1e-11)
    variance = (ratio.masses * (values - 1) ** 2).sum()
    assert exact * (1 - 1e-9) <= variance <= exact * 1.003
    assert 0 < ratio.lost < 1e-15


@pytest.mark.parametrize(("sigma", "batches", "epochs"), [(1.0, 49, 3), (2.55, 12, 200)])
def test_a_finer_grid_lowers_the_bound_by_little(sigma, batches, epochs, monkeypatch):
    coarse = balls_and_bins.epsilon(sigma, batches, epochs, 1e-5)
    monkeypatch.setattr(balls_and_bins, "FINENESS", balls_and_bins.FINENESS / 3)
    fine = balls_and_bins.epsilon(sigma, batches, epochs, 1e-5)
    assert fine < coarse < fine * 1.001


def test_balls_and_bins_is_never_above_what_holds_without_amplification():
    for sigma, batches, epochs, delta in [(0.3, 1, 5, 1e-5), (0.05, 9, 2, 1e-5), (1, 9, 2, 1e-12)]:
        got = balls_and_bins.epsilon(sigma, batches, epochs, delta)
        assert got == gaussian.epsilon_of_steps(sigma, epochs, delta)
    amplified = balls_and_bins.epsilon(1.0, 20, 4, 1e-5)
    assert 0 < amplified < 0.5 * shuffled.epsilon(1.0, 4, 1e-5)
    assert balls_and_bins.epsilon(0.0, 20, 4, 1e-5) == math.inf


def test_an_epoch_that_is_started_counts_whole():
    for sampler in ("balls_and_bins", "shuffle"):
        made = mechanism(sampler, batches=8)
        one, rest, two = (epsilon_spent(made, k, 1e-5) for k in (1, 8, 9))
        assert one == rest < two
        table = spent_table(made, 1e-5)
        assert table.steps == (8, 16, 24, 32, 40)
        assert (table.after(1), table.after(9)) == pytest.approx((rest, two), rel=1e-9)


# Truncated Poisson.


def chances(size, q, limit):
    """Return P(others reach the limit), and P(the sample stays | they do), by summing over them."""
    others = np.arange(size)
    weights = stats.binom.pmf(others, size - 1, q)
    full = others >= limit
    stays = q * limit / (others + 1)
    return weights[full].sum(), (weights * stays)[full].sum() / weights[full].sum()


def exact_delta_of_one_truncated_step(sigma, q, size, limit, epsilon):
    """Return the larger divergence of a step whose overflow is seen, by quadrature."""
    chance, stays = chances(size, q, limit)

    def divergence(share, shift):
        def density(x, of_larger):
            plain = stats.norm.pdf(x, 0, sigma)
            return (
                (1 - share) * plain + share * stats.norm.pdf(x, shift, sigma)
                if of_larger
                else plain
            )

        x = np.linspace(-14 * sigma, 14 * sigma + shift, 400_001)
        p, r = density(x, True), density(x, False)
        factor = math.exp(epsilon)
        return np.array(
            [
                integrate.trapezoid(np.maximum(0, p - factor * r), x),
                integrate.trapezoid(np.maximum(0, r - factor * p), x),
            ]
        )

    return ((1 - chance) * divergence(q, 1) + chance * divergence(stays, 2)).max()


@pytest.mark.parametrize(
    ("sigma", "q", "num_train", "limit"),
    [(1.0, 0.3, 12, 5), (2.0, 0.5, 6, 2), (0.8, 0.1, 9, 2), (1.5, 0.9, 4, 3)],
)
@pytest.mark.parametrize("delta", [1e-2, 1e-4])
def test_truncated_bound_holds_for_one_step_by_quadrature(sigma, q, num_train, limit, delta):
    epsilon = truncated.epsilon(sigma, q, 1, delta, num_train, limit)
    for size in (num_train, num_train + 1):  # one taken out, one put in
        exact = exact_delta_of_one_truncated_step(sigma, q, size, limit, epsilon)
        assert exact <= delta * (1 + 1e-4)
    # Tight to the replacement that dp-accounting takes, and Poisson's epsilon would not hold.
    assert exact_delta_of_one_truncated_step(sigma, q, size, limit, 0.6 * epsilon) > delta
    poisson = pld.epsilon(sigma, q, 1, delta)
    assert exact_delta_of_one_truncated_step(sigma, q, size, limit, poisson) > delta


def test_displacing_a_sample_costs_what_the_accountant_says():
    # Of 6 samples 2 stay: the others all pull one way, the sixth the other way. Exact divergences
    # of the sums that come out, with nothing else seen.
    sigma, size, limit = 2.0, 6, 2
    epsilon = truncated.epsilon(sigma, 1.0, 1, 1e-4, size - 1, limit)
    x = np.linspace(-40, 40, 200_001)
    without = stats.norm.pdf(x, -2, sigma)
    with_it = 2 / 3 * without + 1 / 3 * stats.norm.pdf(x, 0, sigma)

    def delta(eps):
        return integrate.trapezoid(np.maximum(0, with_it - math.exp(eps) * without), x)

    assert delta(epsilon) <= 1e-4
    # As if the sample took no other's place.
    assert delta(pld.epsilon(sigma, 1 / 3, 1, 1e-4)) > 1e-4


TRUNCATED = [(1.0, 0.02, 150, 50_000, 1181), (2.5, 0.08, 500, 1438, 182), (0.8, 0.2, 20, 1438, 392)]


@pytest.mark.parametrize(("sigma", "q", "steps", "num_train", "limit"), TRUNCATED)
def test_truncated_epsilon_lies_between_two_found_by_coupling(sigma, q, steps, num_train, limit):
    # A run is within eta of the Poisson run of the same draws, so each bounds the other.
    delta = 1e-5
    epsilon = truncated.epsilon(sigma, q, steps, delta, num_train, limit)
    eta = truncated.overflow_chance(num_train + 1, q, steps, limit)
    slack = (1 + math.exp(epsilon)) * eta
    assert 1e-4 < slack / delta < 0.9  # says something
    assert pld.epsilon(sigma, q, steps, delta + slack) <= epsilon
    assert epsilon <= pld.epsilon(sigma, q, steps, delta - slack)


def test_truncated_epsilon_falls_with_the_limit_to_that_of_poisson():
    poisson = pld.epsilon(1.0, 0.1, 60, 1e-5)
    found = [truncated.epsilon(1.0, 0.1, 60, 1e-5, 1438, k) for k in (130, 150, 170, 190, 1438)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 1.1 * poisson
    assert found[-1] == pytest.approx(poisson, rel=1e-3)
    assert found[-1] >= poisson - 1e-9


def test_truncation_that_takes_all_but_nothing_is_bounded_by_two_shares():
    got = truncated.epsilon(2.0, 1.0, 5, 1e-5, 3, 2)
    assert got <= gaussian.epsilon_of_steps(1.0, 5, 1e-5)
    assert truncated.epsilon(0.0, 0.5, 5, 1e-5, 3, 2) == math.inf


@pytest.mark.parametrize(("num_train", "q", "steps"), [(1438, 0.08, 2500), (50_000, 0.02, 150)])
def test_default_limit_is_the_smallest_that_a_run_hardly_passes(num_train, q, steps):
    limit = truncated.default_limit(num_train, q, steps, 1e-5)
    chance = [steps * stats.binom.sf(k, num_train + 1, q) for k in (limit - 1, limit)]
    assert chance[1] < 1e-8 <= chance[0]
    assert truncated.overflow_chance(num_train, q, steps, limit) < chance[1]
    assert truncated.overflow_chance(num_train + 1, q, steps, limit) == pytest.approx(chance[1])


def test_default_limit_of_full_batches_leaves_room_for_one_more_sample():
    assert truncated.default_limit(40, 1.0, 100, 1e-5) == 41
    assert truncated.overflow_chance(40, 1.0, 100, 41) == 0.0
    exact = gaussian.epsilon_of_steps(30.0, 100, 1e-5)
    assert truncated.epsilon(30.0, 1.0, 100, 1e-5, 40, 41) == pytest.approx(exact, rel=2e-3)
    # With room for 40 alone, the 41st would displace another.
    assert truncated.epsilon(30.0, 1.0, 100, 1e-5, 40, 40) > 1.5 * exact


def test_a_limit_below_one_is_refused():
    with pytest.raises(AccountingError, match=r"batch_limit=0: a truncated batch takes at least 1"):
        truncated.epsilon(1.0, 0.1, 3, 1e-5, 100, 0)


# Noise for a target.


@pytest.mark.parametrize("sampler", ["truncated_poisson", "balls_and_bins", "shuffle"])
@pytest.mark.parametrize("eps", [0.7, 6.0])
def test_noise_meets_the_target_by_the_samplers_own_accountant(sampler, eps):
    found = samplers.with_noise_for(mechanism(sampler, sigma=0.0), eps, 1e-5)
    sigma = found.noise_multiplier
    assert found == replace(mechanism(sampler), noise_multiplier=sigma)
    assert epsilon_spent(found, 40, 1e-5) <= eps
    assert epsilon_spent(replace(found, noise_multiplier=0.99 * sigma), 40, 1e-5) > eps
    assert sigma == round(sigma, 4)
    assert samplers.with_noise_for(mechanism(sampler), math.inf, 1e-5).noise_multiplier == 0.0


def test_the_table_of_a_run_rises_to_the_epsilon_reported_at_its_end():
    for sampler in ("truncated_poisson", "balls_and_bins"):
        made = mechanism(sampler, steps=100)
        table = spent_table(made, 1e-5)
        assert list(table.epsilons) == sorted(table.epsilons)
        assert table.after(100) == pytest.approx(epsilon_spent(made, 100, 1e-5), rel=1e-6)
        assert table == spent_table(made, 1e-5)


def test_epsilons_of_other_limits_are_not_taken_from_the_cache():
    near = spent_table(mechanism("truncated_poisson", batch_limit=160), 1e-5)
    far = spent_table(mechanism("truncated_poisson", batch_limit=190), 1e-5)
    assert near.epsilons[-1] > far.epsilons[-1]
