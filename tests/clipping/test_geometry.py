"""Which pixels a convolution's kernel meets, against a loop over every output and offset."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpexp.clipping.rules.geometry import Geometry, overlap

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
