"""Published settings: the central limit gives what is published; what is assumed shows."""

import math
from functools import cache

import mpmath
import pytest

from dpexp.accounting import gaussian, pld
from dpexp.accounting.papers import SETTINGS, TITLES, UNKNOWN, check, rounded_up

pytestmark = pytest.mark.slow  # the first time; every setting, by every accountant
checked = cache(check)


def setting(name, **fields):
    """The one setting of a name that has these fields."""
    (found,) = [
        s
        for s in SETTINGS
        if s.name.startswith(name) and all(getattr(s, k) == v for k, v in fields.items())
    ]
    return found


def delta_by_central_limit(epsilon, sigma, q, steps):
    """Delta of an epsilon by the central limit, written out with fifty digits."""
    with mpmath.workdps(50):
        e, mu = mpmath.mpf(epsilon), q * mpmath.sqrt(steps * mpmath.expm1(mpmath.mpf(sigma) ** -2))
        return float(mpmath.ncdf(-e / mu + mu / 2) - mpmath.exp(e) * mpmath.ncdf(-e / mu - mu / 2))


@pytest.mark.parametrize("case", SETTINGS, ids=lambda s: f"{s.name} {s.eps:g} {s.batch}")
def test_the_central_limit_gives_what_is_published(case):
    got = checked(case)
    q = case.batch / case.num_train
    delta = delta_by_central_limit(got.claimed, got.noise_multiplier, q, got.num_steps)
    assert delta == pytest.approx(case.delta, rel=1e-8)
    # SNLI's 54,000 steps give 1.285: its 1.25 is of three epochs, 51,577 steps.
    assert got.claimed == pytest.approx(case.eps, abs=0.036 if case.steps == 54_000 else 0.005)


@pytest.mark.parametrize("case", SETTINGS, ids=lambda s: f"{s.name} {s.eps:g} {s.batch}")
def test_sound_bounds_are_above_what_is_published(case):
    got = checked(case)
    assert case.eps < got.poisson.pld <= got.poisson.epsilon < got.poisson.rdp
    assert got.shuffled > got.poisson.epsilon


def test_snli_and_beit_are_as_far_off_as_other_accountants_say():
    # Origin: Renyi orders 2 to 255 evaluated directly, 6.5; a PLD with interval 1e-4 gives 5.16.
    snli = checked(setting("SNLI", steps=54_000))
    assert snli.poisson.rdp == pytest.approx(6.53, abs=0.05)
    assert snli.poisson.pld == pytest.approx(5.16, abs=0.01)
    beit = checked(setting("CIFAR-10 and CIFAR-100, BEiT", epochs=3))
    assert beit.noise_multiplier == pytest.approx(1.127, abs=1e-3)
    assert beit.poisson.pld == pytest.approx(1.262, abs=2e-3)
    assert beit.shuffled == pytest.approx(
        gaussian.epsilon_of(math.sqrt(3) / 1.1268, 1e-5), rel=1e-3
    )


def test_shuffled_bound_counts_stated_epochs_or_those_that_the_steps_start():
    assert checked(setting("MNIST")).num_epochs == 60
    # 54,000 steps of 32 are 3.14 passes over 550,152 samples.
    assert checked(setting("SNLI", steps=54_000)).num_epochs == 4


def test_steps_follow_from_epochs():
    assert setting("SNLI", epochs=3).num_steps == 51_577
    assert setting("CIFAR-10, WRN").num_steps == 2441


def test_a_stated_noise_is_taken_as_it_is():
    stated = [s for s in SETTINGS if s.noise_multiplier is not None]
    assert {s.paper for s in stated} == {"convergence"}
    assert all(checked(s).noise_multiplier == s.noise_multiplier for s in stated)


def test_every_setting_has_a_source_and_says_what_it_assumes():
    assert all(s.source and s.paper in TITLES for s in SETTINGS)
    fully_stated = {(s.name, s.eps) for s in SETTINGS if not s.assumed}
    assert fully_stated == {
        ("SNLI, BERT", 1.25),
        ("CIFAR-10, CrossViT-base and ViT-base", 1),
        ("CIFAR-10 and CIFAR-100, the script's default", 2),
    }
    assert {u.paper for u in UNKNOWN} == set(TITLES)


def test_beits_unknown_setting_is_bracketed():
    candidates = [s for s in SETTINGS if s.name.endswith("BEiT")]
    assert [(s.batch, s.epochs) for s in candidates] == [(1000, 3), (5000, 2), (1000, 5)]
    assert all(s.assumed for s in candidates)
    sound = [pld.epsilon(checked(s).noise_multiplier, s.sampling_rate, s.num_steps, s.delta)
             for s in candidates]  # fmt: skip
    assert 1.1 < min(sound) < max(sound) < 1.3


@pytest.mark.parametrize(
    ("bound", "shown"), [(1.2638, "1.27"), (1.26, "1.26"), (3.3001, "3.31"), (None, "-")]
)
def test_a_bound_with_two_decimals_is_a_bound(bound, shown):
    assert rounded_up(bound) == shown
