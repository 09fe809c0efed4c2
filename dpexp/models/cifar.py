"""ResNets and VGGs for 32x32 images: the family that is measured on CIFAR-10.

They are written with BatchNorm, as in ordinary training; `surgery.py` replaces it.

Source: He et al. 2016, arXiv:1512.03385, and Simonyan & Zisserman 2015, arXiv:1409.1556, with a
3x3 stem and a single linear head; the sizes are those of Bu, Mao & Xu 2022, arXiv:2205.10683.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from dpexp.models.small import Network

# Convolutions in each of the five stages; a stage ends with a 2x2 pooling.
VGG_DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
VGG_WIDTHS = (64, 128, 256, 512, 512)

# Blocks in each of the four stages, and whether a block is a bottleneck.
RESNET_DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
BOTTLENECK_EXPANSION = 4


def vgg(depth: int, *, num_classes: int, channels: int) -> Network:
    """Return a VGG whose head is one linear layer on 512 features (32x32 images leave 1x1)."""
    layers: list[nn.Module] = []
    width = channels
    for num_convolutions, next_width in zip(VGG_DEPTHS[depth], VGG_WIDTHS, strict=True):
        for _ in range(num_convolutions):
            layers += [
                nn.Conv2d(width, next_width, 3, padding=1),
                nn.BatchNorm2d(next_width),
                nn.ReLU(),
            ]
            width = next_width
        layers.append(nn.MaxPool2d(2))
    return _with_head(nn.Sequential(*layers), width, num_classes)


def resnet(depth: int, *, num_classes: int, channels: int) -> Network:
    """Return a ResNet whose stem is one 3x3 convolution without pooling."""
    num_blocks, is_bottleneck = RESNET_DEPTHS[depth]
    layers: list[nn.Module] = [*_conv_norm(channels, 64, 3), nn.ReLU()]
    width = 64
    for stage, count in enumerate(num_blocks):
        for block in range(count):
            stride = 2 if stage and not block else 1
            residual = Residual(width, 64 * 2**stage, stride=stride, is_bottleneck=is_bottleneck)
            layers.append(residual)
            width = residual.width_out
    return _with_head(nn.Sequential(*layers), width, num_classes)


class Residual(nn.Module):
    """relu(branch(x) + shortcut(x)): two 3x3 convolutions, or a 1x1, 3x3, 1x1 bottleneck."""

    def __init__(self, width_in: int, width: int, *, stride: int, is_bottleneck: bool) -> None:
        super().__init__()
        self.width_out = width * BOTTLENECK_EXPANSION if is_bottleneck else width
        if is_bottleneck:
            self.branch = nn.Sequential(
                *_conv_norm(width_in, width, 1),
                nn.ReLU(),
                *_conv_norm(width, width, 3, stride),
                nn.ReLU(),
                *_conv_norm(width, self.width_out, 1),
            )
        else:
            self.branch = nn.Sequential(
                *_conv_norm(width_in, width, 3, stride), nn.ReLU(), *_conv_norm(width, width, 3)
            )
        is_same_shape = stride == 1 and width_in == self.width_out
        self.shortcut = nn.Sequential(
            *([] if is_same_shape else _conv_norm(width_in, self.width_out, 1, stride))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, shape (n, width_out, h / stride, w / stride)."""
        return functional.relu(self.branch(x) + self.shortcut(x))


def _conv_norm(width_in: int, width_out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(width_in, width_out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(width_out),
    ]


def _with_head(features: nn.Sequential, width: int, num_classes: int) -> Network:
    network = Network()
    network.add_module("features", features)
    network.add_module("pool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("head", nn.Linear(width, num_classes))
    return network


CIFAR_NETWORKS: dict[str, Callable[..., Network]] = {
    **{f"vgg{depth}_cifar": partial(vgg, depth) for depth in VGG_DEPTHS},
    **{f"resnet{depth}_cifar": partial(resnet, depth) for depth in RESNET_DEPTHS},
}
