"""What a scaling does to logits, and that it survives being written down."""

import json
import math

import pytest
import torch
from logits import sample

from dpexp.errors import MetricError
from dpexp.recalibration.scaling import Scaling, identity


def slow(scaling, logits):
    """One logit at a time, in Python floats."""
    rows = []
    for row in logits.tolist():
        if scaling.method == "temperature":
            rows.append([z / scaling.temperature for z in row])
            continue
        mean = math.fsum(row) / len(row)
        parts = zip(row, scaling.log_scale, scaling.shift, strict=True)
        rows.append([(z - mean) * math.exp(a) + b for z, a, b in parts])
    return torch.tensor(rows, dtype=torch.float64)


SCALINGS = {
    "temperature": Scaling(method="temperature", log_scale=(-0.7,)),
    "platt": Scaling(
        method="platt", log_scale=(0.1, -0.2, 0.3, 0.0, -1.0), shift=(0.5, 0.0, -1.0, 0.2, 0.0)
    ),
}


@pytest.mark.parametrize("name", SCALINGS)
def test_scaled_logits_match_a_loop(name):
    logits, _ = sample(50)
    scaling = SCALINGS[name]
    torch.testing.assert_close(scaling.apply(logits), slow(scaling, logits), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SCALINGS)
def test_where_a_network_puts_its_logits_does_not_matter(name):
    logits, _ = sample(50)
    moved = SCALINGS[name].apply(logits + 7.0).softmax(1)
    torch.testing.assert_close(moved, SCALINGS[name].apply(logits).softmax(1))


def test_temperature_keeps_every_prediction_even_of_neighbors_in_float32():
    logits = torch.rand(5000, 2, generator=torch.Generator().manual_seed(0))
    logits[:, 1] = torch.nextafter(logits[:, 0], torch.tensor(2.0))
    for log_scale in (-2.9, -0.1, 1e-9, 0.3):
        scaled = Scaling(method="temperature", log_scale=(log_scale,)).apply(logits)
        assert torch.equal(scaled.argmax(1), logits.argmax(1))
    # In float32 the same product has ties, of which the first class would win.
    assert not torch.equal((logits * math.exp(-0.1)).argmax(1), logits.argmax(1))


@pytest.mark.parametrize("method", ["temperature", "platt"])
def test_identity_changes_no_probability(method):
    logits, _ = sample(20)
    scaled = identity(method, 5).apply(logits)
    torch.testing.assert_close(scaled.softmax(1), logits.softmax(1))


@pytest.mark.parametrize("name", SCALINGS)
def test_plain_json_and_back(name):
    values = json.loads(json.dumps(SCALINGS[name].to_dict(), allow_nan=False))
    assert Scaling.from_dict(values) == SCALINGS[name]
    assert ("temperature" in values) == (name == "temperature")


@pytest.mark.parametrize(
    ("method", "log_scale", "shift"),
    [
        ("temperature", (0.0, 0.0), ()),
        ("temperature", (0.0,), (0.0,)),
        ("platt", (0.0, 0.0), (0.0,)),
        ("platt", (), ()),
        ("isotonic", (0.0,), ()),
    ],
)
def test_parts_that_do_not_fit_are_refused(method, log_scale, shift):
    with pytest.raises(MetricError, match=rf"a {method} scaling with .*platt one of each a class"):
        Scaling(method=method, log_scale=log_scale, shift=shift)


def test_another_number_of_classes_is_refused():
    with pytest.raises(MetricError, match=r"logits of 3 classes, but the scaling has 5"):
        SCALINGS["platt"].apply(torch.zeros(4, 3))
