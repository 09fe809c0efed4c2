"""Every measure against a slow twin, an independent library where there is one, and its limits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import brier_score_loss, log_loss

from dpexp.errors import MetricError
from dpexp.metrics import measures
from dpexp.metrics.measures import MEASURES, Measure, measure
from dpexp.metrics.predictions import predict
from dpexp.metrics.summary import evaluate_metrics


def sample(num_samples=400, num_classes=4, scale=2.0, seed=0, labels_scale=1.0):
    """Logits and labels; labels_scale 1 is calibrated, below 1 over-confident."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(num_samples, num_classes, generator=generator).double()
    probs = (labels_scale * logits).softmax(1)
    return logits, torch.multinomial(probs, 1, generator=generator)[:, 0]


def with_confidences(confidences, is_correct):
    """Two-class logits whose predicted class has these probabilities, each at least 0.5."""
    p = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack([p.log(), (1 - p).log().clamp(min=-800)], 1), torch.tensor(
        [0 if right else 1 for right in is_correct]
    )


# Slow twins: one sample, one bin, one class at a time, in Python floats, sharing no code.


def slow_probs(logits):
    rows = []
    for row in logits.tolist():
        largest = max(row)
        exps = [math.exp(z - largest) for z in row]
        rows.append([e / math.fsum(exps) for e in exps])
    return rows


def slow_bin(p, bins):
    for j in range(bins):
        if j / bins < p <= (j + 1) / bins:
            return j
    return 0  # p = 0


def slow_binned(pairs, bins, bin_of=None):
    """Return (n_j, acc_j - conf_j) of each filled bin of (confidence, hit)."""
    members = [[] for _ in range(bins)]
    for i, (p, hit) in enumerate(pairs):
        members[slow_bin(p, bins) if bin_of is None else bin_of[i]].append((p, hit))
    gaps = []
    for bin_ in filter(None, members):
        accuracy = math.fsum(hit for _, hit in bin_) / len(bin_)
        gaps.append((len(bin_), accuracy - math.fsum(p for p, _ in bin_) / len(bin_)))
    return gaps


def slow_top(logits, labels):
    pairs = []
    for row, probs, label in zip(logits.tolist(), slow_probs(logits), labels.tolist(), strict=True):
        pairs.append((max(probs), float(row.index(max(row)) == label)))
    return pairs


def slow_equal_mass(pairs, bins):
    confidences = sorted(p for p, _ in pairs)
    ends = [confidences[math.ceil(len(pairs) * j / bins) - 1] for j in range(1, bins)]
    return [sum(p > end for end in ends) for p, _ in pairs]


def slow_ks(pairs):
    """Every threshold in turn, over all samples; thresholds within rounding of one are it."""
    thresholds = [p for p, _ in pairs]
    sums = [math.fsum(hit - p for p, hit in pairs if p <= s + 1e-12) for s in thresholds]
    return max(abs(total) for total in sums) / len(pairs)


def slow_values(logits, labels, bins=15):
    pairs, n = slow_top(logits, labels), len(labels)
    gaps = slow_binned(pairs, bins)
    mass = slow_binned(pairs, bins, slow_equal_mass(pairs, bins))
    probs = slow_probs(logits)
    rows = list(zip(probs, labels.tolist(), strict=True))
    num_classes = len(probs[0])
    per_class = [
        slow_binned([(row[k], float(y == k)) for row, y in rows], bins) for k in range(num_classes)
    ]
    return {
        "accuracy": sum(hit for _, hit in pairs) / n,
        "ece": sum(m * abs(gap) for m, gap in gaps) / n,
        "mce": max(abs(gap) for _, gap in gaps),
        "nll_nats": sum(-math.log(row[y]) for row, y in rows) / n,
        "brier": sum(sum((p - (k == y)) ** 2 for k, p in enumerate(row)) for row, y in rows) / n,
        "adaptive_ece": sum(m * abs(gap) for m, gap in mass) / n,
        "classwise_ece": sum(m * abs(gap) for g in per_class for m, gap in g) / n / num_classes,
        "overconfidence": sum(m * -gap for m, gap in gaps if gap < 0) / n,
        "underconfidence": sum(m * gap for m, gap in gaps if gap > 0) / n,
        "ks_error": slow_ks(pairs),
    }


CASES = {
    "calibrated": lambda: sample(),
    "over-confident": lambda: sample(labels_scale=0.3),
    "under-confident": lambda: sample(labels_scale=3.0, seed=1),
    "many-classes": lambda: sample(200, 30, seed=2),
    "two-classes": lambda: sample(100, 2, seed=3),
    "saturated": lambda: sample(100, 3, scale=60.0, seed=4, labels_scale=0.02),
    "single-sample": lambda: sample(1, 5, seed=5),
    "fewer-samples-than-bins": lambda: sample(7, 3, seed=6),
    "all-tied": lambda: (torch.zeros(20, 4), torch.arange(20) % 4),
}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("case", CASES)
def test_measure_matches_slow_twin(case, name):
    logits, labels = CASES[case]()
    function = getattr(measures, name)
    assert function(logits, labels) == pytest.approx(
        slow_values(logits, labels)[name], rel=1e-12, abs=1e-13
    )


