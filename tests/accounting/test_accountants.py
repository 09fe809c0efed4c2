"""Each accountant against golden values, exact curves, slow twins and each other."""

import json
import math
import subprocess
import sys
from pathlib import Path

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from dpexp.accounting import gaussian, gdp, pld, prv, rdp, shuffled
from dpexp.errors import AccountingError
from dpexp.mechanism import whole_batches

ACCOUNTANTS = {"prv": prv.epsilon, "pld": pld.epsilon, "rdp": rdp.epsilon, "gdp": gdp.epsilon}
UPPER_BOUNDS = {name: ACCOUNTANTS[name] for name in ("prv", "pld", "rdp")}
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "accounting.json").read_text())[
    "values"
]
SETTINGS = [(0.7792, 0.02, 150), (1.805, 0.1, 20), (2.5557, 0.08192, 2500)]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: f"{c['accountant']}-{c['sigma']}-{c['q']:g}")
def test_golden_values(case):
    epsilon = ACCOUNTANTS[case["accountant"]](
        case["sigma"], case["q"], case["steps"], case["delta"]
    )
    assert epsilon == pytest.approx(case["epsilon"], abs=case["tolerance"])


@pytest.mark.parametrize(("sigma", "q", "steps"), SETTINGS)
def test_prv_upper_bound_is_just_above_pld(sigma, q, steps):
    gap = prv.epsilon(sigma, q, steps, 1e-5) - pld.epsilon(sigma, q, steps, 1e-5)
    assert 0 <= gap <= 0.012


def exact_delta_of_one_step(sigma, q, epsilon):
    """Hockey-stick divergence of one subsampled step, by quadrature over both directions."""

    def without(x):
        return stats.norm.pdf(x, 0, sigma)

    def mixture(x):
        return (1 - q) * without(x) + q * stats.norm.pdf(x, 1, sigma)

    width = (-12 * sigma, 1 + 12 * sigma)
    excess = [
        integrate.quad(
            lambda x, p=p, r=r: max(0.0, p(x) - math.exp(epsilon) * r(x)), *width, limit=2000
        )[0]
        for p, r in ((mixture, without), (without, mixture))
    ]
    return max(excess)


@pytest.mark.parametrize("name", UPPER_BOUNDS)
@pytest.mark.parametrize(("sigma", "q"), [(1.0, 0.1), (0.6, 0.02), (3.0, 0.5)])
def test_bounds_hold_for_one_step_by_quadrature(name, sigma, q):
    epsilon = UPPER_BOUNDS[name](sigma, q, 1, 1e-3)
    assert exact_delta_of_one_step(sigma, q, epsilon) <= 1e-3 * (1 + 1e-6)
    if name != "rdp":  # and the tight ones are tight
        assert exact_delta_of_one_step(sigma, q, 0.97 * epsilon) > 1e-3


def test_central_limit_is_no_upper_bound():
    epsilon = gdp.epsilon(1.0, 0.1, 1, 1e-3)
    assert exact_delta_of_one_step(1.0, 0.1, epsilon) > 1e-3
    assert not gdp.IS_UPPER_BOUND


