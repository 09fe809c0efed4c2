"""Forms in which per-sample gradients are held, against the gradients written out."""

from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from dpexp.clipping.per_sample import Aligned, Dense, Summed, chunks, squared_norms_of

WEIGHTS = torch.tensor([0.5, 0.0, 2.0, 1.0], dtype=torch.float64)


def spread(rows_of):
    """Gradients of the whole expression: each sample's rows in their place, zero elsewhere."""
    n, k, width = rows_of.shape
    wide = rows_of.new_zeros(n, n * k, width)
    for i in range(n):
        wide[i, i * k : (i + 1) * k] = rows_of[i]
    return wide


ROWS = torch.randn(4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
OTHER = torch.randn(4, 8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
FORMS = {
    "dense": (Dense(OTHER), OTHER),
    "aligned": (Aligned(ROWS), spread(ROWS)),
    "summed": (Summed((Aligned(ROWS), Dense(OTHER))), spread(ROWS) + OTHER),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_the_gradients_it_stands_for(name):
    form, grads = FORMS[name]
    assert (form.num_samples, form.shape) == (4, (8, 3))
    for rows in (slice(0, 4), slice(1, 3), slice(3, 4)):
        assert_close(form.per_sample(rows), grads[rows])
    for workspace in (1, 60, 10**6):
        assert_close(form.squared_norms(workspace), grads.square().sum((1, 2)))
    assert_close(form.weighted_sum(WEIGHTS), torch.einsum("n,nij->ij", WEIGHTS, grads))
    dropped = torch.tensor([False, True, True, False])
    left = form.zero_where(dropped).per_sample(slice(0, 4))
    assert_close(left, grads * ~dropped[:, None, None])


@pytest.mark.parametrize("shape", [(), (3,), (1023,), (1024,), (2500,), (2, 1024), (3, 700)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_squared_norms_of_long_and_short_rows(shape, dtype):
    grads = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = squared_norms_of(grads)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = grads.double().square().reshape(4, -1).sum(1)
    assert_close(found.double(), expected, rtol=1e-14 if dtype == torch.float64 else 1e-6, atol=0)


def test_the_norm_of_a_very_long_row_loses_no_digits():
    grads = torch.full((1, 2**22 + 3), 0.1)
    expected = grads.double().square().sum(1)
    assert_close(squared_norms_of(grads).double(), expected, rtol=1e-6, atol=0)


@given(st.integers(1, 50), st.integers(0, 20), st.integers(0, 100))
def test_chunks_cover_every_sample_once_within_the_workspace(num_samples, each, workspace):
    found = list(chunks(num_samples, each, workspace))
    assert [i for rows in found for i in range(num_samples)[rows]] == list(range(num_samples))
    sizes = [rows.stop - rows.start for rows in found]
    assert all(size == 1 or prod((size, each)) <= workspace for size in sizes if each)