@pytest.mark.parametrize("bins", [1, 2, 10, 40])
@pytest.mark.parametrize("name", ["ece", "mce", "adaptive_ece", "classwise_ece"])
def test_number_of_bins_is_heeded(name, bins):
    logits, labels = sample(labels_scale=0.5)
    expected = slow_values(logits, labels, bins)[name]
    assert getattr(measures, name)(logits, labels, bins) == pytest.approx(expected, rel=1e-12)


def test_evaluate_metrics_holds_every_measure():
    logits, labels = sample(labels_scale=0.5)
    expected = slow_values(logits, labels) | {"num_nonfinite": 0}
    assert evaluate_metrics(logits, labels) == pytest.approx(expected, rel=1e-12)
    assert {"accuracy", "ece", "mce", "nll_nats", "brier"} <= set(expected)


def test_nll_matches_scikit_learn():
    logits, labels = sample()
    expected = log_loss(labels.numpy(), logits.softmax(1).numpy(), labels=range(4))
    assert measures.nll_nats(logits, labels) == pytest.approx(expected, rel=1e-12)


def test_brier_matches_scikit_learn():
    logits, labels = sample()
    expected = brier_score_loss(
        labels.numpy(), logits.softmax(1).numpy(), labels=range(4), scale_by_half=False
    )
    assert measures.brier(logits, labels) == pytest.approx(expected, rel=1e-12)


def test_brier_reaches_its_limits():
    logits = torch.tensor([[1000.0, 0.0, 0.0]])
    assert measures.brier(logits, torch.tensor([0])) == 0
    assert measures.brier(logits, torch.tensor([1])) == 2


def test_confidence_one_is_in_the_last_bin():
    # In one bin with the 0.95 and counted; a bin of its own would give (0.05 + 1) / 2.
    logits, labels = with_confidences([0.95, 1.0], [True, False])
    assert measures.ece(logits, labels) == pytest.approx(0.475, abs=1e-12)
    assert measures.mce(logits, labels) == pytest.approx(0.475, abs=1e-12)


def test_a_bin_is_closed_on_its_right():
    # With four bins 0.75 is an edge, and shares (0.5, 0.75] with 0.6.
    logits = torch.tensor([[math.log(3), 0.0], [math.log(1.5), 0.0]], dtype=torch.float64)
    assert logits.softmax(1)[0, 0] == 0.75
    labels = torch.tensor([0, 1])
    # Together: accuracy 0.5, confidence 0.675. Apart, as left-closed bins have it: 0.25 and 0.6.
    assert measures.ece(logits, labels, bins=4) == pytest.approx(0.175, abs=1e-12)
    assert measures.mce(logits, labels, bins=4) == pytest.approx(0.175, abs=1e-12)


def test_labels_and_logits_of_any_width_are_taken_in_float64():
    logits, labels = sample(labels_scale=0.5)
    narrow = logits.to(torch.bfloat16)
    assert evaluate_metrics(narrow, labels.int()) == evaluate_metrics(narrow.double(), labels)


finite_logits = hnp.arrays(
    "float64",
    st.tuples(st.integers(1, 40), st.integers(2, 5)),
    elements=st.floats(-30, 30) | st.sampled_from([0.0, 1.0, -700.0, 700.0]),
)


