"""The price of having searched: formulas against selections computed exactly, and golden values."""

import itertools
import math

import dp_accounting
import mpmath
import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.rdp import RdpAccountant
from scipy import integrate, stats

from dpexp.accounting import gaussian, pld, rdp
from dpexp.accounting import search_price as module
from dpexp.accounting.bounds import epsilon_bounds
from dpexp.accounting.search_price import ORDERS, SHAPES, gamma_of, mean_of, price_of_search
from dpexp.errors import AccountingError

RANDOM = ("geometric", "logarithmic", "negative_binomial", "poisson")
GAUSSIAN = (5.0, 1.0, 25)  # mu = 1
SUBSAMPLED = (1.805, 0.1, 20)


def chances(shape, gamma, most):
    """P[K = 1 .. most] of the truncated negative binomial, by its definition and nothing else."""
    found = []
    for k in range(1, most + 1):
        if shape == 0:
            found.append((1 - gamma) ** k / (k * math.log(1 / gamma)))
        else:
            product = math.prod((i + shape) / (i + 1) for i in range(k))
            found.append((1 - gamma) ** k / (gamma**-shape - 1) * product)
    return np.array(found)


@pytest.mark.parametrize("shape", [*SHAPES.values(), 2.5])
@pytest.mark.parametrize("gamma", [0.9, 0.3, 0.05])
def test_mean_is_that_of_the_definition(shape, gamma):
    p = chances(shape, gamma, 1200)
    assert p.sum() == pytest.approx(1, rel=1e-9)
    assert mean_of(shape, gamma) == pytest.approx(p @ np.arange(1, 1201), rel=1e-9)


@pytest.mark.parametrize("shape", SHAPES.values())
@pytest.mark.parametrize("mean", [1, 2, 20, 3000])
def test_gamma_gives_the_mean_and_is_rounded_to_more_runs(shape, mean):
    gamma = gamma_of(shape, mean)
    assert mean_of(shape, gamma) == pytest.approx(mean, rel=1e-9)
    assert mean_of(shape, gamma) >= mean * (1 - 1e-14)


def slope_of_generating_function(name, mean):
    """f'(x) of f(x) = E[x^K]: the best of K draws has density f'(F(y)) p(y)."""
    if name == "poisson":
        return lambda x: mean * np.exp(mean * (x - 1))
    shape = SHAPES[name]
    gamma = gamma_of(shape, mean)
    return lambda x: mean * gamma ** (1 + shape) * (1 - (1 - gamma) * x) ** (-1 - shape)


def exact_delta(name, mean, mu, epsilon, best):
    """Delta of the best of a random number of draws from N(0, 1) against N(mu, 1), by quadrature.

    `best` is the largest or the smallest draw. Both directions of neighbors.
    """
    slope = slope_of_generating_function(name, mean)
    tail = stats.norm.cdf if best == "largest" else stats.norm.sf

    def log_density(y, center):
        return np.log(slope(tail(y - center))) + stats.norm.logpdf(y - center)

    def excess(y, center, other):
        p, r = log_density(y, center), log_density(y, other)
        return np.exp(p) * max(0.0, -np.expm1(epsilon + r - p)) if r - p < -epsilon else 0.0

    # The Poisson number may be 0, with the same chance on both sides, which adds no excess.
    points = np.linspace(-14, 14 + mu, 57)
    return max(
        sum(integrate.quad(excess, a, b, args=order)[0] for a, b in itertools.pairwise(points))
        for order in ((0.0, mu), (mu, 0.0))
    )


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("best", ["largest", "smallest"])
@pytest.mark.parametrize(("mu", "mean"), [(1.0, 10), (0.3, 3)])
def test_bound_holds_for_a_selection_computed_exactly(name, best, mu, mean):
    delta = 1e-5
    price = price_of_search(math.sqrt(25) / mu, 1.0, 25, mean, delta)
    assert exact_delta(name, mean, mu, getattr(price, name), best) <= delta


