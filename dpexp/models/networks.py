"""The networks of this package, by name, as they are before anything is changed in them."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from dpexp.config import ModelConfig
from dpexp.errors import ModelError
from dpexp.models.cifar import CIFAR_NETWORKS
from dpexp.models.small import cifar_cnn, cifar_cnn4, digits_cnn, mlp, mnist_cnn

NEUTRAL = 0.5  # mean and std of pixels in [0, 1] that no data were looked at for


@dataclass(frozen=True)
class Blank:
    """A network before its norms are replaced and its parameters chosen.

    Attributes:
        module: The network.
        name: As in BuiltModel.
        weights: As in BuiltModel.
        image_size: As in BuiltModel.
        channels: As in BuiltModel.
        mean: As in BuiltModel.
        std: As in BuiltModel.
        notes: As in BuiltModel.
    """

    module: nn.Module
    name: str
    weights: str
    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class OwnNetwork:
    """A network of this package.

    Attributes:
        make: From num_classes and channels to the network.
        image_size: Pixels a side that it is meant for.
        channels: Of the images that it is meant for.
        is_fixed: Whether it takes no other image size.
    """

    make: Callable[..., nn.Module]
    image_size: int
    channels: int
    is_fixed: bool = True


OWN_NETWORKS = {
    "digits_cnn": OwnNetwork(digits_cnn, image_size=8, channels=1),
    "mnist_cnn": OwnNetwork(mnist_cnn, image_size=28, channels=1),
    "cifar_cnn": OwnNetwork(cifar_cnn, image_size=32, channels=3),
    "cifar_cnn4": OwnNetwork(cifar_cnn4, image_size=32, channels=3),
    "mlp": OwnNetwork(mlp, image_size=1, channels=10),
    **{
        name: OwnNetwork(make, image_size=32, channels=3, is_fixed=False)
        for name, make in CIFAR_NETWORKS.items()
    },
}


def own_network(
    config: ModelConfig, *, num_classes: int, channels: int | None, image_size: int | None
) -> Blank:
    """Return one of our own networks."""
    network = OWN_NETWORKS[config.name]
    if config.pretrained:
        raise ModelError(
            f"model.name={config.name}: there are no pretrained weights for it; set "
            f"model.pretrained=false, or give model.checkpoint=<file>"
        )
    size = image_size or network.image_size
    if network.is_fixed and size != network.image_size:
        raise ModelError(
            f"model.image_size={size}: {config.name} takes {network.image_size}x"
            f"{network.image_size} images only, as its linear layer fits no other; leave "
            f"model.image_size and dataset.image_size null, and images are resized to it"
        )
    channels = channels or network.channels
    module = network.make(num_classes=num_classes, channels=channels)
    neutral = (NEUTRAL,) * channels
    return Blank(module, config.name, "", size, channels, neutral, neutral)
