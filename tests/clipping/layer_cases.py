"""Layers, each in the settings in which its rule takes another branch."""

from collections.abc import Callable
from typing import Any

import torch
from rule_case import Apply, Case, frozen
from timm.layers import (
    GroupNorm1,
    GroupNormAct,
    LayerNorm2d,
    LayerNormAct2d,
    RmsNorm,
    RmsNorm2d,
    SimpleNorm,
)
from torch import Tensor, nn
from torch.nn import functional as F


class Windows(nn.Module):
    """A linear layer on windows folded into the first axis, samples outermost, as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        y = self.fc(x.reshape(n, 2, 2, 5, 3).flatten(0, 1))
        return y.reshape(n, 2, 2, 5, 4)


class SamplesOnAxis(nn.Module):
    """A layer that sees the samples on another axis than the first."""

    def __init__(self, layer: nn.Module, axis: int) -> None:
        super().__init__()
        self.layer, self.axis = layer, axis

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.movedim(0, self.axis)).movedim(self.axis, 0)


class Frames(nn.Module):
    """A layer on the frames of a video, folded into the first axis, samples outermost."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class ChannelsLast(nn.Module):
    """A layer whose inputs and output gradients lie in memory with the channels last."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x.contiguous(memory_format=torch.channels_last))
        return y.permute(0, 2, 3, 1).contiguous()


LINEAR = {
    "linear-vector": Case(lambda: nn.Linear(5, 3), (5,), "linear"),  # one position
    "linear-two-positions": Case(lambda: nn.Linear(5, 3), (2, 5), "linear"),
    "linear-sequence": Case(lambda: nn.Linear(5, 3), (4, 5), "linear"),
    "linear-long": Case(lambda: nn.Linear(3, 2), (131, 3), "linear"),  # halved Gram matrices
    "linear-image": Case(lambda: nn.Linear(6, 4), (3, 2, 6), "linear"),
    "linear-video": Case(lambda: nn.Linear(3, 4), (2, 3, 2, 3), "linear"),
    "linear-no-bias": Case(lambda: nn.Linear(5, 3, bias=False), (4, 5), "linear"),
    "linear-bias-alone": Case(
        lambda: frozen(nn.Linear(5, 3), "weight"), (4, 5), "linear", is_bias_alone=True
    ),
    "linear-weight-alone": Case(lambda: frozen(nn.Linear(5, 3), "bias"), (4, 5), "linear"),
    "linear-windows": Case(Windows, (2, 10, 3), "linear"),  # several rows a sample
    "linear-samples-second": Case(lambda: SamplesOnAxis(nn.Linear(5, 3), 1), (4, 5), "linear"),
}


def convolution(dims: int, *args: Any, transposed: bool = False, **kwargs: Any) -> Callable:
    name = f"Conv{'Transpose' * transposed}{dims}d"
    return lambda: getattr(nn, name)(*args, **kwargs)


CONVOLUTION = {
    "conv1d": Case(convolution(1, 4, 6, 3), (4, 7), "conv1d"),
    "conv1d-long": Case(convolution(1, 2, 3, 3, stride=2), (2, 203), "conv1d"),
    "conv1d-stride-dilation": Case(
        convolution(1, 2, 3, 3, stride=2, dilation=2, padding=2), (2, 9), "conv1d"
    ),
    "conv2d": Case(convolution(2, 3, 4, 3), (3, 5, 6), "conv2d"),
    "conv2d-pointwise": Case(convolution(2, 5, 4, 1), (5, 3, 3), "conv2d"),
    "conv2d-patches": Case(convolution(2, 3, 8, 4, stride=4), (3, 8, 8), "conv2d"),
    "conv2d-no-bias": Case(convolution(2, 3, 4, 3, bias=False), (3, 5, 5), "conv2d"),
    "conv2d-bias-alone": Case(
        lambda: frozen(nn.Conv2d(3, 4, 3), "weight"), (3, 5, 5), "conv2d", is_bias_alone=True
    ),
    "conv2d-weight-alone": Case(lambda: frozen(nn.Conv2d(3, 4, 3), "bias"), (3, 5, 5), "conv2d"),
    # Every pixel is visited, by more or less padding than keeps the size.
    "conv2d-padded": Case(convolution(2, 2, 3, 3, padding=2), (2, 4, 3), "conv2d"),
    "conv2d-kernel-of-the-image": Case(convolution(2, 2, 3, 3, padding=1), (2, 1, 2), "conv2d"),
    # Some offsets of the kernel meet padding alone, wherever it lies.
    "conv2d-wider-than-the-image": Case(
        convolution(2, 2, 3, 3, dilation=2, padding=2), (2, 1, 2), "conv2d"
    ),
    "conv1d-wider-than-the-image": Case(
        convolution(1, 2, 3, 5, stride=2, padding=3), (2, 2), "conv1d"
    ),
    "conv2d-dilated": Case(convolution(2, 2, 3, 3, dilation=2, padding=1), (2, 6, 5), "conv2d"),
    "conv2d-oblong": Case(
        convolution(2, 2, 3, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2)),
        (2, 7, 6),
        "conv2d",
    ),
    "conv2d-stride-leaves-rest": Case(convolution(2, 2, 3, 3, stride=2), (2, 6, 6), "conv2d"),
    "conv2d-groups": Case(convolution(2, 4, 6, 3, groups=2, padding=1), (4, 5, 5), "conv2d"),
    "conv2d-depthwise": Case(convolution(2, 4, 4, 3, groups=4), (4, 5, 5), "conv2d"),
    "conv2d-depth-multiplier": Case(convolution(2, 3, 6, 3, groups=3), (3, 5, 5), "conv2d"),
    "conv2d-reflect": Case(
        convolution(2, 2, 3, 3, padding=1, padding_mode="reflect"), (2, 5, 5), "conv2d"
    ),
    "conv2d-circular": Case(
        convolution(2, 2, 3, 3, padding=1, padding_mode="circular"), (2, 5, 5), "conv2d"
    ),
    "conv2d-replicate": Case(
        convolution(2, 2, 3, 3, padding=1, padding_mode="replicate"), (2, 5, 5), "conv2d"
    ),
    "conv2d-same": Case(convolution(2, 2, 3, 3, padding="same"), (2, 5, 5), "conv2d"),
    "conv2d-valid": Case(convolution(2, 2, 3, 3, padding="valid"), (2, 5, 5), "conv2d"),
    # Padded on one side more than on the other, so not by the rule but the general way.
    "conv2d-same-even": Case(convolution(2, 2, 3, 2, padding="same"), (2, 5, 5), "conv2d general"),
    "conv2d-dense-oblong": Case(
        convolution(2, 2, 3, (3, 2), padding=(2, 1), dilation=(1, 2)), (2, 5, 4), "conv2d"
    ),
    # More than 64 positions, so that Gram matrices are also halved.
    "conv2d-long-groups": Case(convolution(2, 4, 6, 3, groups=2, padding=1), (4, 9, 8), "conv2d"),
    "conv2d-depthwise-strided": Case(
        convolution(2, 4, 4, 3, groups=4, stride=(2, 1), dilation=(1, 2), padding=(1, 2)),
        (4, 6, 5),
        "conv2d",
    ),
    "conv2d-frames": Case(lambda: Frames(nn.Conv2d(2, 3, 3, padding=1)), (3, 2, 4, 5), "conv2d"),
    "conv2d-frames-groups": Case(
        lambda: Frames(nn.Conv2d(4, 6, 3, groups=2, stride=2)), (3, 4, 5, 6), "conv2d"
    ),
    "conv2d-frames-depthwise": Case(
        lambda: Frames(nn.Conv2d(3, 3, 3, groups=3)), (2, 3, 5, 4), "conv2d"
    ),
    "conv2d-channels-last": Case(
        lambda: ChannelsLast(nn.Conv2d(3, 4, 3, stride=2, padding=1)),
        (3, 9, 8),
        "conv2d",
        has_vmap=False,
    ),
    "conv2d-dense-channels-last": Case(
        lambda: ChannelsLast(nn.Conv2d(3, 4, 3, padding=1)), (3, 9, 8), "conv2d", has_vmap=False
    ),
    "conv2d-depthwise-channels-last": Case(
        lambda: ChannelsLast(nn.Conv2d(4, 4, 3, groups=4, padding=1)),
        (4, 5, 6),
        "conv2d",
        has_vmap=False,
    ),
    "conv3d": Case(convolution(3, 2, 3, 2, stride=(1, 2, 1)), (2, 3, 4, 3), "conv3d"),
    "conv3d-groups": Case(convolution(3, 4, 4, 2, groups=2, padding=1), (4, 2, 3, 2), "conv3d"),
}

TRANSPOSED = {
    "transposed1d": Case(
        convolution(1, 3, 4, 3, transposed=True, stride=2), (3, 5), "conv_transpose1d"
    ),
    "transposed2d": Case(convolution(2, 3, 4, 3, transposed=True), (3, 4, 4), "conv_transpose2d"),
    "transposed2d-output-padding": Case(
        convolution(2, 2, 3, 3, transposed=True, stride=2, padding=1, output_padding=1),
        (2, 4, 3),
        "conv_transpose2d",
    ),
    "transposed2d-groups": Case(
        convolution(2, 4, 6, 2, transposed=True, groups=2, stride=2), (4, 3, 3), "conv_transpose2d"
    ),
    "transposed2d-dilation": Case(
        convolution(2, 2, 3, 3, transposed=True, dilation=2, bias=False),
        (2, 4, 4),
        "conv_transpose2d",
    ),
    "transposed2d-frames": Case(
        lambda: Frames(nn.ConvTranspose2d(2, 3, 3, stride=2)), (3, 2, 3, 2), "conv_transpose2d"
    ),
    "transposed3d": Case(
        convolution(3, 2, 2, 2, transposed=True, stride=2, groups=2),
        (2, 2, 3, 2),
        "conv_transpose3d",
    ),
}


def by_statistics(layer: nn.Module) -> nn.Module:
    """The layer in eval mode, with statistics that are not 0 and 1."""
    generator = torch.Generator().manual_seed(2)
    layer.running_mean.copy_(torch.randn(layer.running_mean.shape, generator=generator))
    layer.running_var.copy_(torch.rand(layer.running_var.shape, generator=generator) + 0.5)
    return layer.eval()


NORMALIZATION = {
    "layer_norm-vector": Case(lambda: nn.LayerNorm(5), (5,), "layer_norm"),
    "layer_norm-sequence": Case(lambda: nn.LayerNorm(5), (4, 5), "layer_norm"),
    "layer_norm-two-axes": Case(lambda: nn.LayerNorm((3, 5)), (2, 3, 5), "layer_norm"),
    "layer_norm-no-bias": Case(lambda: nn.LayerNorm(5, bias=False), (4, 5), "layer_norm"),
    "layer_norm-bias-alone": Case(lambda: frozen(nn.LayerNorm(5), "weight"), (4, 5), "layer_norm"),
    "layer_norm-samples-third": Case(
        lambda: SamplesOnAxis(nn.LayerNorm(5), 2), (4, 3, 5), "layer_norm"
    ),
    "group_norm-vector": Case(lambda: nn.GroupNorm(2, 6), (6,), "group_norm"),
    "group_norm-image": Case(lambda: nn.GroupNorm(2, 6), (6, 3, 4), "group_norm"),
    "group_norm-volume": Case(lambda: nn.GroupNorm(3, 6), (6, 2, 3, 2), "group_norm"),
    "group_norm-weight-alone": Case(
        lambda: frozen(nn.GroupNorm(2, 6), "bias"), (6, 3, 4), "group_norm"
    ),
    "group_norm-frames": Case(lambda: Frames(nn.GroupNorm(2, 6)), (3, 6, 2, 2), "group_norm"),
    "layer_norm-frames": Case(lambda: Frames(nn.LayerNorm(5)), (3, 2, 5), "layer_norm"),
    "instance_norm-1d": Case(lambda: nn.InstanceNorm1d(3, affine=True), (3, 6), "add multiply"),
    "instance_norm-2d": Case(lambda: nn.InstanceNorm2d(3, affine=True), (3, 4, 4), "add multiply"),
    "instance_norm-3d": Case(
        lambda: nn.InstanceNorm3d(2, affine=True), (2, 2, 3, 2), "add multiply"
    ),
    "batch_norm-eval": Case(lambda: by_statistics(nn.BatchNorm2d(3)), (3, 4, 4), "add multiply"),
    "rms_norm": Case(lambda: nn.RMSNorm(5), (4, 5), "multiply"),
    "rms_norm-eps": Case(lambda: nn.RMSNorm(5, eps=0.5), (4, 5), "multiply"),
    "timm-RmsNorm": Case(lambda: RmsNorm(5), (4, 5), "multiply"),
    "timm-RmsNorm2d": Case(lambda: RmsNorm2d(5), (5, 3, 3), "multiply"),
    "timm-SimpleNorm": Case(lambda: SimpleNorm(5), (4, 5), "multiply"),
    "timm-LayerNorm2d": Case(lambda: LayerNorm2d(5), (5, 3, 3), "layer_norm"),
    "timm-LayerNormAct2d": Case(lambda: LayerNormAct2d(5), (5, 3, 3), "layer_norm"),
    "timm-GroupNorm1": Case(lambda: GroupNorm1(5), (5, 3, 3), "group_norm"),
    "timm-GroupNormAct": Case(
        lambda: GroupNormAct(4, num_groups=2, inplace=False), (4, 3, 3), "group_norm"
    ),
}

EMBEDDING = {
    # More positions than rows, so some rows are taken twice.
    "embedding-repeated": Case(lambda: nn.Embedding(4, 3), (7,), "embedding", tokens=4),
    "embedding-grid": Case(lambda: nn.Embedding(9, 3), (2, 3), "embedding", tokens=9),
    "embedding-samples-second": Case(
        lambda: SamplesOnAxis(nn.Embedding(4, 3), 1), (7,), "embedding", tokens=4
    ),
    "embedding-32-bit": Case(
        lambda: Apply(lambda x, w: F.embedding(x.int(), w), w=(4, 3)), (7,), "embedding", tokens=4
    ),
    "embedding-bag": Case(
        lambda: Apply(lambda x, w: F.embedding_bag(x, w, mode="mean"), w=(4, 3)),
        (7,),
        "embedding_bag general",
        tokens=4,
    ),
    "embedding-frames": Case(lambda: Frames(nn.Embedding(4, 3)), (2, 5), "embedding", tokens=4),
    "embedding-padding": Case(
        lambda: nn.Embedding(4, 3, padding_idx=1), (7,), "embedding", tokens=4
    ),
    # nn.Embedding counts from the front before it calls the function.
    "embedding-padding-from-end": Case(
        lambda: Apply(lambda x, w: F.embedding(x, w, padding_idx=-1), w=(4, 3)),
        (7,),
        "embedding",
        tokens=4,
    ),
}

LAYERS = {**LINEAR, **CONVOLUTION, **TRANSPOSED, **NORMALIZATION, **EMBEDDING}
