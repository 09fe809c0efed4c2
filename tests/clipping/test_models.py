"""Whole models in the states a training loop brings them into."""

import copy
import gc
import weakref

import pytest
import torch
from networks import EXACT, Network, check_clipping, gradients_of, images, network
from reference.gradients import by_loop, norms, randomise_, trainable, weighted, weighted_outputs
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from dpexp.clipping.engine import PrivacyEngine
from dpexp.errors import UncoveredParameterError

ALGORITHMS = ["auto", "mixed_ghost", "ghost", "fastgradclip", "instantiate"]


def plain_gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    grads = torch.autograd.grad(weighted_outputs(model(x)).mean(), list(model.parameters()))
    return dict(zip(trainable(model), grads, strict=True))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_gives_the_clipped_sum_by_its_own_number_of_passes(algorithm):
    check_clipping(network(), images(5), algorithm=algorithm)
    model, seen = network(), []
    engine = PrivacyEngine(model, clip_norm=1.0, algorithm=algorithm)

    def watch(module, args):
        args[0].register_hook(seen.append)

    model.head.register_forward_pre_hook(watch)
    engine.backward(weighted_outputs(model(images(5))))
    seen.clear()  # the first call also proves that samples do not mix
    engine.backward(weighted_outputs(model(images(5))))
    paper = {"mixed_ghost": 2, "ghost": 2, "fastgradclip": 2}
    assert len(seen) == paper.get(algorithm, 1) == engine.backward_passes


def test_nonprivate_is_the_plain_sum():
    model = network()
    expected = weighted(by_loop(model, images(5)), torch.ones(5, dtype=torch.float64))
    engine = PrivacyEngine(model, clip_norm=1e-3, algorithm="nonprivate")
    assert engine.backward(weighted_outputs(model(images(5)))).isnan().all()
    assert_close(gradients_of(model), expected, **EXACT)


def test_without_the_engine_backward_means_what_it_always_did():
    expected = plain_gradients(network(), images(5))
    model = network()
    PrivacyEngine(model, clip_norm=1e-3)
    assert_close(plain_gradients(model, images(5)), expected, **EXACT)
    weighted_outputs(model(images(5))).mean().backward()
    assert_close(gradients_of(model), expected, **EXACT)


def test_channels_last_input():
    check_clipping(network().to(memory_format=torch.channels_last), images(5).contiguous(
        memory_format=torch.channels_last
    ))  # fmt: skip


def test_micro_batches_add_up_to_the_batch():
    whole, parts = network(), network()
    x, bound = images(7), float(norms(by_loop(network(), images(7))).median())
    of_whole = PrivacyEngine(whole, clip_norm=bound).backward(weighted_outputs(whole(x)))
    engine = PrivacyEngine(parts, clip_norm=bound)
    pieces = [engine.backward(weighted_outputs(parts(piece))) for piece in x.split([3, 1, 3])]
    assert_close(torch.cat(pieces), of_whole, **EXACT)
    assert_close(gradients_of(parts), gradients_of(whole), **EXACT)


def test_micro_batches_may_all_be_run_forward_first():
    model = network()
    engine = PrivacyEngine(model, clip_norm=1e9)
    first, second = (weighted_outputs(model(piece)) for piece in images(4).split(2))
    found = torch.cat([engine.backward(first), engine.backward(second)])
    assert_close(found, norms(by_loop(network(), images(4))), **EXACT)


class Checkpointed(Network):
    """The same network, its blocks recomputed in the backward pass."""

    use_reentrant = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.use_reentrant)
        return self.head(x.mean(1))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_activation_checkpointing_is_exact(algorithm):
    check_clipping(randomise_(Checkpointed().double()), images(5), algorithm=algorithm)


def test_timm_checkpointing_is_exact():
    model = VisionTransformer(8, 4, num_classes=3, embed_dim=8, depth=2, num_heads=2)
    model.set_grad_checkpointing()
    check_clipping(randomise_(model.double()), images(5))