@pytest.mark.parametrize(("sigma", "q", "steps"), SETTINGS)
@pytest.mark.parametrize("name", ["pld", "rdp", "gdp"])
def test_epsilon_rises_with_steps_and_rate_and_falls_with_noise(name, sigma, q, steps):
    epsilon = ACCOUNTANTS[name]
    here = epsilon(sigma, q, steps, 1e-5)
    assert epsilon(sigma, q, steps + max(1, steps // 50), 1e-5) > here
    assert epsilon(sigma, 1.02 * q, steps, 1e-5) > here
    assert epsilon(1.02 * sigma, q, steps, 1e-5) < here
    assert epsilon(sigma, q, steps, 1e-6) > here


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    sigma=st.floats(0.5, 20), q=st.floats(1e-3, 0.5), steps=st.integers(1, 2000),
    log_delta=st.floats(-9, -3),
)  # fmt: skip
def test_rdp_is_never_below_pld(sigma, q, steps, log_delta):
    delta = 10**log_delta
    tight = pld.epsilon(sigma, q, steps, delta)
    # PLD rounds up by its stated error, which can show where epsilon is near 0.
    assert rdp.epsilon(sigma, q, steps, delta) >= tight * (1 - 10 * pld.RELATIVE_ERROR) - 1e-4


@pytest.mark.parametrize(("sigma", "q", "steps"), [(50.0, 0.02, 150), *SETTINGS])
def test_pld_grid_adds_no_more_than_it_says(sigma, q, steps):
    coarse = pld.epsilon(sigma, q, steps, 1e-5)
    fine = pld.epsilon(sigma, q, steps, 1e-5, relative_error=pld.RELATIVE_ERROR / 9)
    assert -1e-9 <= coarse - fine <= 3 * pld.RELATIVE_ERROR * max(fine, 1e-2)


def test_pld_of_many_step_counts_is_pld_of_each():
    counts = [10, 75, 150]
    together = pld.epsilons(0.7792, 0.02, counts, 1e-5)
    alone = [pld.epsilon(0.7792, 0.02, k, 1e-5) for k in counts]
    assert together == pytest.approx(alone, rel=2e-3)


@pytest.mark.parametrize("name", ACCOUNTANTS)
def test_no_noise_is_infinite(name):
    assert ACCOUNTANTS[name](0.0, 0.1, 3, 1e-5) == math.inf


@pytest.mark.parametrize("name", ["prv", "pld"])
def test_without_subsampling_the_gaussian_curve_is_exact(name):
    epsilon = ACCOUNTANTS[name](5.0, 1.0, 100, 1e-5)
    mu = mpmath.mpf(2)  # sqrt(100) / 5
    delta = mpmath.ncdf(-epsilon / mu + mu / 2) - mpmath.exp(epsilon) * mpmath.ncdf(
        -epsilon / mu - mu / 2
    )
    assert float(delta) == pytest.approx(1e-5, rel=1e-9)
    assert rdp.epsilon(5.0, 1.0, 100, 1e-5) > epsilon


@pytest.mark.parametrize("mu", [1e-3, 0.1, 1.0, 7.0, 60.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 10.0, 300.0])
def test_gaussian_delta_matches_fifty_digits(mu, epsilon):
    with mpmath.workdps(50):
        m, e = mpmath.mpf(mu), mpmath.mpf(epsilon)
        delta = mpmath.ncdf(-e / m + m / 2) - mpmath.exp(e) * mpmath.ncdf(-e / m - m / 2)
    if delta > 1e-290:
        assert gaussian.delta_of(mu, epsilon) == pytest.approx(float(delta), rel=1e-9)


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(0.1, 1e-5), (1.0, 1e-9), (8.0, 1e-5), (100.0, 1e-3)]
)
def test_gaussian_inverses_agree_and_round_to_the_safe_side(epsilon, delta):
    mu = gaussian.mu_of(epsilon, delta)
    assert gaussian.delta_of(mu, epsilon) <= delta
    assert gaussian.epsilon_of(mu, delta) == pytest.approx(epsilon, rel=1e-9)
    assert gaussian.delta_of(mu, gaussian.epsilon_of(mu, delta)) <= delta


def test_gaussian_epsilon_is_zero_where_delta_covers_everything():
    assert gaussian.epsilon_of(1e-7, 1e-5) == 0.0


def test_central_limit_calibration_inverts_its_epsilon():
    sigma = gdp.noise_multiplier(2.0, 1e-5, 0.02, 150)
    assert gdp.epsilon(sigma, 0.02, 150, 1e-5) == pytest.approx(2.0, rel=1e-9)


