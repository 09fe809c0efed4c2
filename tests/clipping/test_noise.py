"""Noise: how much, how often, and divided by what."""

import math

import pytest
import torch
from networks import EXACT, gradients_of, images, network
from reference.gradients import weighted_outputs
from torch import Tensor, nn
from torch.testing import assert_close

from dpexp.clipping.engine import PrivacyEngine
from dpexp.clipping.noise import SecureNoise, SeededNoise, StepNoise
from dpexp.errors import EngineError
from dpexp.mechanism import Mechanism

R, SIGMA, B = 0.7, 1.3, 10.0
NUMBERS = {"clip_norm": R, "noise_multiplier": SIGMA, "expected_batch_size": B}


def has_std(sample: Tensor, std: float) -> bool:
    """Whether normal numbers have this standard deviation and mean 0, to five standard errors."""
    scaled = sample.double().flatten() / std
    n = scaled.numel()
    mean_fits = abs(scaled.mean()) < 5 / math.sqrt(n)
    return bool(mean_fits and abs(scaled.square().mean() - 1) < 5 * math.sqrt(2 / n))


def stepping(model: nn.Module, **options: object) -> tuple[torch.optim.SGD, PrivacyEngine]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    return optimizer, PrivacyEngine(model, optimizer, **{**NUMBERS, **options})


def clipped_sum(pieces: list[Tensor], **options: object) -> dict[str, Tensor]:
    model = network()
    engine = PrivacyEngine(model, clip_norm=R, **options)
    for piece in pieces:
        engine.backward(weighted_outputs(model(piece)))
    return gradients_of(model)


@pytest.mark.parametrize("style", ["flat", "layerwise"])
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_step_is_the_clipped_sum_and_noise_over_b(pieces, style):
    model, x = network(), images(6)
    optimizer, engine = stepping(
        model, generator=torch.Generator().manual_seed(5), style=style, split="equal"
    )
    for piece in x.chunk(pieces):
        engine.backward(weighted_outputs(model(piece)))
    optimizer.step()
    generator = torch.Generator().manual_seed(5)
    expected = {
        name: (g + SIGMA * R * torch.randn(g.shape, generator=generator, dtype=g.dtype)) / B
        for name, g in clipped_sum([x], style=style).items()
    }
    assert_close(gradients_of(model), expected, **EXACT)
    before = dict(network().named_parameters())
    after = {name: before[name] - g for name, g in expected.items()}
    assert_close(dict(model.named_parameters()), after, **EXACT)
    assert engine.num_steps == 1


def test_per_group_bounds_raise_the_noise():
    model = network()
    _, engine = stepping(model, style="paramwise", split="per_group")
    groups = len(list(model.parameters()))
    assert engine.mechanism.noise_std == pytest.approx(SIGMA * R * math.sqrt(groups))


def wide() -> nn.Module:
    return nn.Linear(200, 200, bias=False)


def noise_of_a_step(num_pieces: int, seed: int = 0) -> Tensor:
    """(sum + noise) - sum, of a batch in micro-batches, at parameters of zero gradient."""
    model = wide()
    optimizer, engine = stepping(model, generator=torch.Generator().manual_seed(seed))
    for _ in range(num_pieces):
        engine.backward(model(torch.zeros(2, 200)).sum(1))
    optimizer.step()
    return model.weight.grad * B


@pytest.mark.parametrize("num_pieces", [0, 1, 4])
def test_the_noise_has_the_stated_scale_however_the_batch_is_cut(num_pieces):
    assert has_std(noise_of_a_step(num_pieces), SIGMA * R)


def test_the_test_of_the_scale_can_fail():
    noise = noise_of_a_step(1)
    for wrong in (1.5, 1 / 1.5, R, 1 / R, SIGMA, 1 / B, 1.05):
        assert not has_std(noise, SIGMA * R * wrong)
    in_each_piece = sum(noise_of_a_step(1, seed) for seed in range(4))
    assert not has_std(in_each_piece, SIGMA * R)
    assert has_std(in_each_piece, 2 * SIGMA * R)


def test_steps_have_noise_of_their_own():
    model = wide()
    optimizer, engine = stepping(model)
    found = []
    for _ in range(2):
        optimizer.zero_grad()
        optimizer.step()
        found.append(model.weight.grad * B)
    assert has_std(found[0] - found[1], math.sqrt(2) * SIGMA * R)
    assert engine.num_steps == 2


