"""Clipping in bfloat16: norms are right of the tensors at hand, and a sample stays within R."""

import pytest
import torch
from reference.scripts import load

pytestmark = pytest.mark.slow


precision = load("precision")


@pytest.mark.parametrize("network", precision.NETWORKS)
def test_norms_are_those_of_the_very_tensors_and_bound_what_a_sample_adds(network):
    with torch.random.fork_rng():
        rows = precision.measure(network, size=32, num_samples=4)
    assert [row.algorithm for row in rows] == list(precision.ALGORITHMS)
    for row in rows:
        assert row.norm < 1e-5, row  # float32, whatever the tensors are
        assert 1e-4 < row.precision < 0.1, row  # bfloat16 was at work
        # Two passes round the weighted gradients anew, to eight bits.
        assert 0.99 < row.slack < 1 + (2**-7 if row.algorithm == "mixed_ghost" else 1e-5), row


def test_the_page_has_every_row():
    rows = [precision.Row("a", "auto", 1e-7, 1e-2, 1 + 2e-7), precision.Row("b", "auto", 0, 0, 0.9)]
    made_by = {"git": None, "packages": {"torch": "1", "timm": "2"}, "cpu": "a machine"}
    page = precision.page(rows, made_by)
    assert "| a | auto | 1.0e-07 | 1.0e-02 | 1 + 2.0e-07 |" in page
    assert "| b | auto | 0.0e+00 | 0.0e+00 | 1 - 1.0e-01 |" in page
