"""Bins of confidence: which bin a confidence falls into, and sums over the members of each bin."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dpexp.errors import MetricError

DEFAULT_BINS = 15


def equal_width_edges(bins: int) -> Float[Tensor, " edges"]:
    """Return the bins + 1 edges j / bins.

    Raises:
        MetricError: If `bins` is below 1.
    """
    if bins < 1:
        raise MetricError(f"bins={bins}: confidences need at least one bin to fall into")
    # Not linspace: it steps, and then an edge such as 0.6 is off by one unit in the last place.
    return torch.arange(bins + 1, dtype=torch.float64) / bins


def equal_width_bin(confidence: Float[Tensor, "*n"], bins: int) -> Int[Tensor, "*n"]:
    """Return the index of the right-closed bin (j / bins, (j + 1) / bins] of each confidence.

    Confidence 1 belongs to the last bin, and confidence 0 to the first, which is closed on both
    sides.
    """
    inner_edges = equal_width_edges(bins)[1:-1]
    return torch.bucketize(confidence, inner_edges, right=False)


def equal_mass_bin(confidence: Float[Tensor, " n"], bins: int) -> Int[Tensor, " n"]:
    """Return the index of the bin of each confidence, where bins hold n / bins samples each.

    Right-closed bins between quantiles: equal confidences share a bin, so the result does not
    depend on the order of the samples, and bins are as equal as ties allow.

    Raises:
        MetricError: If `bins` is below 1.
    """
    if bins < 1:
        raise MetricError(f"bins={bins}: confidences need at least one bin to fall into")
    # Bin j ends at the ceil(n (j + 1) / bins)-th smallest confidence.
    last = -(-len(confidence) * torch.arange(1, bins) // bins) - 1
    inner_edges = confidence.sort().values[last]
    return torch.bucketize(confidence, inner_edges, right=False)


def sum_by_bin(
    values: Float[Tensor, "r n"], bin_index: Int[Tensor, " n"], bins: int
) -> Float[Tensor, "r j"]:
    """Return the sum of `values` over the samples of each bin; 0 for an empty bin."""
    sums = values.new_zeros(len(values), bins)
    return sums.index_add_(1, bin_index, values)
