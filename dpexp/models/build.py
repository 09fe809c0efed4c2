"""Build a network by name: its weights, its norms, what trains, and what was done to it."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from dpexp.config import ModelConfig
from dpexp.errors import ModelError
from dpexp.models.checkpoint import load_checkpoint
from dpexp.models.networks import OWN_NETWORKS, Blank, own_network
from dpexp.models.surgery import (
    batch_norms,
    frozen_batch_norms,
    replace_batch_norms,
    switch_off_inplace,
)
from dpexp.models.timm_networks import timm_network
from dpexp.models.trainable import choose_trainable, shorten

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuiltModel:
    """A network that is ready to train, and everything that was decided about it.

    Attributes:
        module: The network, on the CPU, in float32, in train mode.
        name: What it is called: one of ours, or timm's architecture and tag.
        weights: Where the initial weights come from.
        image_size: Pixels a side that it takes.
        channels: 1 or 3.
        mean: To subtract from pixels in [0, 1]; one a channel. Never from the training data.
        std: To divide by after that; likewise.
        num_params: Of all parameters.
        num_trainable: Of those that train.
        replaced_norms: Name to class of every BatchNorm that a GroupNorm took the place of.
        notes: Lines to tell the user.
    """

    module: nn.Module
    name: str
    weights: str
    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_params: int
    num_trainable: int
    replaced_norms: dict[str, str]
    notes: tuple[str, ...]


def build(
    config: ModelConfig,
    *,
    num_classes: int,
    channels: int | None = None,
    image_size: int | None = None,
    seed: int,
    announce: Callable[[str], None] = logger.warning,
) -> BuiltModel:
    """Build the network that `config` names.

    Random weights follow from `seed` alone, and the global random state is left as it was.

    Args:
        config: Name, weights, norms and trainable parameters.
        num_classes: Outputs of the classifier.
        channels: Of the images; None for the network's own.
        image_size: Pixels a side that the data set asks for; None leaves it to `config`, and to
            the network's own if that says nothing either.
        seed: Of the initialisation.
        announce: Told of a download before it starts.

    Raises:
        ModelError: If the name is unknown, the weights out of reach or not fitting, the size not
            one that the network takes, or nothing would train.
    """
    if None not in (config.image_size, image_size) and config.image_size != image_size:
        raise ModelError(
            f"model.image_size={config.image_size} and dataset.image_size={image_size}: the "
            f"network takes what the data give; set one of them, or both alike"
        )
    size = config.image_size or image_size
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if config.name in OWN_NETWORKS:
            blank = own_network(config, num_classes=num_classes, channels=channels, image_size=size)
        else:
            options = {"num_classes": num_classes, "in_chans": channels}
            blank = timm_network(config, options, image_size=size, announce=announce)
    built = _finish(blank, config)
    if size is not None:
        _check_forward(built)
    return built


def _check_forward(built: BuiltModel) -> None:
    """Check that an image of the size asked for, which may not be the network's own, gets through.

    Raises:
        ModelError: If it does not.
    """
    size = built.image_size
    try:
        with torch.no_grad():
            built.module.eval()(torch.zeros(1, built.channels, size, size))
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{built.name} cannot take images of {size}x{size} pixels ({reason}); give a larger "
            f"model.image_size, or leave it and dataset.image_size null for the network's own"
        ) from error
    finally:
        built.module.train()


def _finish(blank: Blank, config: ModelConfig) -> BuiltModel:
    """Replace norms, load a checkpoint, choose what trains, and count."""
    module, weights = blank.module, blank.weights or "random"
    notes = [*blank.notes]
    replaced = {} if config.norm == "keep" else replace_batch_norms(module)
    notes += _norm_notes(module, replaced)
    if count := switch_off_inplace(module):
        notes.append(f"{count} in-place layers switched to return new tensors")
    if config.checkpoint is not None:
        notes += load_checkpoint(module, config.checkpoint, replaced_norms=replaced)
        weights = config.checkpoint
    notes += choose_trainable(module, config.trainable)
    params = list(module.parameters())
    return BuiltModel(
        module=module.train(),
        name=blank.name,
        weights=weights,
        image_size=blank.image_size,
        channels=blank.channels,
        mean=blank.mean,
        std=blank.std,
        num_params=sum(param.numel() for param in params),
        num_trainable=sum(param.numel() for param in params if param.requires_grad),
        replaced_norms=replaced,
        notes=tuple(notes),
    )


def _norm_notes(module: nn.Module, replaced: dict[str, str]) -> list[str]:
    notes = []
    if replaced:
        kinds = ", ".join(sorted(set(replaced.values())))
        notes.append(
            f"{len(replaced)} BatchNorm layers ({kinds}) replaced by GroupNorm, running "
            f"statistics dropped: {shorten(list(replaced))}"
        )
    if kept := batch_norms(module):
        notes.append(
            f"{len(kept)} BatchNorm layers kept: {shorten(kept)}; they mix samples, so training "
            f"with privacy will be refused"
        )
    if frozen := frozen_batch_norms(module):
        notes.append(f"{len(frozen)} frozen BatchNorm layers stay as they are: {shorten(frozen)}")
    return notes
