"""What is audited: the real network with its canaries, engine, optimizer and training step."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from dpexp.audit.canaries import HUGE, CanaryNetwork
from dpexp.audit.subsampled import Family
from dpexp.clipping.noise import SecureNoise, StepNoise
from dpexp.clipping.styles import group_bound, group_names
from dpexp.config import TrainConfig
from dpexp.data.splits import Splits
from dpexp.errors import ConfigError
from dpexp.mechanism import Mechanism
from dpexp.models.build import BuiltModel
from dpexp.sampling import derive_seed, draw, micro_batches
from dpexp.train.job import (
    autocast_of,
    build_engine,
    load_model_and_data,
    pick_device,
    sensitivity_of,
)
from dpexp.train.optimization import build_optimizer, lr_factor, set_lr
from dpexp.train.step import train_step

_MICRO_BATCH = 512
_BELOW = 1 - 1e-5  # of the bound, for a function that drops what is above it


@dataclass(frozen=True)
class Materials:
    """A model and data, loaded once for all audits.

    Attributes:
        config: The run.
        built: The model, never trained itself.
        splits: The data.
        device: Where copies of the model go.
    """

    config: TrainConfig
    built: BuiltModel
    splits: Splits
    device: torch.device

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels and pixels a side, twice."""
        return (self.built.channels, self.built.image_size, self.built.image_size)

    @property
    def num_pixels(self) -> int:
        """Numbers in one image."""
        return self.built.channels * self.built.image_size**2

    def images(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return training images and labels."""
        return self.splits.train.batch(rows)


def load_materials(config: TrainConfig, announce: Callable[[str], None]) -> Materials:
    """Load model and data.

    Raises:
        DpexpError: If either is missing or wrong.
    """
    device = pick_device(config.device)
    built, splits = load_model_and_data(config, announce)
    if len(splits.class_names) < 2:
        raise ConfigError(
            "the data have one class, so every loss is zero and no canary has a gradient; audit "
            "with data of at least two classes"
        )
    return Materials(config, built, splits, device)


class Subject:
    """A copy of the model with an engine of its own, and the steps that it takes.

    What an attacker sees of a step is the gradient that the optimizer was given, times B: the noisy
    sum. The canary table has learning rate zero.

    Attributes:
        model: The network with its canaries, in train mode.
        mechanism: sigma, R, q, K and B.
        share: What a canary's gradient is clipped to, over R; below 1 where the style has groups.
        factor: b of a canary whose gradient is clipped to the bound.
        trials_done: Steps that were runs of their own.
    """

    def __init__(
        self, materials: Materials, *, sigma: float, rate: float, steps: int, batch: float,
        canaries: int, purpose: str,
    ) -> None:  # fmt: skip
        config = materials.config
        self.config, self._device, self._purpose = config, materials.device, purpose
        network = copy.deepcopy(materials.built.module)
        self.model = CanaryNetwork(network, canaries, materials.image_shape).to(self._device)
        self.model.train()
        self.mechanism = Mechanism(
            noise_multiplier=sigma,
            clip_norm=sensitivity_of(self.model, config),
            sampling_rate=rate,
            num_steps=steps,
            expected_batch_size=batch,
        )
        self.optimizer = self._optimizer()
        self.trials_done = 0
        self._noise = SecureNoise() if config.noise.secure else StepNoise(config.seed)
        self._engine = build_engine(
            self.config, self.model, self.optimizer, self.mechanism, self._noise
        )
        names = [name for name, p in self.model.named_parameters() if p.requires_grad]
        groups = len(group_names(names, config.clipping.style))
        bound = group_bound(self.mechanism.clip_norm, groups, "equal")
        self.share = bound / self.mechanism.clip_norm
        # |gradient| = |b| (1 - 1 / classes) at logits of zero.
        classes = len(materials.splits.class_names)
        is_dropping = config.clipping.function == "global"
        self.factor = bound * _BELOW / (1 - 1 / classes) if is_dropping else HUGE

    @property
    def family(self) -> Family:
        """The mechanism as claimed, for what follows from it."""
        mechanism = self.mechanism
        return Family(mechanism.noise_multiplier, mechanism.sampling_rate, mechanism.num_steps)

    @property
    def noise_std(self) -> float:
        """Noise on the sum, in gradient units."""
        return self.mechanism.noise_std

    def draw(self, num_records: int, step: int) -> Tensor:
        """Return the positions that a step includes, by the mechanism's own sampler."""
        secure = self.config.noise.secure
        return torch.from_numpy(
            draw(self.mechanism, num_records, self._seed("draw"), step, secure=secure)
        )

    def step(self, records: Tensor, labels: Tensor, step: int, *, is_frozen: bool = False) -> None:
        """Take one step on a batch, as training does.

        Args:
            records: Shape (n, 3 + pixels); n may be 0.
            labels: Shape (n,).
            step: Noise and dropout follow from it and the seed.
            is_frozen: Whether the weights stay as they are, also if the sum is not finite.
        """
        before = [p.detach().clone() for p in self.model.parameters()] if is_frozen else []
        if isinstance(self._noise, StepNoise):
            self._noise.start(derive_seed(self.config.seed, f"noise, {self._purpose}", step))
        torch.manual_seed(self._seed("dropout", step))
        config = self.config
        factor = lr_factor(config.schedule, step, self.mechanism.num_steps)
        set_lr(self.optimizer, config.optimizer.lr * factor)
        self.optimizer.param_groups[-1]["lr"] = 0.0

        def pieces() -> Iterator[tuple[Tensor, Tensor]]:
            size = config.micro_batch or _MICRO_BATCH
            for rows in micro_batches(torch.arange(len(labels)).numpy(), size):
                yield records[rows].to(self._device), labels[rows].to(self._device)

        train_step(
            self.model,
            self.optimizer,
            self._engine,
            pieces(),
            expected_batch_size=self.mechanism.expected_batch_size,
            autocast=autocast_of(config.precision, self._device),
        )
        with torch.no_grad():
            for param, old in zip(self.model.parameters(), before, strict=False):
                param.copy_(old)

    def noisy_sum(self, param: Tensor) -> Tensor:
        """Return what the optimizer was given for a parameter, times B; float64, flat."""
        assert param.grad is not None
        grad = param.grad.detach().flatten().to("cpu", torch.float64)
        return grad * self.mechanism.expected_batch_size

    def _seed(self, purpose: str, step: int = 0) -> int:
        return derive_seed(self.config.seed, f"{purpose}, {self._purpose}", step)

    def _optimizer(self) -> Optimizer:
        trainable = [p for p in self.model.network.parameters() if p.requires_grad]
        optimizer = build_optimizer(self.config.optimizer, trainable)
        table = [self.model.table.weight, self.model.blank]
        optimizer.add_param_group({"params": table, "lr": 0.0, "weight_decay": 0.0})
        return optimizer
