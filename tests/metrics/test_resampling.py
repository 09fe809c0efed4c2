"""Bootstrap intervals and the band of calibrated models, against loops and known distributions."""

import numpy as np
import pytest
import torch
from scipy.stats import binom, chisquare, norm

from dpexp.errors import MetricError
from dpexp.metrics.measures import MEASURES, accuracy, ece
from dpexp.metrics.resampling import _drawn_labels, bootstrap_intervals, null_bands


def sample(num_samples=600, seed=0, labels_scale=1.0, num_classes=4):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(num_samples, num_classes, generator=generator).double()
    probs = (labels_scale * logits).softmax(1)
    return logits, torch.multinomial(probs, 1, generator=generator)[:, 0]


def slow_bootstrap(function, logits, labels, replicates):
    """Percentiles over resampled rows, one at a time, with a generator of another library."""
    rng = np.random.default_rng(0)
    draws = (
        torch.from_numpy(rng.integers(len(labels), size=len(labels))) for _ in range(replicates)
    )
    values = np.array([function(logits[rows], labels[rows]) for rows in draws])
    low, high = np.quantile(values, [0.025, 0.975])
    bias = values.mean() - function(logits, labels)
    return max(low - bias, 0), high - bias


@pytest.mark.parametrize("name", ["accuracy", "ece"])
def test_interval_matches_a_loop_over_resampled_rows(name):
    logits, labels = sample(labels_scale=0.5)
    function = {"accuracy": accuracy, "ece": ece}[name]
    expected = slow_bootstrap(function, logits, labels, 1500)
    got = bootstrap_intervals(logits, labels, [name], replicates=4000)[name]
    width = expected[1] - expected[0]
    assert got == pytest.approx(expected, abs=0.07 * width)


def test_interval_of_accuracy_has_the_width_of_a_binomial():
    logits, labels = sample(2000)
    low, high = bootstrap_intervals(logits, labels, ["accuracy"], replicates=4000)["accuracy"]
    p = accuracy(logits, labels)
    expected = 2 * norm.ppf(0.975) * (p * (1 - p) / 2000) ** 0.5
    assert high - low == pytest.approx(expected, rel=0.06)
    assert low < p < high


@pytest.mark.parametrize("name", MEASURES)
def test_interval_lies_around_the_value_measured(name):
    from dpexp.metrics import measures

    logits, labels = sample(seed=3)
    interval = bootstrap_intervals(logits, labels, [name], replicates=200)[name]
    assert 0 <= interval.low <= getattr(measures, name)(logits, labels) <= interval.high


def test_band_of_accuracy_is_that_of_the_confidences():
    logits = torch.tensor([[0.0, np.log(3)]] * 400)  # confidence 0.75 everywhere
    low, high = null_bands(logits, ["accuracy"], replicates=4000)["accuracy"]
    assert (low, high) == pytest.approx(
        tuple(binom.interval(0.95, 400, 0.75) / np.array(400.0)), abs=0.006
    )


def test_band_tells_a_calibrated_model_from_an_over_confident_one():
    inside = sum(
        ece(*sample(seed=seed))
        <= null_bands(sample(seed=seed)[0], ["ece"], replicates=200)["ece"].high
        for seed in range(20)
    )
    assert inside >= 17  # P(fewer | each 0.975) below 0.002
    logits, labels = sample(labels_scale=0.5)
    assert ece(logits, labels) > null_bands(logits, ["ece"], replicates=200)["ece"].high


@pytest.mark.parametrize(("shown", "is_accepted"), [((1, 2, 3, 4), True), ((1, 2, 4, 3), False)])
def test_drawn_labels_follow_every_class_probability(shown, is_accepted):
    probs = torch.tensor([[0.1, 0.2, 0.3, 0.4], [1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    labels = torch.cat(list(_drawn_labels(probs, 5000, seed=0)))
    counts = torch.bincount(labels[:, 0], minlength=4).numpy()
    assert (chisquare(counts, 500 * np.array(shown)).pvalue > 0.001) == is_accepted
    assert not labels[:, 1].any()


def test_same_seed_same_interval_other_seed_another():
    logits, labels = sample()
    first = bootstrap_intervals(logits, labels, replicates=50, seed=1)
    assert bootstrap_intervals(logits, labels, replicates=50, seed=1) == first
    assert bootstrap_intervals(logits, labels, replicates=50, seed=2) != first
    band = null_bands(logits, replicates=50, seed=1)
    assert null_bands(logits, replicates=50, seed=1) == band
    assert null_bands(logits, replicates=50, seed=2) != band


def test_global_generator_is_left_alone():
    logits, labels = sample()
    state = torch.get_rng_state()
    bootstrap_intervals(logits, labels, replicates=5)
    null_bands(logits, replicates=5)
    assert torch.equal(torch.get_rng_state(), state)


def test_chunks_do_not_lose_replicates(monkeypatch):
    from dpexp.metrics import resampling

    monkeypatch.setattr(resampling, "_CHUNK_ELEMENTS", 600 * 7)
    assert list(resampling._chunk_rows(600, 20)) == [7, 7, 6]
    logits, labels = sample()
    values = bootstrap_intervals(logits, labels, ["accuracy"], replicates=20)
    assert values["accuracy"].low < values["accuracy"].high


def test_unknown_measure_is_refused_with_the_list():
    with pytest.raises(MetricError, match=r"unknown measure ecce.*there are accuracy, ece, mce"):
        bootstrap_intervals(*sample(), ["ece", "ecce"])


@pytest.mark.parametrize("wrong", [{"replicates": 1}, {"level": 1.0}, {"level": 0.0}])
def test_impossible_percentiles_are_refused(wrong):
    with pytest.raises(MetricError, match=r"at least 2 replicates"):
        null_bands(sample()[0], **wrong)
