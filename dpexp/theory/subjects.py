"""What is studied: networks and data small enough that every kernel is had exactly, in float64."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from dpexp.data.builtin import open_digits

LossName = Literal["cross entropy", "squared"]


@dataclass(frozen=True)
class Subject:
    """A network's shape, samples and a loss.

    Attributes:
        name: In words.
        build: Returns the network, at torch's own random weights.
        inputs: Shape (n, ...), float64.
        targets: Class of each sample, shape (n,), or its K wanted outputs, shape (n, K).
        loss: Cross entropy in nats, or half the squared distance; of one sample.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Tensor
    targets: Tensor
    loss: LossName

    def losses(self, outputs: Tensor) -> Tensor:
        """Return the loss of each sample, shape (n,), from outputs of shape (n, K)."""
        if self.loss == "cross entropy":
            return cross_entropy(outputs, self.targets, reduction="none")
        return 0.5 * (outputs - self.targets).square().sum(1)

    def network(self, seed: int, scale: float = 1.0) -> nn.Module:
        """Return the network in float64, weights drawn from `seed` and times `scale`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.build().double()
        with torch.no_grad():
            for param in model.parameters():
                param.mul_(scale)
        return model


def mlp(inputs: int, hidden: tuple[int, ...], outputs: int, act: type[nn.Module]) -> nn.Sequential:
    """Return linear layers with an activation between them."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    widths = (inputs, *hidden)
    for i, (width, next_width) in enumerate(zip(widths, hidden, strict=False), start=1):
        layers[f"fc{i}"] = nn.Linear(width, next_width)
        layers[f"act{i}"] = act()
    layers["head"] = nn.Linear(widths[-1], outputs)
    return nn.Sequential(layers)


def cnn(outputs: int) -> nn.Sequential:
    """Return two tanh convolutions and a linear layer, for grey 8x8 images; 1,186 parameters."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 4, 3, padding=1),
            act1=nn.Tanh(),
            pool1=nn.AvgPool2d(2),
            conv2=nn.Conv2d(4, 8, 3, padding=1),
            act2=nn.Tanh(),
            pool2=nn.AvgPool2d(2),
            flatten=nn.Flatten(),
            head=nn.Linear(8 * 2 * 2, outputs),
        )
    )


@cache
def digits(part: Literal["train", "test"] = "train") -> tuple[Tensor, Tensor]:
    """Return scikit-learn's digits in [0, 1], shape (N, 1, 8, 8), float64, and their classes."""
    source = open_digits()
    images = source.train if part == "train" else source.test
    rows = torch.arange(len(images.labels))
    return images.read(rows, image_size=8, channels=1).double(), images.labels


def regression(num: int, features: int, outputs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return standard normal inputs, and a random smooth function of them with noise."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(num, features)
    y = torch.sin(x @ normal(features, outputs)) + 0.5 * normal(num, outputs)
    return x, y


def skewed_regression(num: int, features: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return standard normal inputs, and log-normal targets of mean 0 and variance 1.

    Most lie a little below their mean and few far above it, as incomes and prices do.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, features, generator=generator, dtype=torch.float64)
    y = (1.5 * torch.randn(num, 1, generator=generator, dtype=torch.float64)).exp()
    return x, (y - y.mean()) / y.std(correction=0)


@cache
def all_subjects() -> tuple[Subject, ...]:
    """Return the six subjects: three networks, real digits and made-up regression, two losses."""
    images, labels = digits()
    x1, y1 = regression(64, 5, 1, seed=1)
    x3, y3 = regression(32, 6, 3, seed=2)
    xs, ys = skewed_regression(48, 6, seed=3)
    return (
        Subject(
            "MLP (tanh), 24 digits, cross entropy",
            lambda: mlp(64, (12,), 10, nn.Tanh), images[:24], labels[:24], "cross entropy",
        ),
        Subject(
            "CNN (tanh), 16 digits, cross entropy",
            lambda: cnn(10), images[24:40], labels[24:40], "cross entropy",
        ),
        Subject(
            "CNN (tanh), 16 digits, squared loss",
            lambda: cnn(10), images[40:56], one_hot(labels[40:56], 10).double(), "squared",
        ),
        Subject(
            "MLP (tanh), regression on 64 samples, squared loss",
            lambda: mlp(5, (24, 16), 1, nn.Tanh), x1, y1, "squared",
        ),
        Subject(
            "MLP (ReLU), regression on 32 samples with 3 outputs, squared loss",
            lambda: mlp(6, (32, 16), 3, nn.ReLU), x3, y3, "squared",
        ),
        Subject(
            "MLP (tanh), skewed regression on 48 samples, squared loss",
            lambda: mlp(6, (32, 16), 1, nn.Tanh), xs, ys, "squared",
        ),
    )  # fmt: skip


@cache
def digits_with_test() -> tuple[Subject, Tensor, Tensor]:
    """Return an MLP on 64 digits less their mean image, and all test images with their classes."""
    images, labels = digits()
    held, classes = digits("test")
    mean = images.mean(0)
    subject = Subject(
        "MLP (tanh), 64 digits, cross entropy",
        lambda: mlp(64, (8,), 10, nn.Tanh), images[:64] - mean, labels[:64], "cross entropy",
    )  # fmt: skip
    return subject, held - mean, classes