def test_the_exact_selection_costs_more_than_one_run_so_the_test_above_can_fail():
    price = price_of_search(*GAUSSIAN, 10, 1e-5)
    for name in RANDOM:
        worst = max(exact_delta(name, 10, 1.0, price.single, b) for b in ("largest", "smallest"))
        assert worst > 1.5e-5, name


def test_density_of_the_exact_selection_is_that_of_drawing_and_choosing():
    """The twin's own twin: the distribution of the largest of K draws, by simulation."""
    rng = np.random.default_rng(0)
    for name, law in (("geometric", lambda: rng.geometric(1 / 4)),
                      ("poisson", lambda: rng.poisson(4))):  # fmt: skip
        best = [max(rng.standard_normal(k)) for k in (law() for _ in range(20_000)) if k]
        slope = slope_of_generating_function(name, 4)

        def density(y, slope=slope):
            return slope(stats.norm.cdf(y)) * stats.norm.pdf(y)

        whole, below = (integrate.quad(density, -9, end)[0] for end in (9, 1))
        assert np.mean(np.array(best) < 1) == pytest.approx(below / whole, abs=0.015)


def continuous_bound(name, mean, delta):
    """Theorems 2 and 6 for a Gaussian mechanism of mu = 1, minimized over all real orders."""
    half = mpmath.mpf(1) / 2
    log_delta, m = mpmath.log(delta), mpmath.mpf(mean)

    def epsilon(order, extra):
        divergence = order * half + extra + mpmath.log(m) / (order - 1)
        return divergence + mpmath.log1p(-1 / order) - (log_delta + mpmath.log(order)) / (order - 1)

    def poisson_extra(order):
        e = mpmath.log1p(1 / (order - 1))
        return m * (mpmath.ncdf(half - e) - mpmath.exp(e) * mpmath.ncdf(-half - e))

    if name == "poisson":
        return least(lambda order: epsilon(order, poisson_extra(order)))
    shape = mpmath.mpf(SHAPES[name])
    gamma = mpmath.findroot(lambda g: mean_by_paper(shape, g) - m, (1e-6, 0.9), solver="anderson")
    other = least(lambda h: (1 - 1 / h) * h * half - mpmath.log(gamma) / h)
    return least(lambda order: epsilon(order, (1 + shape) * other))


def mean_by_paper(shape, gamma):
    if shape == 0:
        return (1 / gamma - 1) / mpmath.log(1 / gamma)
    return shape * (1 - gamma) / (gamma * (1 - gamma**shape))


def least(function):
    """The least value over orders above 1, by golden sections on log(order - 1)."""
    low, high, ratio = mpmath.mpf(-8), mpmath.mpf(8), (mpmath.sqrt(5) - 1) / 2
    for _ in range(120):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        if function(1 + mpmath.exp(a)) < function(1 + mpmath.exp(b)):
            high = b
        else:
            low = a
    return float(function(1 + mpmath.exp(low)))


@pytest.mark.parametrize("name", RANDOM)
def test_orders_are_fine_enough(name):
    got = getattr(price_of_search(*GAUSSIAN, 10, 1e-5), name)
    best = continuous_bound(name, 10, 1e-5)
    assert best * (1 - 1e-9) <= got <= best * 1.002


# Origin: `continuous_bound` above, mpmath 1.3.0, written apart from the package; mu = 1, mean 10.
GOLDEN = {
    "geometric": 8.513466497,
    "logarithmic": 7.410381940,
    "negative_binomial": 6.687471209,
    "poisson": 8.461415310,
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values(name):
    got = getattr(price_of_search(*GAUSSIAN, 10, 1e-5), name)
    assert got == pytest.approx(GOLDEN[name], rel=2e-3)


@pytest.mark.parametrize(("name", "shape"), [("geometric", 1), ("logarithmic", 0)])
def test_dp_accounting_says_the_same(name, shape):
    sigma, q, steps = SUBSAMPLED
    one = dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(sigma))
    run = dp_accounting.SelfComposedDpEvent(one, steps)
    accountant = RdpAccountant(orders=ORDERS)
    accountant.compose(dp_event.RepeatAndSelectDpEvent(run, 20, shape))
    got = getattr(price_of_search(*SUBSAMPLED, 20, 1e-5), name)
    assert got == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-6)


