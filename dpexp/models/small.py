"""Networks small enough to train on a CPU."""

from collections import OrderedDict

from torch import nn


class Network(nn.Sequential):
    """Named layers in a row, the classifier last."""

    def get_classifier(self) -> nn.Module:
        """Return the last layer, under the name that timm's models use."""
        return self[-1]


def digits_cnn(*, num_classes: int, channels: int) -> Network:
    """Return one tanh convolution and a linear classifier, for 8x8 images; 2,730 parameters.

    Few parameters, because the norm of the noise grows with the root of their number. Bounded
    activations, normalised per sample without scale or shift, keep per-sample gradients alike, so
    that one clip norm suits all of them.

    Source: Papernot et al. 2021, arXiv:2007.14191 (tempered sigmoids), for tanh.
    """
    return _network(
        conv=nn.Conv2d(channels, 16, 3, padding=1),
        act=nn.Tanh(),
        pool=nn.MaxPool2d(2),
        norm=nn.GroupNorm(1, 16, affine=False),
        flatten=nn.Flatten(),
        head=nn.Linear(16 * 4 * 4, num_classes),
    )


def mnist_cnn(*, num_classes: int, channels: int) -> Network:
    """Return the network of the DP MNIST example, for 28x28 images; 26,010 parameters.

    Source: Bu et al. 2023, arXiv:2106.07830, the MNIST experiment; the layers are those of the
    example in the same authors' code base.
    """
    return _network(
        conv1=nn.Conv2d(channels, 16, 8, stride=2, padding=3),
        act1=nn.ReLU(),
        pool1=nn.MaxPool2d(2, stride=1),
        conv2=nn.Conv2d(16, 32, 4, stride=2),
        act2=nn.ReLU(),
        pool2=nn.MaxPool2d(2, stride=1),
        flatten=nn.Flatten(),
        fc=nn.Linear(32 * 4 * 4, 32),
        act3=nn.ReLU(),
        head=nn.Linear(32, num_classes),
    )


def cifar_cnn(*, num_classes: int, channels: int) -> Network:
    """Return six tanh convolutions and two linear layers, for 32x32 images; 550,570 parameters.

    Source: the size is that of the small network in Bu, Mao & Xu 2022, arXiv:2205.10683, Table 4;
    layers and tanh are those of Papernot et al. 2021, arXiv:2007.14191.
    """
    layers: dict[str, nn.Module] = {}
    width = channels
    for stage, next_width in enumerate((32, 64, 128), start=1):
        for name in ("a", "b"):
            layers[f"conv{stage}{name}"] = nn.Conv2d(width, next_width, 3, padding=1)
            layers[f"act{stage}{name}"] = nn.Tanh()
            width = next_width
        layers[f"pool{stage}"] = nn.MaxPool2d(2)
    return _network(
        **layers,
        flatten=nn.Flatten(),
        fc=nn.Linear(128 * 4 * 4, 128),
        act=nn.Tanh(),
        head=nn.Linear(128, num_classes),
    )


def cifar_cnn4(*, num_classes: int, channels: int) -> Network:
    """Return four ReLU convolutions and a linear classifier, for 32x32 images; 131,466 parameters.

    Source: Bu et al. 2021, arXiv:2106.07830v3, the CIFAR-10 experiment ("4-layer CNN"). Which one
    is not said; these are the layers of the CIFAR-10 example in the same authors' code base.
    """
    layers: dict[str, nn.Module] = {}
    width = channels
    for stage, next_width in enumerate((32, 64, 64, 128), start=1):
        layers[f"conv{stage}"] = nn.Conv2d(width, next_width, 3, padding=1)
        layers[f"act{stage}"] = nn.ReLU()
        layers[f"pool{stage}"] = nn.AvgPool2d(2) if stage < 4 else nn.AdaptiveAvgPool2d(1)
        width = next_width
    return _network(**layers, flatten=nn.Flatten(), head=nn.Linear(width, num_classes))


def mlp(*, num_classes: int, channels: int) -> Network:
    """Return one hidden layer of 32 tanh units, for rows of a table; 385 parameters for 10 columns.

    A row comes as an image of one pixel, a channel for each column. Tanh for the reason given in
    `digits_cnn`. A network for regression has one class: its output is the scaled target.
    """
    return _network(
        flatten=nn.Flatten(),
        fc=nn.Linear(channels, 32),
        act=nn.Tanh(),
        head=nn.Linear(32, num_classes),
    )


def _network(**layers: nn.Module) -> Network:
    return Network(OrderedDict(layers))
