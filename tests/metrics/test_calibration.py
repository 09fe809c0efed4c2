"""calibration.json: every measure with its interval and band, and the bin behind MCE."""

import json
from dataclasses import asdict

import pytest
import torch

from dpexp.errors import MetricError
from dpexp.metrics import calibration as room
from dpexp.metrics.calibration import calibration, mce_count
from dpexp.metrics.measures import MEASURES
from dpexp.metrics.reliability import Reliability, reliability
from dpexp.metrics.resampling import bootstrap_intervals, null_bands
from dpexp.metrics.summary import evaluate_metrics


def sample(num_samples=300, labels_scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(num_samples, 4, generator=generator)
    probs = (labels_scale * logits).softmax(1)
    return logits, torch.multinomial(probs, 1, generator=generator)[:, 0]


def test_every_measure_has_its_value_interval_and_band():
    logits, labels = sample()
    found = calibration(logits, labels, replicates=150, level=0.9)
    values = evaluate_metrics(logits, labels)
    intervals = bootstrap_intervals(logits, labels, MEASURES, replicates=150, level=0.9)
    bands = null_bands(logits, MEASURES, replicates=150, level=0.9)
    assert set(found.measures) == set(MEASURES)
    for name, measured in found.measures.items():
        assert tuple(asdict(measured).values()) == (values[name], *intervals[name], *bands[name])
        assert measured.low <= measured.value <= measured.high
    assert (found.num_samples, found.bins, found.replicates, found.level) == (300, 15, 150, 0.9)


def test_the_document_is_plain_json():
    document = calibration(*sample(), replicates=20).to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert set(document["measures"]["ece"]) == {"value", "low", "high", "null_low", "null_high"}


@pytest.mark.parametrize(("labels_scale", "is_inside"), [(1.0, True), (0.4, False)])
def test_the_band_tells_over_confidence_from_chance(labels_scale, is_inside):
    found = calibration(*sample(2000, labels_scale), replicates=200)
    for name in ("ece", "ks_error", "adaptive_ece"):
        assert (found.measures[name].value <= found.measures[name].null_high) == is_inside


def test_mce_names_the_size_of_the_bin_that_sets_it():
    logits, labels = sample(labels_scale=0.5)
    bins = reliability(logits, labels)
    slow = [
        (abs(acc - conf), n)
        for acc, conf, n in zip(bins.accuracy, bins.confidence, bins.count, strict=True)
        if n
    ]
    assert calibration(logits, labels, replicates=2).mce_count == sorted(slow)[-1][1]
    tied = Reliability(
        edges=(0, 0.5, 1), count=(9, 2), accuracy=(0.0, 1.0), confidence=(0.25, 0.75)
    )
    assert mce_count(tied) == 2


@pytest.mark.parametrize(
    ("num_samples", "expected"), [(360, 1000), (10_000, 1000), (100_000, 100), (10**7, 100)]
)
def test_replicates_follow_from_the_size(monkeypatch, num_samples, expected):
    asked = []
    monkeypatch.setattr(
        room, "bootstrap_intervals", lambda *_, replicates, **__: asked.append(replicates) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        calibration(torch.zeros(num_samples, 4), torch.zeros(num_samples).long())
    assert asked == [expected]


def test_what_cannot_be_measured_is_refused():
    logits, labels = sample(10)
    logits[0, 0] = torch.inf
    with pytest.raises(MetricError, match=r"1 of 10 samples have a logit that is NaN or infinite"):
        calibration(logits, labels)
    with pytest.raises(MetricError, match=r"at least 2 replicates"):
        calibration(*sample(10), replicates=1)
