"""Logits whose right temperature is known."""

import torch
from torch import Tensor


def sample(
    num_samples: int = 3000, num_classes: int = 5, temperature: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Logits and labels; dividing the logits by `temperature` makes them calibrated."""
    generator = torch.Generator().manual_seed(seed)
    right = 2 * torch.randn(num_samples, num_classes, generator=generator).double()
    labels = torch.multinomial(right.softmax(1), 1, generator=generator)[:, 0]
    return right * temperature, labels
