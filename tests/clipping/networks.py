"""Small networks, and the engine's clipped sums on them against a per-sample loop."""

import torch
from reference.clip import clipped_sum
from reference.gradients import Losses, by_loop, norms, randomise_, trainable, weighted_outputs
from torch import Tensor, nn
from torch.testing import assert_close

from dpexp.clipping.engine import PrivacyEngine

EXACT = {"rtol": 1e-10, "atol": 1e-11}


class Block(nn.Module):
    """A residual block: normalisation, a pointwise layer, and a scale of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.fc(self.norm(x)).tanh()


class Network(nn.Module):
    """A network of 8x8 images: patches, a class token, positions, two blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 4, stride=4)
        self.token = nn.Parameter(torch.empty(1, 1, 6))
        self.position = nn.Parameter(torch.empty(1, 5, 6))
        self.blocks = nn.ModuleList([Block(6), Block(6)])
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def network() -> nn.Module:
    return randomise_(Network().double())


def images(n: int, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 8, 8, generator=generator, dtype=torch.float64)


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in trainable(model).items()}


def check_clipping(
    model: nn.Module, x: Tensor, losses: Losses = weighted_outputs, **options: object
) -> None:
    """Compare norms and clipped sums with the loop, the bound at the median norm."""
    grads = by_loop(model, x, losses)
    size = norms(grads)
    bound = float(size.median())
    assert 0 < (size > bound).sum() < len(size), "one branch of the clip is not taken"
    engine = PrivacyEngine(model, clip_norm=bound, **options)
    assert_close(engine.backward(losses(model(x))), size, **EXACT)
    expected = clipped_sum(grads, [list(grads)], [bound], "abadi", 0.0)
    assert_close(gradients_of(model), expected, **EXACT)
    engine.detach()
