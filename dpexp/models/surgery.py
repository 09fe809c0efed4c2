"""What is changed in a network before it can be trained per sample, and what was changed."""

from collections.abc import Iterator

from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d, GroupNormAct
from timm.layers.norm_act import FrozenBatchNorm2d as TimmFrozenBatchNorm2d
from timm.layers.norm_act import SyncBatchNormAct
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d

from dpexp.errors import ModelError

MAX_GROUPS = 32
FROZEN = (FrozenBatchNorm2d, TimmFrozenBatchNorm2d, FrozenBatchNormAct2d)
PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def replace_batch_norms(module: nn.Module) -> dict[str, str]:
    """Replace every BatchNorm in `module` by a GroupNorm, in place; return which: name to class.

    BatchNorm mixes the samples of a batch, so per-sample gradients would not exist. Scale and
    shift carry over, as does a fused activation; running statistics are dropped. A BatchNorm that
    is frozen is a fixed map of each sample alone, and stays.

    Raises:
        ModelError: If one does more than normalise and activate, or is the network itself.
    """
    replaced = {}
    for name, norm in list(module.named_modules()):
        if isinstance(norm, _BatchNorm):
            parent_name, _, child_name = name.rpartition(".")
            setattr(module.get_submodule(parent_name), child_name, _group_norm(norm, name))
            replaced[name] = type(norm).__name__
    return replaced


def batch_norms(module: nn.Module) -> list[str]:
    """Return the names of the layers that mix samples: every BatchNorm that is not frozen."""
    return [name for name, norm in module.named_modules() if isinstance(norm, _BatchNorm)]


def frozen_batch_norms(module: nn.Module) -> list[str]:
    """Return the names of the BatchNorms that are fixed maps of each sample alone."""
    return [name for name, norm in module.named_modules() if isinstance(norm, FROZEN)]


def num_groups(num_channels: int) -> int:
    """Return how many groups a GroupNorm takes: the largest divisor of the channels up to 32.

    At least two channels a group, because a group of one normalises a 1x1 feature map to zero;
    a prime number of channels makes one group.
    """
    most = min(MAX_GROUPS, num_channels // 2)
    return next((n for n in range(most, 1, -1) if num_channels % n == 0), 1)


def _group_norm(norm: _BatchNorm, name: str) -> nn.GroupNorm:
    """Return the GroupNorm that takes the place of `norm`, with its scale and shift."""
    groups, channels = num_groups(norm.num_features), norm.num_features
    replacement: nn.GroupNorm
    if type(norm) in PLAIN:
        replacement = nn.GroupNorm(groups, channels, eps=norm.eps, affine=norm.affine)
    elif isinstance(norm, BatchNormAct2d | SyncBatchNormAct):
        activated = GroupNormAct(channels, groups, eps=norm.eps, affine=norm.affine)
        activated.drop, activated.act = norm.drop, norm.act  # type: ignore[assignment]
        replacement = activated
    else:
        raise ModelError(
            f"{name or 'the network'} ({type(norm).__name__}): a BatchNorm of a kind that no rule "
            f"replaces; it mixes samples, so there would be no per-sample gradients; use another "
            f"network, or model.norm=keep for training without privacy"
        )
    if norm.affine:
        replacement.weight, replacement.bias = norm.weight, norm.bias
    return replacement.train(norm.training)


def switch_off_inplace(module: nn.Module) -> int:
    """Make every activation and dropout return a new tensor; return how many were changed.

    The engine reads a layer's output after the fact, and an in-place layer would overwrite it.
    """
    count = 0
    for part in _inplace_parts(module):
        part.inplace = False  # type: ignore[assignment]
        count += 1
    return count


def _inplace_parts(module: nn.Module) -> Iterator[nn.Module]:
    return (part for part in module.modules() if getattr(part, "inplace", False) is True)
