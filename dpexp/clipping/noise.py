"""Gaussian noise: seeded for research, or from the operating system for release."""

import math
import os
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class NoiseSource(Protocol):
    """Draws standard normal noise."""

    def normal(self, like: Tensor) -> Tensor:
        """Return independent standard normal numbers of the shape and device of `like`."""
        ...


class SeededNoise:
    """Noise of a torch generator: known to whoever knows its seed. Not for release."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def normal(self, like: Tensor) -> Tensor:
        """Return noise drawn on the generator's own device, whatever that of `like`."""
        noise = torch.randn(
            like.shape, generator=self.generator, device=self.generator.device, dtype=_wide(like)
        )
        return noise.to(like.device)


class StepNoise:
    """Pseudo-random noise of which every step's draw follows from a 64-bit seed of its own.

    Not torch's generator: on the CPU it keeps 32 bits of a seed, and in a long run two of 2^32
    would meet, so that one draw would hide two different gradients.
    """

    def __init__(self, seed: int) -> None:
        """Start with the step of this seed."""
        self.start(seed)

    def start(self, seed: int) -> None:
        """Draw what follows from `seed` from here on."""
        self._generator = np.random.Generator(np.random.Philox(seed))

    def normal(self, like: Tensor) -> Tensor:
        """Return noise drawn on the CPU, so that it is the same for any device."""
        dtype = np.float64 if like.dtype == torch.float64 else np.float32
        drawn = self._generator.standard_normal(like.numel(), dtype)
        return torch.from_numpy(drawn).view(like.shape).to(like.device)


class SecureNoise:
    """Noise from the operating system's randomness, by the Box-Muller transform in float64.

    Nobody can repeat it. It does not cover attacks on the gaps of floating-point numbers
    (Mironov 2012): the noise is a rounded Gaussian.
    """

    def normal(self, like: Tensor) -> Tensor:
        """Return noise that no seed can bring back."""
        pairs = math.ceil(like.numel() / 2)
        words = np.frombuffer(os.urandom(16 * pairs), dtype=np.uint64).reshape(2, pairs)
        # 53 random bits each, shifted off 0, where the logarithm has no value.
        uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        radius, angle = np.sqrt(-2 * np.log(uniform[0])), 2 * np.pi * uniform[1]
        normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[: like.numel()]
        return torch.from_numpy(normal).view(like.shape).to(like.device, _wide(like))


def _wide(like: Tensor) -> torch.dtype:
    return torch.float64 if like.dtype == torch.float64 else torch.float32
