"""Bounds from error rates, against sums over the binomial and against curves by quadrature."""

import math

import numpy as np
import pytest
from scipy import integrate
from scipy.stats import norm

from dpexp.accounting import gaussian, pld
from dpexp.audit.bounds import (
    ErrorRates,
    epsilon_any,
    epsilon_gaussian,
    error_rates,
    mu_above_chance,
    upper_limit,
)
from dpexp.audit.subsampled import Family, deltas_of, least_fnr

DELTA = 1e-5


def rates(fpr, fnr):
    return ErrorRates(100, 100, 0, 0, fpr, fnr)


@pytest.mark.parametrize(("count", "total"), [(0, 10), (3, 10), (9, 10), (250, 1000)])
@pytest.mark.parametrize("error", [0.05, 0.001])
def test_an_upper_limit_leaves_the_chance_of_so_few(count, total, error):
    # By definition: at the limit, so few or fewer happen with chance `error`.
    limit = upper_limit(count, total, error)
    terms = [math.comb(total, k) * limit**k * (1 - limit) ** (total - k) for k in range(count + 1)]
    assert math.fsum(terms) == pytest.approx(error, rel=1e-9)


def test_what_always_happened_or_never_was_tried_has_no_limit():
    assert upper_limit(10, 10, 0.05) == upper_limit(0, 0, 0.05) == 1.0


def test_rates_are_counted_and_each_side_has_half_of_the_error():
    scores, is_in = np.array([0.0, 1.0, 2.0, 3.0, 4.0]), np.array([0, 0, 1, 0, 1], bool)
    found = error_rates(scores, is_in, threshold=2.0, error=0.1)
    assert (found.num_out, found.num_in) == (3, 2)
    assert (found.false_positives, found.false_negatives) == (1, 1)  # 2.0 is not above 2.0
    assert found.fpr_above == upper_limit(1, 3, 0.05)
    assert found.fnr_above == upper_limit(1, 2, 0.05)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.5, 0.0), (2.0, 1e-5), (4.0, 0.01)])
def test_the_corner_of_what_epsilon_and_delta_allow_gives_epsilon_back(epsilon, delta):
    # Both lines of the region meet where FPR = FNR = (1 - delta) / (1 + e^epsilon).
    corner = (1 - delta) / (1 + math.exp(epsilon))
    assert epsilon_any(rates(corner, corner), delta) == pytest.approx(epsilon, rel=1e-12)


def test_either_direction_counts():
    one, other = rates(0.001, 0.5), rates(0.5, 0.001)
    assert epsilon_any(one, 0) == epsilon_any(other, 0) == pytest.approx(math.log(500))


@pytest.mark.parametrize("mu", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("threshold", [-0.5, 0.4, 2.0])
def test_exact_rates_of_a_gaussian_give_its_mu_and_epsilon(mu, threshold):
    exact = rates(norm.sf(threshold), norm.cdf(threshold - mu))
    assert mu_above_chance(exact) == pytest.approx(mu, rel=1e-9)
    expected = gaussian.epsilon_of(mu, DELTA)
    assert epsilon_gaussian(exact, DELTA) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("bad", [(1.0, 0.1), (0.1, 1.0), (0.6, 0.6)])
def test_rates_of_a_blind_attacker_prove_nothing(bad):
    assert epsilon_any(rates(*bad), DELTA) == epsilon_gaussian(rates(*bad), DELTA) == 0
    assert Family(1.0, 0.1, 10).least_epsilon(rates(*bad), DELTA) == 0


def delta_by_quadrature(sigma, q, epsilon, is_removed):
    """delta of one subsampled step: the integral of (p - e^epsilon p')+."""

    def mixed(x):
        return (1 - q) * norm.pdf(x, 0, sigma) + q * norm.pdf(x, 1, sigma)

    def gap(x):
        one, other = mixed(x), norm.pdf(x, 0, sigma)
        one, other = (one, other) if is_removed else (other, one)
        return max(0.0, one - math.exp(epsilon) * other)

    reach = 12 * sigma
    return integrate.quad(gap, -reach, 1 + reach, limit=2000, points=[0, 1, 2, 3])[0]


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5])
def test_delta_of_one_step_is_the_worse_direction_rounded_up(epsilon):
    sigma, q = 0.8, 0.2
    exact = max(delta_by_quadrature(sigma, q, epsilon, is_removed) for is_removed in (True, False))
    found = float(deltas_of(sigma, q, 1, np.array([epsilon]))[0])
    assert exact - 1e-9 <= found <= exact + 2e-3


@pytest.mark.parametrize("fpr", [0.02, 0.2, 0.6])
def test_no_test_of_one_step_errs_less_than_the_curve(fpr):
    sigma, q = 0.8, 0.2
    # The best test is a threshold on x, whichever way round.
    threshold = sigma * norm.isf(fpr)
    fnr = (1 - q) * norm.cdf(threshold / sigma) + q * norm.cdf((threshold - 1) / sigma)
    found = least_fnr(sigma, q, 1, fpr)
    assert fnr - 0.03 < found <= fnr + 1e-9


@pytest.mark.parametrize("fpr", [0.01, 0.3])
def test_at_q_one_the_curve_is_the_gaussian_one(fpr):
    assert least_fnr(2.0, 1.0, 4, fpr) == pytest.approx(norm.cdf(norm.isf(fpr) - 1.0), rel=1e-12)


@pytest.mark.parametrize("sigma", [0.7, 1.0, 1.5])
def test_rates_on_a_curve_give_the_noise_of_that_curve(sigma):
    # The family is told sigma = 1; the rates are those of another noise.
    claimed, q, steps = 1.0, 0.1, 50
    on_curve = rates(0.05, least_fnr(sigma, q, steps, 0.05))
    found = Family(claimed, q, steps).least_epsilon(on_curve, DELTA)
    true = pld.epsilon(sigma, q, steps, DELTA)
    assert 0.985 * true < found <= true


def test_limits_hold_as_often_as_they_say():
    # 2,000 attackers on a Gaussian release: the bound may be above the truth once in twenty times.
    rng = np.random.default_rng(0)
    mu, num, threshold = 1.0, 400, 0.5
    false_positives = rng.binomial(num, norm.sf(threshold), 2000)
    false_negatives = rng.binomial(num, norm.cdf(threshold - mu), 2000)
    above = [
        mu_above_chance(rates(upper_limit(a, num, 0.025), upper_limit(b, num, 0.025))) > mu
        for a, b in zip(false_positives, false_negatives, strict=True)
    ]
    assert np.mean(above) < 0.05
    # Without limits, the rates themselves prove too much half of the time.
    plain = [
        mu_above_chance(rates(a / num, b / num)) > mu
        for a, b in zip(false_positives, false_negatives, strict=True)
    ]
    assert np.mean(plain) > 0.4
