"""What only a CUDA device can show: exactness there, bfloat16, and no wait for the device."""

import pytest
import torch
from networks import EXACT, Network, images, network
from reference.clip import clipped_sum
from reference.gradients import by_loop, norms, randomise_, trainable, weighted_outputs
from torch.testing import assert_close

from dpexp.clipping.engine import PrivacyEngine
from dpexp.memory import peak_live_bytes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
STYLES = ["flat", "layerwise", "paramwise"]


@pytest.mark.parametrize("algorithm", ["auto", "mixed_ghost", "ghost", "instantiate"])
def test_clipped_sums_are_those_of_a_loop(algorithm):
    model, x = network().cuda(), images(7).cuda()
    grads = by_loop(model, x)
    size = norms(grads)
    bound = float(size.median())
    engine = PrivacyEngine(model, clip_norm=bound, algorithm=algorithm)
    assert_close(engine.backward(weighted_outputs(model(x))), size, **EXACT)
    expected = clipped_sum(grads, [list(grads)], [bound], "abadi", 0.0)
    assert_close({n: p.grad for n, p in trainable(model).items()}, expected, **EXACT)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_a_step_waits_for_nothing(style, precision):
    model, x = randomise_(Network()).cuda(), images(7).float().cuda()
    engine = PrivacyEngine(model, clip_norm=1.0, style=style)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
            outputs = model(x)
        engine.backward(weighted_outputs(outputs.float()))

    try:
        for _ in range(2):  # proofs and plan may wait
            step()
        torch.cuda.set_sync_debug_mode("error")
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.backends.cuda.matmul.allow_tf32 = before


def test_norms_under_bfloat16_are_near():
    model, x = randomise_(Network()).cuda(), images(7).float().cuda()
    with torch.autocast("cuda", torch.bfloat16):
        expected = norms(by_loop(model, x, lambda y: weighted_outputs(y.float())))
        engine = PrivacyEngine(model, clip_norm=1.0)
        outputs = model(x)
    found = engine.backward(weighted_outputs(outputs.float()))
    assert found.dtype == torch.float32
    assert_close(found, expected, rtol=1e-2, atol=0)


def test_peak_memory_is_the_allocators():
    device = torch.device("cuda")
    found = peak_live_bytes(lambda: torch.zeros(2**20, device=device), device)
    assert found == pytest.approx(4 * 2**20, rel=0.01)
