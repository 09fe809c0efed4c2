"""Clip factors: by hand, and the bound that the noise is scaled to, for every norm there is."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.clip import factor

from dpexp.clipping.engine import PrivacyEngine
from dpexp.clipping.factors import FUNCTIONS

# A norm is the root of a sum of squares: no larger one is finite.
LARGEST = {torch.float32: 2.0**63, torch.float64: 2.0**511}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_sample_moves_the_sum_by_more_than_the_bound(data, function, dtype):
    width = 32 if dtype == torch.float32 else 64
    norm = data.draw(st.floats(0.0, LARGEST[dtype], width=width))
    bound = data.draw(st.floats(2.0**-20, 2.0**20, width=width))
    stability = data.draw(st.floats(2.0**-20, 2.0**10, width=width))
    norms = torch.tensor([norm], dtype=dtype)
    found = FUNCTIONS[function](norms, bound, stability)
    assert found.dtype == dtype
    assert found.isfinite().all()
    assert (found >= 0).all()
    moved = float(found) * norm
    assert moved <= bound * (1 + 8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_infinite_norm_has_a_factor_of_zero(function):
    assert FUNCTIONS[function](torch.tensor([math.inf]), 2.0, 0.5).item() == 0


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("norm", [0.0, 1e-3, 1.9, 2.0, 2.1, 1e6])
def test_factors_are_those_of_the_papers(function, norm):
    found = FUNCTIONS[function](torch.tensor([norm], dtype=torch.float64), 2.0, 0.5)
    assert found.item() == pytest.approx(factor(function, norm, 2.0, 0.5), rel=1e-14)


@pytest.mark.parametrize(
    ("function", "norm", "expected"),
    [
        ("abadi", 8.0, 0.25),
        ("abadi", 1.0, 1.0),
        ("global", 2.0, 1.0),
        ("global", 2.001, 0.0),
        ("autos", 3.5, 0.5),
        ("autov", 4.0, 0.5),
        ("autov", 0.0, 0.0),
        ("psac", 0.5, 2.0),  # 2 / (0.5 + 0.5 / 1)
    ],
)
def test_factors_by_hand(function, norm, expected):
    assert FUNCTIONS[function](torch.tensor([norm]), 2.0, 0.5).item() == pytest.approx(expected)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-30, 2e-23, 1e-19, 1e18, 1e25])
def test_the_clipped_gradient_itself_is_within_the_bound(function, size):
    """Also where squares underflow or overflow in float32, and the norm is not known."""
    model = torch.nn.Linear(40, 30)
    engine = PrivacyEngine(model, clip_norm=1.0, function=function)
    # At 2e-23 the square of the first is all that is left of the norm.
    sizes = torch.full((30,), size).index_fill(0, torch.tensor([0]), 2 * size)
    engine.backward((model(torch.ones(1, 40)) * sizes).sum(1))
    squares = [p.grad.double().square().sum() for p in model.parameters()]
    assert torch.stack(squares).sum().sqrt() <= 1 + 1e-5
