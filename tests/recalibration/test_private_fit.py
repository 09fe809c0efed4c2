"""The private fit: a loop that shares no code with it, its noise, and its epsilon."""

import math

import numpy as np
import pytest
import torch
from logits import sample
from scipy.stats import chi2
from torch.nn.functional import cross_entropy

from dpexp.accounting import gaussian
from dpexp.clipping.noise import StepNoise
from dpexp.errors import AccountingError, ConfigError, MetricError
from dpexp.metrics.measures import accuracy, nll_nats
from dpexp.recalibration import private
from dpexp.recalibration.fit import fit_scaling
from dpexp.recalibration.plain import fit_plain
from dpexp.recalibration.private import SETTINGS, Settings, fit_noisy, mechanism_of
from dpexp.recalibration.scaling import MOST_LOG_SCALE
from dpexp.sampling import derive_seed

DELTA = 1e-5
METHODS = ["temperature", "platt"]


def slow_fit(method, logits, labels, mechanism, settings, seed):
    """Sample by sample, by the formula of the gradient, in NumPy; the same noise."""
    z = logits.numpy() - logits.numpy().mean(1, keepdims=True)
    k = z.shape[1]
    weight = settings.class_weight
    common, scales, shifts = np.zeros(1), np.zeros(k), np.zeros(k)
    kept = []
    for step in range(mechanism.num_steps):
        total = [np.zeros(1), np.zeros(k), np.zeros(k)]
        for row, label in zip(z, labels.tolist(), strict=True):
            scale = np.exp(common + (weight * scales if method == "platt" else 0))
            scaled = row * scale + (weight * shifts if method == "platt" else 0)
            exps = np.exp(scaled - scaled.max())
            residual = exps / exps.sum()
            residual[label] -= 1
            of_scale = residual * row * scale
            parts = [of_scale.sum(keepdims=True)]
            if method == "platt":
                parts += [weight * of_scale, weight * residual]
            norm = math.sqrt(sum(float((p**2).sum()) for p in parts))
            factor = min(1.0, mechanism.clip_norm / norm)
            for i, part in enumerate(parts):
                total[i] += factor * part
        source = StepNoise(derive_seed(seed, "recalibration noise", step))
        for i, values in enumerate((common, scales, shifts)[: 3 if method == "platt" else 1]):
            noise = source.normal(torch.zeros(len(values), dtype=torch.float64)).numpy()
            sigma = mechanism.noise_multiplier * mechanism.clip_norm
            noisy = (total[i] + sigma * noise) / mechanism.expected_batch_size
            values -= settings.learning_rate * noisy
        if method == "platt":
            kept.append(np.concatenate([common + weight * scales, weight * shifts]))
        else:
            kept.append(common.copy())
    return np.mean(kept[len(kept) // 2 :], 0)


@pytest.mark.parametrize("method", METHODS)
def test_the_fit_is_the_noisy_clipped_descent_it_says(method):
    logits, labels = sample(40, 3, temperature=2.5)
    settings = Settings(clip_norm=0.7, num_steps=5, learning_rate=0.5, class_weight=0.4)
    mechanism = mechanism_of(settings, noise_multiplier=3.0, num_samples=50)
    found = fit_noisy(method, logits, labels, mechanism, settings, seed=3)
    expected = slow_fit(method, logits, labels, mechanism, settings, seed=3)
    assert [*found.log_scale, *found.shift] == pytest.approx(expected.tolist(), rel=1e-10)


def test_gradients_are_clipped_in_that_case_and_some_are_not():
    logits, labels = sample(40, 3, temperature=2.5)
    a = torch.zeros(40, 1, dtype=torch.float64, requires_grad=True)
    cross_entropy(logits * a.exp(), labels, reduction="sum").backward()
    assert 0 < int((a.grad.abs() > 0.7).sum()) < 40


@pytest.fixture(scope="module")
def drawn():
    """Equal logits have no gradient: what moves is noise, in two steps of which the last counts."""
    settings = Settings(clip_norm=2.0, num_steps=2, learning_rate=0.5)
    mechanism = mechanism_of(settings, noise_multiplier=3.0, num_samples=1000)
    logits, labels = torch.zeros(4, 3), torch.arange(4) % 3
    return [
        fit_noisy("temperature", logits, labels, mechanism, settings, seed).log_scale[0]
        for seed in range(200)
    ]


@pytest.mark.parametrize(("factor", "is_accepted"), [(1.0, True), (1.5, False)])
def test_noise_has_the_scale_that_the_mechanism_says(drawn, factor, is_accepted):
    scale = factor * 0.5 * 3.0 * 2.0 * math.sqrt(2) / 1000
    total = sum((value / scale) ** 2 for value in drawn)
    assert (min(chi2.cdf(total, 200), chi2.sf(total, 200)) > 0.001) == is_accepted


@pytest.mark.parametrize("method", METHODS)
def test_with_next_to_no_noise_and_no_clipping_it_is_the_plain_fit(method):
    logits, labels = sample(1500, temperature=2.0)
    settings = Settings(clip_norm=100.0, num_steps=400, learning_rate=0.4)
    fit = fit_scaling(method, logits, labels, eps=1e6, delta=DELTA, seed=0, settings=settings)
    plain = fit_plain(method, logits, labels)
    assert fit.scaling.log_scale == pytest.approx(plain.log_scale, abs=0.02)
    assert fit.scaling.shift == pytest.approx(plain.shift, abs=0.03)


@pytest.mark.parametrize(("method", "excess"), [("temperature", 0.01), ("platt", 0.04)])
def test_the_settings_of_everyday_are_near_the_plain_fit(method, excess):
    logits, labels = sample(3000, temperature=2.0)
    plain = nll_nats(fit_plain(method, logits, labels).apply(logits), labels)
    fit = fit_scaling(method, logits, labels, eps=1.0, delta=DELTA, seed=0)
    assert nll_nats(fit.scaling.apply(logits), labels) < plain + excess
    assert nll_nats(fit.scaling.apply(logits), labels) < nll_nats(logits, labels) - 0.1


@pytest.mark.parametrize("method", METHODS)
def test_a_tiny_epsilon_gives_noise_but_numbers(method):
    logits, labels = sample(20)
    fit = fit_scaling(method, logits, labels, eps=0.001, delta=DELTA, seed=0)
    assert max(map(abs, fit.scaling.log_scale)) <= MOST_LOG_SCALE
    assert torch.isfinite(fit.scaling.apply(logits)).all()


def test_accuracy_is_unchanged_by_any_temperature():
    logits, labels = sample(300)
    for seed in range(3):
        fit = fit_scaling("temperature", logits, labels, eps=0.05, delta=DELTA, seed=seed)
        assert accuracy(fit.scaling.apply(logits), labels) == accuracy(logits, labels)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("eps", [0.1, 2.0])
def test_epsilon_is_that_of_one_gaussian_mechanism(method, eps):
    fit = fit_scaling(method, *sample(30), eps=eps, delta=DELTA, seed=0)
    assert fit.mu == math.sqrt(SETTINGS[method].num_steps) / fit.noise_multiplier
    assert gaussian.delta_of(fit.mu, eps) <= DELTA
    assert fit.epsilon == pytest.approx(gaussian.epsilon_of(fit.mu, DELTA))
    assert 0.999 * eps < fit.epsilon <= eps
    assert (fit.clip_norm, fit.num_samples) == (SETTINGS[method].clip_norm, 30)


def test_the_fit_draws_from_its_own_mechanism(monkeypatch):
    seen = []
    through = private.PrivacyEngine

    def engine(model, optimizer, *, mechanism, generator):
        seen.append(mechanism)
        return through(model, optimizer, mechanism=mechanism, generator=generator)

    monkeypatch.setattr(private, "PrivacyEngine", engine)
    fit = fit_scaling("platt", *sample(30), eps=1.0, delta=DELTA, num_samples=25, seed=0)
    (mechanism,) = seen
    assert mechanism.noise_multiplier == fit.noise_multiplier
    assert mechanism.sampling_rate == 1.0
    assert mechanism.expected_batch_size == 25
    assert mechanism.num_steps == fit.num_steps


def test_two_different_fits_share_no_noise_and_the_same_fit_repeats_itself():
    flat, labels = torch.zeros(4, 3), torch.arange(4) % 3

    def noise(logits=flat, labels=labels, **changed):
        asked = {"eps": 1.0, "delta": DELTA, "seed": 0, "num_samples": 10_000} | changed
        fit = fit_scaling("temperature", logits, labels, **asked)
        return fit.scaling.log_scale[0] / fit.noise_multiplier

    assert noise() == noise()
    # Logits that are equal in a sample have no gradient, whatever they and the labels are.
    others = [noise(seed=1), noise(eps=1.1), noise(delta=2e-5), noise(logits=flat + 1),
              noise(labels=labels.flip(0))]  # fmt: skip
    assert len({round(value, 12) for value in [noise(), *others]}) == 6


def test_noise_of_the_operating_system_is_valid_and_never_the_same():
    logits, labels = sample(30)
    first, second = (
        fit_scaling("temperature", logits, labels, eps=1.0, delta=DELTA) for _ in range(2)
    )
    assert (first.guarantee, second.guarantee) == ("valid", "valid")
    assert first.scaling != second.scaling
    assert (
        fit_scaling("temperature", logits, labels, eps=1.0, delta=DELTA, seed=0).guarantee
        == "seeded"
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_more_moves_a_step_by_at_most_its_bound(method):
    logits, labels = sample(41, 3, temperature=20.0)
    settings = Settings(clip_norm=0.5, num_steps=1, learning_rate=1.0, class_weight=1.0)
    mechanism = mechanism_of(settings, noise_multiplier=0.0, num_samples=100)
    one, other = (
        fit_noisy(method, logits[:n], labels[:n], mechanism, settings, seed=0) for n in (40, 41)
    )
    values = zip((*one.log_scale, *one.shift), (*other.log_scale, *other.shift), strict=True)
    # A class's scale is the sum of two parameters, so it moves by at most sqrt(2) of the bound.
    bound = 0.5 / 100 * (1 if method == "temperature" else math.sqrt(2))
    assert 0 < max(abs(a - b) for a, b in values) <= bound + 1e-12


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"eps": 1.0}, ConfigError, r"eps=1.0 without a delta.*give delta, as of the run"),
        ({"eps": 0.0, "delta": DELTA}, AccountingError, r"eps=0.0.*must be above 0"),
        ({"eps": -math.inf, "delta": DELTA}, AccountingError, r"eps=-inf.*must be above 0"),
        ({"eps": 1.0, "delta": 1.0}, AccountingError, r"delta=1.0.*in \(0, 1\)"),
    ],
)
def test_what_is_out_of_range_is_refused(asked, error, message):
    with pytest.raises(error, match=message):
        fit_scaling("temperature", *sample(10), **asked)


def test_logits_that_are_not_finite_are_refused():
    logits, labels = sample(10)
    logits[0, 0] = math.nan
    with pytest.raises(MetricError, match="1 of 10 samples have a logit that is NaN or infinite"):
        fit_scaling("temperature", logits, labels, eps=math.inf)