def test_shuffled_bound_counts_whole_epochs_and_claims_no_amplification():
    # 2.1 epochs started three: sqrt(3) / sigma, whatever the batch size.
    assert shuffled.epsilon(1.2, 2.1, 1e-5) == gaussian.epsilon_of(math.sqrt(3) / 1.2, 1e-5)
    assert shuffled.epsilon(0.0, 3, 1e-5) == math.inf
    assert shuffled.epsilon(0.7792, 3, 1e-5) > 3 * prv.epsilon(0.7792, 0.02, 150, 1e-5)


@pytest.mark.parametrize(
    ("steps", "batch", "num_train", "epochs"),
    [
        (150, 1000, 50000, 3),
        (151, 1000, 50000, 4),
        (1, 7, 7, 1),
        (49, 1000, 49000, 1),
        (8, 256, 1797, 2),
    ],
)
def test_epochs_started(steps, batch, num_train, epochs):
    assert shuffled.epochs_started(steps, batch / num_train) == epochs


@pytest.mark.parametrize("batch", range(1, 400, 7))
def test_batches_per_epoch_are_those_of_whole_numbers(batch):
    for num_train in (400, 1797, 50000, 1281167):
        assert whole_batches(batch / num_train) == num_train // batch


def test_prv_takes_the_error_it_can_afford():
    assert prv.choose_error(1.27, 0.02, 150, 1e-5, 1.0) == pytest.approx(1e-3)
    assert prv.choose_error(0.5, 0.02, 10, 1e-5, 20.0) == pytest.approx(0.01)
    coarse = prv.choose_error(1.27, 0.02, 150, 1e-5, 1.0, preferred_points=200_000)
    assert 1e-3 < coarse <= 4e-3


def test_prv_says_what_a_grid_out_of_reach_would_cost():
    with pytest.raises(AccountingError, match=r"would take .* points \(.* GiB\), above the limit"):
        prv.choose_error(30.0, 1e-4, 10**6, 1e-5, 0.004)
    with pytest.raises(AccountingError, match=r"no finite grid resolves epsilon near 0"):
        prv.choose_error(30.0, 1e-4, 10, 1e-5, 0.0)


def test_prv_bound_is_above_the_estimate_by_its_error_at_most():
    fine, coarse = (prv.epsilon(1.27, 0.02, 150, 1e-5, eps_error=e) for e in (2e-3, 1e-2))
    assert 0.0075 < coarse - fine < 0.0085


@pytest.mark.parametrize("name", ACCOUNTANTS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0, 0.1, 3, 1e-5), r"noise_multiplier=-1.0: sigma is a standard deviation"),
        ((math.inf, 0.1, 3, 1e-5), r"must be 0, or from 0.01 to 1e\+06"),
        ((1e-320, 0.1, 3, 1e-5), r"noise_multiplier=1e-320: sigma"),
        ((1.0, 0.1, 10**20, 1e-5), r"at most 1e\+07, beyond which no accountant was tried"),
        ((1.0, 50.0, 3, 1e-5), r"not a number of samples"),
        ((1.0, 0.0, 3, 1e-5), r"sampling_rate=0.0"),
        ((1.0, 0.1, 0, 1e-5), r"num_steps=0: must be a whole number, at least 1"),
        ((1.0, 0.1, 2.5, 1e-5), r"num_steps=2.5"),
        ((1.0, 0.1, 3, 0.0), r"delta=0.0: delta is a probability"),
        ((1.0, 0.1, 3, 1.0), r"delta=1.0"),
    ],
)
def test_bad_input_is_refused(name, arguments, message):
    with pytest.raises(AccountingError, match=message):
        ACCOUNTANTS[name](*arguments)


def test_importing_the_accountants_imports_nothing_heavy():
    code = (
        "import sys, dpexp.accounting.budget, dpexp.accounting.spent; "
        "print({'torch', 'scipy', 'numpy', 'dp_accounting', 'prv_accountant'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
