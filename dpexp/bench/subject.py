"""One model, one batch, and the steps that are measured on them."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dpexp.clipping.engine import PrivacyEngine
from dpexp.config import Algorithm, Style, TrainConfig
from dpexp.memory import keep_freed_memory
from dpexp.models.build import BuiltModel, build
from dpexp.train.job import autocast_of, pick_device

NUM_CLASSES = 10

# Takes one step, or a part of one.
Work = Callable[[], object]


@dataclass(frozen=True)
class Subject:
    """One model and one batch of random images, the same for everything that is measured.

    Attributes:
        config: What was asked for.
        built: The model with what is known of it; on the device, in train mode, never watched.
        device: Where all of it is.
        images: Shape (n, channels, height, width).
        labels: Shape (n,).
    """

    config: TrainConfig
    built: BuiltModel
    device: torch.device
    images: Tensor
    labels: Tensor

    @property
    def model(self) -> nn.Module:
        return self.built.module

    @property
    def batch(self) -> int:
        """Samples."""
        return len(self.images)

    @property
    def title(self) -> str:
        """What is measured, in a line."""
        size = "x".join(map(str, self.images.shape[1:]))
        return (
            f"{self.built.name}, {self.built.num_trainable:,} of {self.built.num_params:,} "
            f"parameters, {self.batch} images of {size}, {self.config.precision}"
        )

    def resized(self, batch: int) -> Self:
        """Return the same with another batch, of the same images over again."""
        rows = torch.arange(batch, device=self.device) % self.batch
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def losses(self, model: nn.Module) -> Tensor:
        """Return the losses of the images, summed over a model's classifiers."""
        with autocast_of(self.config.precision, self.device):
            outputs = model(self.images)
        heads = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        each = [cross_entropy(y.float(), self.labels, reduction="none") for y in heads]
        return torch.stack(each).sum(0)

    def ordinary_step(self) -> Work:
        """Return forward and backward pass of ordinary training."""

        def step() -> None:
            self.model.zero_grad(set_to_none=True)
            self.losses(self.model).mean().backward()

        return step

    @contextmanager
    def clipped_step(
        self, algorithm: Algorithm, style: Style
    ) -> Iterator[tuple[Work, PrivacyEngine]]:
        """Yield the same with an engine, on a copy of the model, and that engine.

        Its first call proves what it relies on and measures a plan: call it before measuring.
        """
        model, clipping = copy.deepcopy(self.model), self.config.clipping
        model.zero_grad(set_to_none=True)
        engine = PrivacyEngine(
            model,
            clip_norm=clipping.norm,
            style=style,
            function=clipping.function,
            algorithm=algorithm,
            split=clipping.split,
            stability=clipping.stability,
            plan=clipping.plan,
            workspace_mib=clipping.workspace_mib,
        )

        def step() -> None:
            model.zero_grad(set_to_none=True)
            engine.backward(self.losses(model))

        try:
            yield step, engine
        finally:
            engine.detach()


def prepare(config: TrainConfig) -> Subject:
    """Build the model that `config` names, with random weights, and random images for it.

    Raises:
        ConfigError: If there is no such device.
        ModelError: If there is no such model, or it does not take images of that size.
    """
    keep_freed_memory()  # as training does, for the ordinary step too
    device = pick_device(config.device)
    built = build(config.model, num_classes=NUM_CLASSES, seed=config.seed)
    built.module.to(device)
    generator = torch.Generator().manual_seed(config.seed)
    shape = (config.batch, built.channels, built.image_size, built.image_size)
    images = torch.randn(shape, generator=generator)
    labels = torch.arange(config.batch) % NUM_CLASSES
    return Subject(config, built, device, images.to(device), labels.to(device))
