"""Where a confidence falls: edges, ties, empty bins."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpexp.metrics.binning import equal_mass_bin, equal_width_bin, equal_width_edges, sum_by_bin


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("bins", [1, 3, 10, 15, 40])
def test_edges_are_the_nearest_floats_to_the_fractions(bins):
    expected = [float(Fraction(j, bins)) for j in range(bins + 1)]
    assert equal_width_edges(bins).tolist() == expected


@pytest.mark.parametrize("bins", [3, 10, 15])
def test_a_confidence_on_an_edge_is_in_the_bin_below(bins):
    edges = equal_width_edges(bins)[1:]
    assert equal_width_bin(edges, bins).tolist() == list(range(bins))


def test_a_confidence_just_above_an_edge_is_in_the_bin_above():
    edges = equal_width_edges(15)[:-1]
    above = torch.nextafter(edges, tensor(1.0))
    assert equal_width_bin(above, 15).tolist() == list(range(15))


def test_zero_is_in_the_first_bin_and_one_in_the_last():
    assert equal_width_bin(tensor(0.0, 1.0), 15).tolist() == [0, 14]


@given(st.floats(0, 1), st.integers(1, 50))
@settings(max_examples=200, deadline=None)
def test_a_confidence_lies_between_the_edges_of_its_bin(confidence, bins):
    j = int(equal_width_bin(tensor(confidence), bins))
    low, high = equal_width_edges(bins)[j : j + 2].tolist()
    assert low < confidence <= high or (j == 0 and confidence == 0)


@pytest.mark.parametrize(("num_samples", "bins"), [(30, 15), (31, 15), (44, 15), (5, 15), (1, 15)])
def test_equal_mass_bins_differ_by_one_sample_at_most(num_samples, bins):
    shuffled = torch.randperm(num_samples, generator=torch.Generator().manual_seed(0)).double()
    counts = torch.bincount(equal_mass_bin(shuffled, bins), minlength=bins)
    assert int(counts.max() - counts.min()) <= 1
    assert int(counts.sum()) == num_samples


def test_equal_confidences_share_an_equal_mass_bin():
    confidence = tensor(0.3, 0.9, 0.9, 0.9, 0.9, 0.95)
    bin_index = equal_mass_bin(confidence, 3)
    assert len(set(bin_index[1:5].tolist())) == 1


def test_sums_of_an_empty_bin_are_zero():
    sums = sum_by_bin(tensor(1.0, 2.0, 4.0)[None], torch.tensor([0, 2, 2]), 4)
    assert sums.tolist() == [[1, 0, 6, 0]]