def test_reentrant_checkpointing_is_refused():
    model = randomise_(Checkpointed().double())
    model.use_reentrant = True
    engine = PrivacyEngine(model, clip_norm=1.0)
    with pytest.raises(UncoveredParameterError, match="use_reentrant=False"):
        engine.backward(weighted_outputs(model(images(5))))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_under_autocast_norms_are_float32_and_near(algorithm):
    model, x = network().float(), images(5).float()
    with torch.autocast("cpu", torch.bfloat16):
        expected = norms(by_loop(model, x, lambda y: weighted_outputs(y.float())))
        engine = PrivacyEngine(model, clip_norm=1.0, algorithm=algorithm)
        outputs = model(x)
    assert outputs.dtype == torch.bfloat16
    found = engine.backward(weighted_outputs(outputs.float()))
    assert found.dtype == torch.float32
    assert_close(found, expected, rtol=1e-2, atol=0)
    assert all(g.dtype == torch.float32 for g in gradients_of(model).values())


@pytest.mark.parametrize("algorithm", ["auto", "instantiate"])
def test_under_autocast_no_sample_adds_more_than_its_bound(algorithm):
    model, x = network().float(), images(6).float()
    engine = PrivacyEngine(model, clip_norm=1e-2, algorithm=algorithm)
    for n in range(len(x)):
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(x)
        found = engine.backward(weighted_outputs(outputs.float()), torch.arange(len(x)) == n)
        assert found[n] > 1e-2
        grads = [g.double() for g in gradients_of(model).values()]
        added = torch.stack([g.square().sum() for g in grads]).sum().sqrt()
        assert_close(float(added), 1e-2, rtol=1e-6, atol=0)
        model.zero_grad()


def test_evaluation_and_no_grad_between_leave_no_trace():
    model = network()
    engine = PrivacyEngine(model, clip_norm=1e9)
    losses = weighted_outputs(model(images(5)))
    model.eval()
    with torch.no_grad():
        outputs = model(images(3))
    assert outputs.grad_fn is None
    assert engine._clipper.tap.forward_pass is None
    model.train()
    assert_close(engine.backward(losses), norms(by_loop(network(), images(5))), **EXACT)


def test_two_engines_share_nothing():
    models, x = (network(), network()), images(5)
    first, second = (PrivacyEngine(model, clip_norm=1e9) for model in models)
    losses = [weighted_outputs(model(x)) for model in models]
    first.backward(losses[0])
    assert all(p.grad is None for p in models[1].parameters())
    second.backward(losses[1])
    assert_close(gradients_of(models[0]), gradients_of(models[1]), **EXACT)


@pytest.mark.parametrize("plain", [copy.deepcopy, None], ids=["deepcopy", "detach"])
def test_a_copy_and_a_detached_model_are_plain(plain):
    model = network()
    engine = PrivacyEngine(model, clip_norm=1.0)
    model(images(2))
    plain_model = engine.detach() if plain is None else plain(model)
    outputs = plain_model(images(2))
    assert "Tapped" not in outputs.grad_fn.name()
    assert plain is None or "Tapped" in model(images(2)).grad_fn.name()
    PrivacyEngine(plain_model, clip_norm=1.0)  # it may be watched anew


def test_a_forward_pass_that_raises_leaves_the_model_usable():
    model = network()
    engine = PrivacyEngine(model, clip_norm=1e9)
    with pytest.raises(RuntimeError, match="channels"):
        model(images(5)[:, :2])
    with pytest.raises(RuntimeError, match="size"):
        model(torch.cat([images(5)] * 2, 3))  # fails in the middle: too many positions
    assert engine._clipper.tap.forward_pass is None
    losses = weighted_outputs(model(images(5)))
    assert_close(engine.backward(losses), norms(by_loop(network(), images(5))), **EXACT)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_activations_are_freed_without_the_garbage_collector(algorithm):
    model, held = network(), []
    engine = PrivacyEngine(model, clip_norm=1.0, algorithm=algorithm)
    model.head.register_forward_pre_hook(lambda module, args: held.append(weakref.ref(args[0])))
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            losses = weighted_outputs(model(images(5)))
            engine.backward(losses)
            del losses
        weighted_outputs(model(images(5)))  # dropped without a backward pass
        engine.backward(weighted_outputs(model(images(5))))
        assert len(held) >= 5
        assert [ref() for ref in held] == [None] * len(held)
    finally:
        gc.enable()
