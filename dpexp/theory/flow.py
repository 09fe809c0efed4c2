"""Gradient flow by the engine that is shipped: Euler steps on the whole sample set.

    w(t + lr) = w(t) - lr (sum_i C_i g_i + sigma R z),    z standard normal,

the sum not divided (B = 1), so that time is lr times steps and a small lr approaches the flow.

Source: Bu et al. 2023, arXiv:2106.07830, its update of DP gradient descent.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import SGD

from dpexp.clipping.engine import PrivacyEngine
from dpexp.clipping.noise import NoiseSource, StepNoise
from dpexp.config import Algorithm, Function, Split, Style
from dpexp.theory.subjects import Subject


@dataclass(frozen=True)
class Clip:
    """How gradients are clipped and noised.

    Attributes:
        bound: R of each group, gradient units; infinity for none, by the ordinary gradient.
        style: Which parameters share one norm.
        function: The clip factor.
        sigma: Noise over sensitivity.
    """

    bound: float
    style: Style = "flat"
    function: Function = "abadi"
    sigma: float = 0.0


UNCLIPPED = Clip(math.inf)


class SignedNoise:
    """A source's noise times +1 or -1: two runs with both signs are an antithetic pair.

    In their mean every term of odd order in the noise cancels, and with it most of the spread.
    """

    def __init__(self, source: NoiseSource, sign: float) -> None:
        self.source = source
        self.sign = sign

    def normal(self, like: Tensor) -> Tensor:
        """Return `sign` times what the source draws."""
        return self.sign * self.source.normal(like)


@dataclass(frozen=True)
class Step:
    """What one step saw before it moved.

    Attributes:
        loss: L, the sum over samples.
        norms: |g_i| over all parameters, shape (n,); empty without clipping.
    """

    loss: float
    norms: Tensor


def steps_of(
    model: nn.Module,
    subject: Subject,
    clip: Clip,
    *,
    lr: float,
    num_steps: int,
    noise: NoiseSource | None = None,
) -> Iterator[Step]:
    """Take steps on `model`, in place, and yield what each saw; the engine leaves at the end.

    Args:
        model: Its parameters are moved.
        subject: Samples and loss.
        clip: How gradients are clipped, and the noise.
        lr: Step size on the sum of gradients.
        num_steps: How many.
        noise: Draws the noise; needed where sigma is above 0.
    """
    optimizer = SGD(model.parameters(), lr=lr)
    is_clipped = math.isfinite(clip.bound)
    algorithm: Algorithm = "auto" if is_clipped else "nonprivate"
    split: Split = "per_group"
    engine = PrivacyEngine(
        model,
        optimizer,
        clip_norm=clip.bound if is_clipped else 1.0,
        noise_multiplier=clip.sigma,
        expected_batch_size=1,
        style=clip.style,
        function=clip.function,
        algorithm=algorithm,
        split=split,
        generator=noise or StepNoise(0),
    )
    try:
        for _ in range(num_steps):
            losses = subject.losses(model(subject.inputs))
            norms = engine.backward(losses)
            optimizer.step()
            optimizer.zero_grad()
            yield Step(float(losses.detach().sum()), norms if is_clipped else norms[:0])
    finally:
        engine.detach()


def losses_along(
    model: nn.Module,
    subject: Subject,
    clip: Clip,
    *,
    lr: float,
    num_steps: int,
    noise: NoiseSource | None = None,
) -> list[float]:
    """Return L before each step and after the last; `model` is moved."""
    steps = steps_of(model, subject, clip, lr=lr, num_steps=num_steps, noise=noise)
    return [*(step.loss for step in steps), total_loss(model, subject)]


@torch.no_grad()
def total_loss(model: nn.Module, subject: Subject) -> float:
    """Return L, the sum over samples."""
    return float(subject.losses(model(subject.inputs)).sum())


def largest_rise(losses: list[float]) -> float:
    """Return the largest max_{s < t} (L(t) - L(s)) / L(s): how far the loss rose above a value."""
    lowest, rise = math.inf, 0.0
    for loss in losses:
        lowest = min(lowest, loss)
        rise = max(rise, (loss - lowest) / lowest if lowest > 0 else 0.0)
    return rise


def flat_weights(model: nn.Module) -> Tensor:
    """Return all parameters in one vector, detached."""
    return torch.cat([param.detach().flatten() for param in model.parameters()]).clone()
