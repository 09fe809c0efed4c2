"""Errors of a regression against scikit-learn, and what they say where there is nothing to say."""

import pytest
import torch
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from dpexp.errors import MetricError
from dpexp.metrics.regression import regression_metrics

SPREAD = 75.0


def sample(n=50):
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(n, generator=generator)
    return 0.5 * targets[:, None] + torch.randn(n, 1, generator=generator) + 0.3, targets


def test_errors_match_scikit_learn_in_the_unit_of_the_target():
    outputs, targets = sample()
    got = regression_metrics(outputs, targets, spread=SPREAD)
    truth, predicted = 150 + SPREAD * targets.double(), 150 + SPREAD * outputs.double()[:, 0]
    mse = mean_squared_error(truth, predicted)
    assert got == pytest.approx(
        {
            "mse": mse,
            "rmse": mse**0.5,
            "mae": mean_absolute_error(truth, predicted),
            "r2": r2_score(truth, predicted),
            "mse_scaled": mse / SPREAD**2,
            "num_nonfinite": 0,
        },
        rel=1e-12,
    )


def test_the_mean_of_the_targets_explains_nothing_and_the_truth_everything():
    _, targets = sample()
    mean = targets.double().mean().expand(len(targets), 1)
    assert regression_metrics(mean, targets, spread=2)["r2"] == pytest.approx(0, abs=1e-12)
    exact = regression_metrics(targets[:, None], targets, spread=2)
    assert (exact["r2"], exact["mse"], exact["mae"]) == (1, 0, 0)


def test_targets_that_do_not_differ_have_no_r2():
    outputs, _ = sample()
    assert regression_metrics(outputs, torch.ones(50), spread=1)["r2"] is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_output_that_is_not_finite_leaves_no_error(value):
    outputs, targets = sample()
    outputs[3] = value
    got = regression_metrics(outputs, targets, spread=1)
    assert got.pop("num_nonfinite") == 1
    assert set(got) == {"mse", "rmse", "mae", "r2", "mse_scaled"}
    assert set(got.values()) == {None}


@pytest.mark.parametrize("shape", [(50,), (50, 2), (49, 1)])
def test_outputs_that_do_not_fit_are_refused(shape):
    # Without the check, (50,) less (50, 1) would be all pairs.
    with pytest.raises(MetricError, match=r"one number each.*built with one output"):
        regression_metrics(torch.zeros(shape), torch.zeros(50), spread=1)


def test_no_sample_is_refused():
    with pytest.raises(MetricError, match="there is no sample"):
        regression_metrics(torch.zeros(0, 1), torch.zeros(0), spread=1)
