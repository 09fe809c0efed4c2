"""Samples that must contribute exactly nothing, and those that are several views of one."""

import pytest
import torch
from networks import EXACT, gradients_of, images, network
from reference.gradients import by_loop, norms, randomise_, weighted, weighted_outputs
from torch import Tensor, nn
from torch.testing import assert_close

from dpexp.clipping.engine import PrivacyEngine

ALGORITHMS = ["auto", "mixed_ghost", "ghost", "fastgradclip", "instantiate"]
STYLES = ["flat", "layerwise", "blockwise", "paramwise"]
WITH_STYLES = [(a, "flat") for a in ALGORITHMS] + [("auto", style) for style in STYLES[1:]]


def clipped(x, mask=None, model=None, **options):
    model = model or network()
    engine = PrivacyEngine(model, clip_norm=1.0, **options)
    found = engine.backward(weighted_outputs(model(x)), mask)
    return found, gradients_of(model)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e200])
@pytest.mark.parametrize(("algorithm", "style"), WITH_STYLES)
def test_a_sample_that_is_not_finite_contributes_exactly_zero(algorithm, style, value):
    x = images(5)
    bad = x.clone()
    bad[2, 0, 3, 3] = value
    found, grads = clipped(bad, algorithm=algorithm, style=style)
    kept = [0, 1, 3, 4]
    found_without, without = clipped(x[kept], algorithm=algorithm, style=style)
    if value != 1e200:
        assert not found[2].isfinite()
        assert_close(found[kept], found_without, **EXACT)
        assert_close(grads, without, **EXACT)
    assert all(g.isfinite().all() for g in grads.values())


class Steep(nn.Module):
    """A network whose side branch has an infinite slope, and finite values, where it is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.side = nn.Linear(4, 3), nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + self.side(x.clamp(min=0)).abs().sqrt()


@pytest.mark.parametrize(("algorithm", "style"), WITH_STYLES)
def test_an_infinite_gradient_of_one_layer_alone_drops_its_group(algorithm, style):
    x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).abs()
    x[2] *= -1
    model = randomise_(Steep().double())
    assert weighted_outputs(model(x)).isfinite().all()
    found, grads = clipped(x, model=model, algorithm=algorithm, style=style)
    assert found.isfinite().tolist() == [True, True, False, True, True]
    others = clipped(x[[0, 1, 3, 4]], model=randomise_(Steep().double()), style=style)[1]
    assert_close(grads["side.weight"], others["side.weight"], **EXACT)
    # Groups are clipped as the backward pass goes: another layer does not know of it.
    is_dropped = torch.allclose(grads["main.weight"], others["main.weight"], **EXACT)
    assert is_dropped is (style == "flat")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_infinite_weight_of_one_loss_is_that_samples_alone(algorithm):
    model = network()
    engine = PrivacyEngine(model, clip_norm=1.0, algorithm=algorithm)
    scale = torch.tensor([1.0, torch.inf, 1.0, torch.nan], dtype=torch.float64)
    found = engine.backward(weighted_outputs(model(images(4))) * scale)
    assert found.isfinite().tolist() == [True, False, True, False]
    assert_close(gradients_of(model), clipped(images(4)[[0, 2]])[1], **EXACT)


@pytest.mark.parametrize(("algorithm", "style"), WITH_STYLES)
def test_masked_samples_contribute_nothing(algorithm, style):
    mask = torch.tensor([True, False, True, True, False])
    found, grads = clipped(images(5), mask, algorithm=algorithm, style=style)
    assert_close(found, norms(by_loop(network(), images(5))), **EXACT)
    assert_close(grads, clipped(images(5)[mask], style=style)[1], **EXACT)


def test_masked_samples_are_left_out_of_the_plain_sum():
    mask = torch.tensor([True, False, True])
    _, grads = clipped(images(3), mask, algorithm="nonprivate")
    assert_close(grads, weighted(by_loop(network(), images(3)), mask.double()), **EXACT)


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "nonprivate"])
def test_an_empty_batch_has_a_gradient_of_zero(algorithm):
    found, grads = clipped(images(0), algorithm=algorithm)
    assert found.shape == (0,)
    assert not any(g.any() for g in grads.values())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_views_are_averaged_before_clipping(algorithm):
    x = images(6)  # three samples of two views each
    mean = {name: g.unflatten(0, (3, 2)).mean(1) for name, g in by_loop(network(), x).items()}
    size = norms(mean)
    bound = float(size.median())
    model = network()
    engine = PrivacyEngine(model, clip_norm=bound, algorithm=algorithm, views=2)
    assert_close(engine.backward(weighted_outputs(model(x))), size, **EXACT)
    assert_close(gradients_of(model), weighted(mean, (bound / size).clamp(max=1)), **EXACT)