@given(finite_logits, st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_properties_of_all_measures(logits, random):
    logits = torch.from_numpy(logits)
    n, k = logits.shape
    labels = torch.tensor([random.randrange(k) for _ in range(n)])
    values = evaluate_metrics(logits, labels)

    for name in ("accuracy", "ece", "mce", "adaptive_ece", "classwise_ece", "ks_error"):
        assert 0 <= values[name] <= 1 + 1e-12
    assert 0 <= values["brier"] <= 2 + 1e-12
    assert values["nll_nats"] >= 0
    assert values["ece"] <= values["mce"] + 1e-12
    over, under = values["overconfidence"], values["underconfidence"]
    assert over + under == pytest.approx(values["ece"], abs=1e-12)
    mean_confidence = float(logits.softmax(1).amax(1).mean())
    assert over - under == pytest.approx(mean_confidence - values["accuracy"], abs=1e-12)
    assert values["ks_error"] >= abs(over - under) - 1e-12

    order = torch.tensor(random.sample(range(n), n))
    assert evaluate_metrics(logits[order], labels[order]) == pytest.approx(values, abs=1e-12)


@pytest.mark.parametrize("name", MEASURES)
def test_a_weight_is_a_number_of_copies(name):
    logits, labels = sample(60, labels_scale=0.4)
    # Adaptive bins are those of the unweighted sample, so there only equal weights are copies.
    copies = torch.full((60,), 3) if name == "adaptive_ece" else torch.arange(60) % 4
    rows = torch.arange(60).repeat_interleave(copies)
    expected = getattr(measures, name)(logits[rows], labels[rows])
    weights = torch.stack([copies, torch.ones(60)]).double()
    weighted, plain = MEASURES[name](predict(logits), labels[None], weights).tolist()
    assert weighted == pytest.approx(expected, rel=1e-12)
    assert plain == pytest.approx(getattr(measures, name)(logits, labels), rel=1e-12)


def test_over_confident_model_is_called_so():
    over = evaluate_metrics(*sample(2000, labels_scale=0.3))
    under = evaluate_metrics(*sample(2000, labels_scale=3.0))
    assert over["overconfidence"] > 10 * over["underconfidence"]
    assert under["underconfidence"] > 10 * under["overconfidence"]


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_diverged_model_is_reported_and_not_flattered(broken):
    logits, labels = sample(10)
    labels = logits.argmax(1)  # all right, so that a broken row must lower the accuracy
    logits[3, labels[3]] = broken
    values = evaluate_metrics(logits, labels)
    assert values["num_nonfinite"] == 1
    assert values["accuracy"] == pytest.approx(0.9)
    assert {values[name] for name in MEASURES if name != "accuracy"} == {None}


@pytest.mark.parametrize("name", MEASURES)
def test_single_measure_refuses_nonfinite_logits(name):
    logits, labels = sample(10)
    logits[3, 1] = math.nan
    with pytest.raises(MetricError, match=r"1 of 10 samples have a logit that is NaN or infinite"):
        getattr(measures, name)(logits, labels)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0).long(), r"shape \(0, 3\).*at least one"),
        (torch.zeros(4), torch.zeros(4).long(), r"shape \(4,\)"),
        (torch.zeros(4, 3), torch.zeros(3).long(), r"shape \(3,\).*4 integers"),
        (torch.zeros(4, 3), torch.zeros(4), "torch.float32.*4 integers"),
        (torch.zeros(4, 3), torch.tensor([0, 1, 2, 3]), "from 0 to 3.*3 classes.*0 to 2"),
        (torch.zeros(4, 3), torch.tensor([0, 1, 2, -1]), "from -1 to 2"),
    ],
)
def test_mismatch_is_refused(logits, labels, message):
    with pytest.raises(MetricError, match=message):
        evaluate_metrics(logits, labels)
    with pytest.raises(MetricError, match=message):
        measures.ece(logits, labels)


def test_ks_error_sees_what_cancels_within_a_bin_and_takes_ties_at_once():
    # 0.61 always wrong, 0.65 always right: one bin of 15 holds both, and there they cancel.
    logits, labels = with_confidences([0.61] * 13 + [0.65] * 22, [False] * 13 + [True] * 22)
    assert measures.ece(logits, labels) == pytest.approx(abs(22 * 0.35 - 13 * 0.61) / 35, abs=1e-12)
    assert measures.ks_error(logits, labels) == pytest.approx(13 * 0.61 / 35, abs=1e-12)
    # Tied and calibrated as a whole, in any order.
    tied, right = with_confidences([0.75] * 4, [False, True, True, True])
    assert measures.ks_error(tied, right) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ["ece", "adaptive_ece"])
def test_no_bins_is_refused(name):
    with pytest.raises(MetricError, match=r"bins=0.*at least one bin"):
        getattr(measures, name)(*sample(5), bins=0)


# Planted faults: each is a plausible mistake, and the cases above must tell it from the truth.


def left_closed(confidence, bins):
    edges = torch.arange(1, bins, dtype=torch.float64) / bins
    return torch.bucketize(confidence, edges, right=True)


def last_bin_dropped(values, bin_index, bins):
    sums = values.new_zeros(len(values), bins).index_add_(1, bin_index, values)
    return torch.cat([sums[:, :-1], 0 * sums[:, -1:]], 1)


FAULTS = {
    "left-closed": ("equal_width_bin", left_closed, test_a_bin_is_closed_on_its_right),
    "last-bin-dropped": ("sum_by_bin", last_bin_dropped, test_confidence_one_is_in_the_last_bin),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_caught(monkeypatch, fault):
    attribute, replacement, catching_test = FAULTS[fault]
    monkeypatch.setattr(measures, attribute, replacement)
    with pytest.raises(AssertionError):
        catching_test()


def mean_over_bins(predictions, labels, weights) -> torch.Tensor:
    gaps, mass = measures._top_label_gaps(predictions, labels, weights, 15)
    return torch.where(mass > 0, gaps.abs() / mass, 0.0).mean(1)


def brier_mean_over_classes(predictions, labels, weights) -> torch.Tensor:
    return measures._brier(predictions, labels, weights) / predictions.probs.shape[1]


def nll_in_bits(predictions, labels, weights) -> torch.Tensor:
    return measures._nll_nats(predictions, labels, weights) / math.log(2)


@pytest.mark.parametrize(
    ("name", "fault"),
    [("ece", mean_over_bins), ("brier", brier_mean_over_classes), ("nll_nats", nll_in_bits)],
)
def test_planted_formula_differs_from_the_slow_twin(name: str, fault: Measure):
    logits, labels = sample()
    assert measure(fault, logits, labels) != pytest.approx(
        slow_values(logits, labels)[name], rel=1e-3
    )
