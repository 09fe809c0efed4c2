"""Runs against DP-SGD written out by hand: one sample at a time, and nothing of the engine."""

import numpy as np
import pytest
import torch
from runs import config_of, document, metrics, train, weights
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from dpexp.sampling import derive_seed, poisson_batch
from dpexp.train.job import load_model_and_data

NUM_TRAIN, STEPS, LR = 1438, 3, 1.0


def clipped(grads, bound):
    norm = torch.stack([g.square().sum() for g in grads]).sum().sqrt()
    return [g * min(1.0, bound / norm.item()) for g in grads]


def by_hand(config, *, batch, sigma, bound, private=True):
    """Return the weights after three steps of plain SGD, and how many samples each step drew."""
    built, splits = load_model_and_data(config, announce=print)
    params = dict(built.module.named_parameters())
    bounds = bound if isinstance(bound, list) else [bound] * STEPS
    sizes = []
    for step, bound in enumerate(bounds):
        rows = poisson_batch(NUM_TRAIN, batch / NUM_TRAIN, config.seed, step)
        sizes.append(len(rows))
        total = [torch.zeros_like(p) for p in params.values()]
        for row in rows:
            image, label = splits.train.batch([row])
            loss = cross_entropy(built.module(image), label)
            grads = torch.autograd.grad(loss, list(params.values()))
            grads = clipped(grads, bound) if private else grads
            total = [t + g for t, g in zip(total, grads, strict=True)]
        generator = np.random.Generator(np.random.Philox(derive_seed(config.seed, "noise", step)))
        with torch.no_grad():
            for param, t in zip(params.values(), total, strict=True):
                drawn = generator.standard_normal(param.numel(), np.float32)
                noise = torch.from_numpy(drawn).view(param.shape) * sigma * bound
                param -= LR * (t + noise) / batch
    return {name: p.detach() for name, p in params.items()}, sizes


def check(folder, config, **numbers):
    expected, sizes = by_hand(config, **numbers)
    found = weights(folder)
    # A loose bound on rounding, far below what one sample or one noise draw would change.
    assert_close({name: found[name] for name in expected}, expected, rtol=1e-3, atol=2e-5)
    assert [row["unsafe/batch_size"] for row in metrics(folder)] == sizes
    return sizes


def test_a_private_run_is_dp_sgd(tmp_path):
    words = ("clipping.norm=12", "optimizer.lr=1")  # both branches of the clip are taken
    folder = train(tmp_path, *words)
    check(folder, config_of(tmp_path, *words), batch=64, sigma=1.0, bound=12.0)
    shares = [row["unsafe/clipped_fraction"] for row in metrics(folder)]
    assert 0 < np.mean(shares) < 1


def test_an_empty_batch_is_a_step_of_noise(tmp_path):
    words = ("batch=1", "noise_multiplier=0.5", "clipping.norm=3", "optimizer.lr=1", "seed=3")
    folder = train(tmp_path, *words)
    sizes = check(folder, config_of(tmp_path, *words), batch=1, sigma=0.5, bound=3.0)
    assert 0 in sizes
    assert max(sizes) > 0
    empty = metrics(folder)[sizes.index(0)]
    assert "unsafe/loss_nats" not in empty
    assert document(folder, "privacy")["steps_done"] == STEPS


def test_without_dp_it_is_plain_sgd_on_the_same_draws(tmp_path):
    words = ("dp=off", "noise_multiplier=null", "optimizer.lr=1")
    folder = train(tmp_path, *words)
    check(folder, config_of(tmp_path, *words), batch=64, sigma=0.0, bound=1.0, private=False)
    assert document(folder, "privacy")["guarantee"] == "none"
    assert document(folder, "summary")["privacy/epsilon"] == "inf"


@pytest.mark.parametrize("word", ["eps=inf", "noise_multiplier=0"])
def test_infinite_epsilon_clips_and_adds_no_noise(tmp_path, word):
    words = ("noise_multiplier=null", word, "clipping.norm=3", "optimizer.lr=1")
    folder = train(tmp_path, *words)
    check(folder, config_of(tmp_path, *words), batch=64, sigma=0.0, bound=3.0)
    privacy = document(folder, "privacy")
    assert (privacy["epsilon"], privacy["guarantee"]) == ("inf", "none")
