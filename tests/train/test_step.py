"""One training step against its definition, on a network small enough to do by hand."""

from contextlib import nullcontext

import pytest
import torch
from reference.clip import clipped_sum
from reference.gradients import by_loop, norms
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from dpexp.clipping.engine import PrivacyEngine
from dpexp.train.step import train_step

R, SIGMA, B, LR = 2.2, 1.5, 10.0, 0.25


def make():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    return model, torch.optim.SGD(model.parameters(), lr=LR)


def batch(n, seed=1):
    generator = torch.Generator().manual_seed(seed)
    images = 2 * torch.randn(n, 4, generator=generator)
    return images, torch.randint(0, 3, (n,), generator=generator)


def micro_batches(images, labels, size):
    return list(zip(images.split(size), labels.split(size), strict=True)) if len(images) else []


def gradients(images, labels):
    rows = [
        by_loop(make()[0], x[None], lambda y, label=label: cross_entropy(y, label[None]))
        for x, label in zip(images, labels, strict=True)
    ]
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def step(model, optimizer, engine, images, labels, size):
    return train_step(
        model, optimizer, engine, micro_batches(images, labels, size),
        expected_batch_size=B, autocast=nullcontext(),
    )  # fmt: skip


@pytest.mark.parametrize("size", [2, 3, 7])
def test_a_private_step_is_the_clipped_sum_and_noise_over_b_and_keeps_no_gradient(size):
    model, optimizer = make()
    generator = torch.Generator().manual_seed(7)
    engine = PrivacyEngine(
        model, optimizer, clip_norm=R, noise_multiplier=SIGMA, expected_batch_size=B,
        generator=generator,
    )  # fmt: skip
    optimizer.param_groups[0]["lr"] = 0.0  # a first step leaves nothing but a gradient behind
    step(model, optimizer, engine, *batch(5, seed=2), size)
    optimizer.param_groups[0]["lr"] = LR
    generator.manual_seed(8)
    images, labels = batch(7)
    stats = step(model, optimizer, engine, images, labels, size)
    grads = gradients(images, labels)
    assert 0 < (norms(grads) > R).sum() < 7
    sums = clipped_sum(grads, [list(grads)], [R], "abadi", 0.0)
    generator = torch.Generator().manual_seed(8)
    plain = dict(make()[0].named_parameters())
    for name, p in model.named_parameters():
        noise = SIGMA * R * torch.randn(p.shape, generator=generator)
        assert_close(p, plain[name] - LR * (sums[name] + noise) / B)
    assert_close(stats.grad_norms, norms(grads))
    assert_close(stats.losses, cross_entropy(make()[0](images), labels, reduction="none"))


@pytest.mark.parametrize("size", [2, 7])
def test_an_ordinary_step_is_the_plain_sum_over_b(size):
    model, optimizer = make()
    images, labels = batch(7)
    stats = step(model, optimizer, None, images, labels, size)
    plain = dict(make()[0].named_parameters())
    sums = {name: g.sum(0) for name, g in gradients(images, labels).items()}
    expected = {name: p - LR * sums[name] / B for name, p in plain.items()}
    assert_close(dict(model.named_parameters()), expected)
    assert stats.losses.shape == (7,)
    assert stats.grad_norms.shape == (0,)


def test_an_empty_batch_is_a_step_of_noise_alone():
    model, optimizer = make()
    generator = torch.Generator().manual_seed(3)
    engine = PrivacyEngine(
        model, optimizer, clip_norm=R, noise_multiplier=SIGMA, expected_batch_size=B,
        generator=generator,
    )  # fmt: skip
    stats = step(model, optimizer, engine, *batch(0), 2)
    generator.manual_seed(3)
    plain = dict(make()[0].named_parameters())
    for name, p in model.named_parameters():
        noise = SIGMA * R * torch.randn(p.shape, generator=generator)
        assert_close(p, plain[name] - LR * noise / B)
    assert stats.losses.shape == stats.grad_norms.shape == (0,)
    assert engine.num_steps == 1
