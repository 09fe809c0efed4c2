"""The fit without noise, against a scalar minimiser and against what is known of the logits."""

import math

import pytest
import torch
from logits import sample
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy

from dpexp.metrics.measures import accuracy, ece, nll_nats
from dpexp.recalibration.fit import fit_scaling
from dpexp.recalibration.plain import fit_plain
from dpexp.recalibration.scaling import MOST_LOG_SCALE, Scaling

METHODS = ["temperature", "platt"]


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_found(temperature):
    logits, labels = sample(20_000, temperature=temperature)
    fit = fit_scaling("temperature", logits, labels, eps=math.inf)
    assert fit.scaling.temperature == pytest.approx(temperature, rel=0.03)


@pytest.mark.parametrize("temperature", [0.4, 3.0])
def test_temperature_is_that_of_a_scalar_minimiser(temperature):
    logits, labels = sample(500, temperature=temperature)

    def loss(t):
        return float(cross_entropy(logits / t, labels))

    expected = minimize_scalar(loss, bounds=(0.06, 19), method="bounded", options={"xatol": 1e-10})
    found = fit_plain("temperature", logits, labels)
    assert found.temperature == pytest.approx(expected.x, rel=1e-5)
    assert loss(found.temperature) <= expected.fun + 1e-12


def test_a_known_scale_and_shift_of_each_class_are_found():
    logits, labels = sample(40_000)
    logits = logits - logits.mean(1, keepdim=True)
    shift = torch.tensor([0.5, -0.5, 0.0, 1.0, 0.0]).double()
    scale = torch.tensor([0.5, 1.0, 2.0, 1.0, 1.0]).double()
    right = Scaling(method="platt", log_scale=tuple(scale.log().tolist()), shift=tuple(shift))
    labels = torch.multinomial(
        right.apply(logits).softmax(1), 1, generator=torch.Generator().manual_seed(1)
    )[:, 0]
    found = fit_scaling("platt", logits, labels, eps=math.inf).scaling
    assert torch.tensor(found.log_scale).exp().tolist() == pytest.approx(scale.tolist(), abs=0.06)
    # Softmax does not see a common shift.
    moved = torch.tensor(found.shift).double() - shift
    assert (moved - moved.mean()).tolist() == pytest.approx([0] * 5, abs=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_is_zero_at_the_optimum(method):
    logits, labels = sample(400, temperature=2.0)
    found = fit_plain(method, logits, labels)
    a = torch.tensor(found.log_scale, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(found.shift, dtype=torch.float64, requires_grad=True)
    centred = logits - logits.mean(1, keepdim=True)
    scaled = centred * a.exp() + (b if method == "platt" else 0)
    cross_entropy(scaled, labels).backward()
    assert a.grad.abs().max() < 1e-6
    if method == "platt":
        assert b.grad.abs().max() < 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(5))
def test_never_worse_than_no_scaling(method, seed):
    logits, labels = sample(12, temperature=1.0, seed=seed)
    found = fit_plain(method, logits, labels)
    assert nll_nats(found.apply(logits), labels) <= nll_nats(logits, labels)


def test_over_confident_logits_are_calibrated_and_predictions_stay():
    logits, labels = sample(8000, temperature=3.0)
    scaled = fit_scaling("temperature", logits, labels, eps=math.inf).scaling.apply(logits)
    assert ece(logits, labels) > 0.1
    assert ece(scaled, labels) < 0.02
    assert accuracy(scaled, labels) == accuracy(logits, labels)


@pytest.mark.parametrize("method", METHODS)
def test_predictions_that_are_all_right_have_a_finite_scaling(method):
    logits, _ = sample(30)
    found = fit_plain(method, logits, logits.argmax(1))
    assert max(found.log_scale) <= MOST_LOG_SCALE
    assert all(map(math.isfinite, (*found.log_scale, *found.shift)))


def test_a_plain_fit_is_marked_as_no_guarantee():
    fit = fit_scaling("temperature", *sample(50), eps=math.inf)
    assert (fit.guarantee, fit.epsilon, fit.mu) == ("none", math.inf, math.inf)
    assert (fit.delta, fit.noise_multiplier, fit.num_steps) == (None, None, None)
    assert fit.reason == "the scaling was fitted to held-out private samples without noise"
