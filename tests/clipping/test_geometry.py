"""Which pixels a convolution's kernel meets, against a loop over every output and offset."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from dpexp.clipping.rules.geometry import Geometry, overlap
from dpexp.clipping.rules.patches import patches

small = st.integers(1, 6)


@given(small, small, st.integers(-7, 7), st.integers(1, 3))
def test_outputs_and_the_pixels_they_meet(size, places, shift, stride):
    out, met = overlap(size, places, shift, stride)
    expected = [t for t in range(places) if 0 <= t * stride + shift < size]
    assert list(range(places))[out] == expected
    if expected:
        assert list(range(size))[met] == [t * stride + shift for t in expected]
    assert out.stop - out.start == len(expected)


@pytest.mark.parametrize(
    ("kernel", "size", "stride", "padding", "dilation"),
    [
        ((3, 2), (7, 6), (2, 1), (2, 1), (1, 2)),
        ((3, 3), (4, 4), (1, 1), (1, 1), (1, 1)),
        ((3, 3), (1, 2), (1, 1), (2, 2), (2, 2)),
        ((4,), (9,), (3,), (0,), (1,)),
        ((2, 3, 2), (3, 4, 3), (1, 2, 1), (1, 1, 0), (1, 1, 1)),
    ],
)
def test_visits_are_counted(kernel, size, stride, padding, dilation):
    geometry = Geometry(stride, padding, dilation, 1)
    weight = torch.ones(1, 1, *kernel)
    y = geometry.apply(torch.ones(1, 1, *size), weight, None)  # the pixels that each output meets
    assert geometry.num_visits(kernel, size, y.shape[2:]) == int(y.sum())


def test_patches_are_those_of_unfold():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 7, 6, generator=generator, dtype=torch.float64)
    kernel, geometry = (3, 2), Geometry((2, 1), (2, 1), (1, 2), 1)
    expected = F.unfold(x, kernel, padding=(2, 1), stride=(2, 1), dilation=(1, 2))
    positions = F.conv2d(x, x.new_zeros(1, 3, *kernel), None, (2, 1), (2, 1), (1, 2)).shape[2:]
    found = patches(x, kernel, geometry, positions)
    assert found.shape == (2, 1, *expected.shape[1:])
    assert torch.equal(found[:, 0], expected)
