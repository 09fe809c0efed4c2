"""Neighbouring batches that an adversary would choose, and small networks to hold them against.

A batch is inputs and the weights of its samples' losses: a weight makes a gradient as large as one
likes, or not finite, whatever the input. Neighbours differ in one sample, added or removed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from reference.gradients import randomise_
from torch import Tensor, nn
from torch.nn import functional as F

# What a loss is multiplied by, and what an image is; None leaves the input alone.
SCALES = [1e-8, 1e-4, 1.0, 1e4, 1e8]
NOT_FINITE = [math.nan, math.inf, -math.inf]


@dataclass
class Batch:
    """Inputs, first axis the samples; the weight of each sample's loss, shape (n,)."""

    x: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.weights)

    def rows(self, rows: list[int]) -> "Batch":
        return Batch(self.x[rows], self.weights[rows])

    def without(self, row: int) -> "Batch":
        return self.rows([i for i in range(len(self)) if i != row])


class Convolutions(nn.Module):
    """Convolutions with a stride and with groups, group normalisation, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).tanh()
        return self.head(self.depthwise(x).tanh().mean((2, 3)))


class Attention(nn.Module):
    """Patches, a class token, positions, one block with a scale of its own, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, 4, 3, stride=3)
        self.token = nn.Parameter(torch.empty(1, 1, 4))
        self.position = nn.Parameter(torch.empty(1, 5, 4))
        self.blocks = nn.ModuleList([nn.ModuleList([nn.LayerNorm(4), nn.Linear(4, 12)])])
        self.scale = nn.Parameter(torch.empty(4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        norm, projection = self.blocks[0]
        q, k, v = projection(norm(x)).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head((x + self.scale * y).mean(1))


class TiedText(nn.Module):
    """An embedding whose table is also the weight of the head, and a layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.fc = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.table(x)
        return self.head(self.fc(self.fc(x).tanh()).mean(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": Convolutions,
    "attention": Attention,
    "tied text": TiedText,
}


def network(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Every parameter random, the same at each call."""
    return randomise_(NETWORKS[name]()).to(dtype)


def losses(model: nn.Module, batch: Batch) -> Tensor:
    """One loss a sample, of its weight."""
    y = model(batch.x)
    return batch.weights.to(y.dtype) * (y.sin() * torch.linspace(1, 2, y.shape[1])).sum(1)


def inputs(name: str, count: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random images of 6x6, or sentences of five words."""
    generator = torch.Generator().manual_seed(seed)
    if name == "tied text":
        return torch.randint(0, 7, (count, 5), generator=generator)
    return torch.randn(count, 2, 6, 6, generator=generator, dtype=torch.float64).to(dtype)


def ordinary(name: str, count: int, seed: int, dtype: torch.dtype = torch.float64) -> Batch:
    return Batch(inputs(name, count, seed, dtype), torch.ones(count, dtype=torch.float64))


def adversarial(name: str, seed: int = 1, dtype: torch.dtype = torch.float64) -> Batch:
    """An ordinary sample, every scale of a loss and of an image, and what is not finite in each."""
    generator = torch.Generator().manual_seed(seed)
    rows, weights = [1.0], [1.0, *SCALES, *NOT_FINITE]
    if name != "tied text":  # words have no scale
        rows = [1.0] * len(weights) + SCALES + NOT_FINITE
        weights += [1.0] * (len(SCALES) + len(NOT_FINITE))
    batch = Batch(inputs(name, len(weights), seed, dtype), torch.tensor(weights).double())
    jitter = 10 ** (torch.rand(len(weights), generator=generator).double() - 0.5)
    batch.weights *= jitter * (torch.randint(0, 2, (len(weights),), generator=generator) * 2 - 1)
    for x, scale in zip(batch.x, rows, strict=False):
        if not math.isfinite(scale):
            x[1, 2, 3] = scale  # one pixel
        elif scale != 1.0:
            x *= scale
    return batch


def finite(batch: Batch) -> list[bool]:
    """Which samples and weights are finite."""
    return (batch.weights.isfinite() & batch.x.flatten(1).isfinite().all(1)).tolist()


def length(sums: dict[str, Tensor]) -> float:
    """The norm over all parameters, added up in float64."""
    return math.sqrt(math.fsum(float(g.double().square().sum()) for g in sums.values()))


def difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: g.double() - second[name].double() for name, g in first.items()}
