"""The reliability curve against scikit-learn, its JSON, and its agreement with the measures."""

import json

import pytest
import torch
from sklearn.calibration import calibration_curve

from dpexp.errors import MetricError
from dpexp.metrics import measures
from dpexp.metrics.reliability import Reliability, reliability


@pytest.fixture
def logits_and_labels():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(500, 6, generator=generator)
    return logits, torch.multinomial((0.5 * logits).softmax(1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("bins", [5, 15])
def test_curve_matches_scikit_learn(logits_and_labels, bins):
    logits, labels = logits_and_labels
    confidence, top = logits.double().softmax(1).max(1)
    accuracy, mean_confidence = calibration_curve(
        (top == labels).numpy(), confidence.numpy(), n_bins=bins
    )
    got = reliability(logits, labels, bins=bins).filled_bins()
    assert [acc for _, acc, _ in got] == pytest.approx(accuracy.tolist(), rel=1e-12)
    assert [conf for _, _, conf in got] == pytest.approx(mean_confidence.tolist(), rel=1e-12)


def test_curve_agrees_with_the_measures(logits_and_labels):
    curve = reliability(*logits_and_labels)
    assert curve.num_samples == 500
    assert curve.ece == pytest.approx(measures.ece(*logits_and_labels), rel=1e-12)
    assert curve.mean_accuracy == pytest.approx(measures.accuracy(*logits_and_labels), rel=1e-12)
    assert max(abs(acc - conf) for _, acc, conf in curve.filled_bins()) == pytest.approx(
        measures.mce(*logits_and_labels), rel=1e-12
    )


def test_empty_bins_are_null_in_strict_json(logits_and_labels):
    curve = reliability(*logits_and_labels)
    text = json.dumps(curve.to_dict(), allow_nan=False)
    assert set(json.loads(text)) == {"edges", "count", "accuracy", "confidence"}
    assert curve.count[0] == 0
    assert curve.accuracy[0] is None
    assert curve.confidence[0] is None
    assert Reliability.from_dict(json.loads(text)) == curve


def test_single_certain_sample_fills_the_last_bin():
    curve = reliability(torch.tensor([[900.0, 0.0]]), torch.tensor([0]))
    assert curve.count == (0,) * 14 + (1,)
    assert curve.accuracy[-1] == 1
    assert curve.confidence[-1] == 1


def test_nonfinite_logits_are_refused():
    with pytest.raises(MetricError, match=r"NaN or infinite.*diverged"):
        reliability(torch.tensor([[float("nan"), 0.0]]), torch.tensor([0]))


def test_a_file_that_is_no_curve_is_refused():
    with pytest.raises(MetricError, match=r"no edges, accuracy, confidence among count"):
        Reliability.from_dict({"count": [1]})


def test_bins_that_do_not_fit_each_other_are_refused():
    with pytest.raises(MetricError, match=r"1 bins by its edges"):
        Reliability(edges=(0.0, 1.0), count=(1, 2), accuracy=(1.0,), confidence=(1.0,))