def test_poisson_is_never_above_dp_accounting_whose_delta_is_looser():
    sigma, q, steps = SUBSAMPLED
    one = dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(sigma))
    run = dp_accounting.SelfComposedDpEvent(one, steps)
    accountant = RdpAccountant(orders=ORDERS)
    accountant.compose(dp_event.RepeatAndSelectDpEvent(run, 20, math.inf))
    assert price_of_search(*SUBSAMPLED, 20, 1e-5).poisson <= accountant.get_epsilon(1e-5)


def test_a_fixed_number_of_runs_is_all_their_steps():
    sigma, q, steps = SUBSAMPLED
    price = price_of_search(*SUBSAMPLED, 20, 1e-5)
    assert price.composed == epsilon_bounds(sigma, q, 20 * steps, 1e-5).epsilon
    assert price.single == epsilon_bounds(sigma, q, steps, 1e-5).epsilon
    exact = price_of_search(*GAUSSIAN, 4, 1e-5)
    assert exact.composed == pytest.approx(gaussian.epsilon_of(2.0, 1e-5), rel=1e-9)


@pytest.mark.parametrize("setting", [GAUSSIAN, SUBSAMPLED])
def test_every_price_is_above_one_run_and_rises_with_the_runs(setting):
    prices = [price_of_search(*setting, runs, 1e-5) for runs in (1, 2, 5, 30)]
    for name in (*RANDOM, "composed"):
        values = [getattr(price, name) for price in prices]
        assert values == sorted(set(values)), name
        assert values[0] >= prices[0].single


@pytest.mark.parametrize("setting", [GAUSSIAN, SUBSAMPLED])
def test_one_run_costs_what_it_costs_alone(setting):
    price = price_of_search(*setting, 1, 1e-5)
    assert price.composed == price.single
    by_rdp = rdp.epsilon(*setting, 1e-5)
    for name in SHAPES:
        assert getattr(price, name) == pytest.approx(by_rdp, rel=2e-3)


def test_without_noise_every_price_is_infinite():
    price = price_of_search(0.0, 0.1, 10, 5, 1e-5)
    assert {getattr(price, name) for name in (*RANDOM, "composed", "single")} == {math.inf}


def test_poisson_does_without_a_distribution_that_fails(monkeypatch, empty_cache):
    def broken(*_):
        raise FloatingPointError("overflow")

    tight = price_of_search(*SUBSAMPLED, 3, 1e-4).poisson
    monkeypatch.setattr(pld, "deltas", broken)
    monkeypatch.setattr(module, "cached", lambda name, inputs, compute, decode: compute())
    assert price_of_search(*SUBSAMPLED, 3, 1e-4).poisson >= tight + 1


def test_divergences_imply_the_epsilon_that_dp_accounting_says():
    curve = rdp.curve(*SUBSAMPLED, ORDERS)
    theirs, _ = dp_accounting.rdp.compute_epsilon(ORDERS, curve, 1e-5)
    assert rdp.to_epsilon(ORDERS, curve, 1e-5) == pytest.approx(theirs, rel=1e-9)
    assert rdp.curve(*GAUSSIAN, (2.0, 7.5)) == pytest.approx([1.0, 3.75])


@pytest.mark.parametrize("runs", [0, -1, 2.5, math.inf])
def test_a_number_of_runs_that_is_none_is_refused(runs):
    with pytest.raises(AccountingError, match=r"num_runs=.*a whole number of runs, at least 1"):
        price_of_search(*GAUSSIAN, runs, 1e-5)


def test_a_price_is_computed_once(empty_cache, monkeypatch):
    first = price_of_search(*GAUSSIAN, 3, 1e-5)
    monkeypatch.setattr(rdp, "curve", None)  # would fail if it were called again
    assert price_of_search(*GAUSSIAN, 3, 1e-5) == first