def test_engines_without_a_generator_are_seeded_differently():
    models = wide(), wide()
    for model in models:
        stepping(model)[0].step()
    assert has_std((models[0].weight.grad - models[1].weight.grad) * B, math.sqrt(2) * SIGMA * R)


def test_no_noise_leaves_the_sum_over_b():
    model = network()
    optimizer, engine = stepping(model, noise_multiplier=0.0)
    engine.backward(weighted_outputs(model(images(3))))
    optimizer.step()
    expected = {name: g / B for name, g in clipped_sum([images(3)]).items()}
    assert_close(gradients_of(model), expected, **EXACT)


def test_a_mechanism_stands_for_its_numbers():
    mechanism = Mechanism(**NUMBERS, sampling_rate=0.1, num_steps=3)
    models = [network(), network()]
    for model, options in zip(models, (NUMBERS, {"mechanism": mechanism}), strict=True):
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        generator = torch.Generator().manual_seed(1)
        engine = PrivacyEngine(model, optimizer, generator=generator, **options)
        engine.backward(weighted_outputs(model(images(3))))
        optimizer.step()
    assert_close(gradients_of(models[0]), gradients_of(models[1]), rtol=0, atol=0)


def test_the_model_s_own_randomness_is_left_alone():
    model = wide()
    optimizer, engine = stepping(model)
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    engine.backward(model(torch.ones(3, 200)).sum(1))
    optimizer.step()
    assert torch.equal(torch.randn(4), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(300, 333), (99_999,)])
def test_secure_noise_is_normal_and_never_the_same(shape, dtype):
    like = torch.empty(shape, dtype=dtype)
    noise = SecureNoise().normal(like)
    assert (noise.shape, noise.dtype) == (like.shape, dtype)
    assert has_std(noise, 1.0)
    n = like.numel()
    assert abs(noise.double().pow(3).mean()) < 5 * math.sqrt(15 / n)
    assert abs(noise.double().pow(4).mean() - 3) < 5 * math.sqrt(96 / n)
    flat = noise.double().flatten()
    halves = flat[: n // 2] @ flat[n - n // 2 :] / (n // 2)
    assert abs(halves) < 5 / math.sqrt(n // 2), "the two numbers of a pair are not independent"
    assert has_std(noise - SecureNoise().normal(like), math.sqrt(2))


def test_a_number_alone_and_none_at_all_have_noise():
    for shape in ((), (0, 3)):
        assert SecureNoise().normal(torch.empty(shape)).shape == shape


def test_seeded_noise_follows_from_its_seed_alone():
    first, second = (SeededNoise(torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first.normal(torch.empty(5)), second.normal(torch.empty(5)))
    assert not torch.equal(first.normal(torch.empty(5)), SeededNoise(
        torch.Generator().manual_seed(5)
    ).normal(torch.empty(5)))  # fmt: skip


def test_noise_of_a_step_follows_from_all_64_bits_of_its_seed():
    like = torch.empty(5)
    first = StepNoise(5).normal(like)
    noise = StepNoise(6)
    assert not torch.equal(first, noise.normal(like))
    noise.start(5)
    assert torch.equal(first, noise.normal(like))
    # torch's own generator on the CPU does not tell these two apart.
    assert not torch.equal(first, StepNoise(5 + 2**32).normal(like))


def test_noise_of_a_step_is_standard_normal():
    for dtype in (torch.float32, torch.float64):
        drawn = StepNoise(0).normal(torch.empty(200_000, dtype=dtype))
        assert drawn.dtype == dtype
        assert abs(float(drawn.mean())) < 4 / 200_000**0.5
        assert abs(float(drawn.std()) - 1) < 4 / 400_000**0.5
        assert 0.003 > float((drawn.abs() > 3).double().mean()) > 0.002


def test_bfloat16_parameters_are_given_noise_of_float32():
    assert SeededNoise(torch.Generator()).normal(torch.empty(3, dtype=torch.bfloat16)).dtype == (
        torch.float32
    )


def test_epsilon_needs_a_rate_and_counts_the_steps():
    model = wide()
    optimizer, engine = stepping(model)
    with pytest.raises(EngineError, match="sampling rate q"):
        engine.epsilon(1e-5)
    engine.detach()
    optimizer, engine = stepping(model, sampling_rate=1.0)
    assert engine.epsilon(1e-5) == 0
    optimizer.step()
    once = engine.epsilon(1e-5)
    engine.load_state_dict({**engine.state_dict(), "num_steps": 4})
    assert 0 < once < engine.epsilon(1e-5)
