"""Faults of a private training step, planted in the engine and what it draws from, for a block.

Each is a mistake that has been made in the field. None touches the audit that is to find it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from unittest.mock import patch

import torch

from dpexp import sampling
from dpexp.clipping.clipper import Clipper
from dpexp.clipping.engine import PrivacyEngine
from dpexp.clipping.factors import FUNCTIONS
from dpexp.clipping.groups import Group
from dpexp.clipping.noise import StepNoise
from dpexp.mechanism import Mechanism


def noise_scaled(factor: float) -> AbstractContextManager[object]:
    """Multiply the noise on the sum."""

    def scaled(self):
        return factor * self.noise_multiplier * self.clip_norm

    return patch.object(Mechanism, "noise_std", property(scaled))


def noise_of_sigma() -> AbstractContextManager[object]:
    """Forget R in the noise: too small where R is above 1."""
    return patch.object(Mechanism, "noise_std", property(lambda self: self.noise_multiplier))


def clipping_skipped() -> AbstractContextManager[object]:
    """Let every gradient through as it is."""
    unclipped = dict.fromkeys(FUNCTIONS, _ones)
    return patch.dict("dpexp.clipping.factors.FUNCTIONS", unclipped)


@contextmanager
def normaliser_drawn() -> Iterator[None]:
    """Divide the noisy sum by the number of samples that were drawn, not by B."""
    backward, before_step = PrivacyEngine.backward, PrivacyEngine._before_step
    drawn = {"count": 0}

    def counting(self, losses, mask=None):
        drawn["count"] += len(losses)
        return backward(self, losses, mask)

    def dividing(self, optimizer, args, kwargs):
        before_step(self, optimizer, args, kwargs)
        factor = self.mechanism.expected_batch_size / max(1, drawn.pop("count"))
        drawn["count"] = 0
        for param in self.names:
            param.grad *= factor

    with (
        patch.object(PrivacyEngine, "backward", counting),
        patch.object(PrivacyEngine, "_before_step", dividing),
    ):
        yield


@contextmanager
def noise_reused(updates: int) -> Iterator[None]:
    """Draw noise once for several updates in a row, as if each micro-batch of a batch had one."""
    start = StepNoise.__init__
    restart = StepNoise.start
    calls: dict[int, list[int]] = {}

    def reusing(self, seed):
        first, count = calls.get(id(self), [seed, 0])
        if count % updates == 0:
            first = seed
        calls[id(self)] = [first, count + 1]
        restart(self, first)

    def fresh(self, seed):
        start(self, seed)
        calls.pop(id(self), None)

    with patch.object(StepNoise, "start", reusing), patch.object(StepNoise, "__init__", fresh):
        yield


@contextmanager
def noise_split() -> Iterator[None]:
    """Add noise in each micro-batch, divided by their number: too small by its root.

    Independent draws of sigma R / k each add up to sigma R / sqrt(k).
    """
    backward, before_step = PrivacyEngine.backward, PrivacyEngine._before_step
    passes = {"count": 0}

    def counting(self, losses, mask=None):
        passes["count"] += 1
        return backward(self, losses, mask)

    def weakened(self, optimizer, args, kwargs):
        factor = max(1, passes["count"]) ** -0.5
        passes["count"] = 0
        with noise_scaled(factor):
            before_step(self, optimizer, args, kwargs)

    with (
        patch.object(PrivacyEngine, "backward", counting),
        patch.object(PrivacyEngine, "_before_step", weakened),
    ):
        yield


@contextmanager
def noise_same_for_tensors() -> Iterator[None]:
    """Start the generator anew for each tensor: those of one shape get the same noise."""
    start = StepNoise.start

    def remembering(self, seed):
        self.seed = seed
        start(self, seed)

    normal = StepNoise.normal

    def restarting(self, like):
        start(self, self.seed)
        return normal(self, like)

    with (
        patch.object(StepNoise, "start", remembering),
        patch.object(StepNoise, "normal", restarting),
    ):
        yield


@contextmanager
def missing_from_norm(shape: tuple[int, ...]) -> Iterator[None]:
    """Leave parameters of a shape out of the norm, and clip and add them all the same."""
    add = Group.add

    def forgetting(self, param, grad, workspace):
        before = self.squared_norms
        add(self, param, grad, workspace)
        if tuple(param.shape) == shape and not self.uses_left[param]:
            if param in self.small:
                self.held[param] = self.small.pop(param)
            self.squared_norms = before

    with patch.object(Group, "add", forgetting):
        yield


def nonfinite_kept() -> AbstractContextManager[object]:
    """Let a sample whose gradient is not finite into the sum."""

    def keeping(self, norms, mask):
        factors = self._function(norms, self._bound, self._stability)
        return factors.masked_fill(~mask, 0.0), ~mask.expand_as(norms)

    return patch.object(Clipper, "_factors", keeping)


def sampled_more_often(factor: float) -> AbstractContextManager[object]:
    """Draw each sample more often than the accountant was told."""
    poisson = sampling.poisson_batch

    def often(num_train, sampling_rate, seed, step, *, secure=False):
        return poisson(num_train, min(1.0, factor * sampling_rate), seed, step, secure=secure)

    return patch.object(sampling, "poisson_batch", often)


def _ones(norms, bound, stability):
    return torch.ones_like(norms)


@contextmanager
def clipped_after_sum() -> Iterator[None]:
    """Clip the sum of a micro-batch to R, in place of each sample's gradient."""
    backward = PrivacyEngine.backward

    def summing(self, losses, mask=None):
        with patch.object(self._clipper, "_function", _ones):
            norms = backward(self, losses, mask)
        total = torch.sqrt(sum(p.grad.square().sum() for p in self.names))
        factor = min(1.0, float(self.mechanism.clip_norm / total))
        for param in self.names:
            param.grad *= factor
        self._gradients.take_over()
        return norms

    with patch.object(PrivacyEngine, "backward", summing):
        yield


Bug = Callable[[], AbstractContextManager[object]]

# Those that the audit is built to find, and one size of each; digits_cnn's shapes.
BUGS: dict[str, Bug] = {
    "noise too small by a factor of 1.5": lambda: noise_scaled(1 / 1.5),
    "noise too small by a factor of 4": lambda: noise_scaled(1 / 4),
    "clipping skipped": clipping_skipped,
    "normaliser is the drawn batch size": normaliser_drawn,
    "noise reused over two updates": lambda: noise_reused(2),
    "noise reused at every update": lambda: noise_reused(10**9),
    "noise split over micro-batches": noise_split,
    "same noise for tensors of one shape": noise_same_for_tensors,
    "conv.weight missing from the norm": lambda: missing_from_norm((16, 1, 3, 3)),
    "conv.bias missing from the norm": lambda: missing_from_norm((16,)),
    "head.weight missing from the norm": lambda: missing_from_norm((10, 256)),
    "head.bias missing from the norm": lambda: missing_from_norm((10,)),
    "samples that are not finite are kept": nonfinite_kept,
    "the sum clipped, not each gradient": clipped_after_sum,
    "sampled twice as often as said": lambda: sampled_more_often(2.0),
}
