"""A job: the model, data, mechanism and engine that a configuration asks for, ready to run."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dpexp.clipping.clipper import TWO_PASSES
from dpexp.clipping.engine import PrivacyEngine
from dpexp.clipping.noise import SecureNoise, StepNoise
from dpexp.clipping.styles import group_names, total_bound
from dpexp.config import TrainConfig, claims_epsilon
from dpexp.data.public import TABLE_NETWORKS, num_columns, table_problems
from dpexp.data.splits import Split, Splits, load, num_outputs
from dpexp.errors import ConfigError
from dpexp.mechanism import Mechanism
from dpexp.memory import keep_freed_memory
from dpexp.models.build import BuiltModel, build
from dpexp.sampling import derive_seed
from dpexp.train.deal import Deal, make_deal
from dpexp.train.evaluate import some_of
from dpexp.train.optimization import build_optimizer
from dpexp.train.task import Task, task_of

# What a micro-batch chosen by us may hold for the backward pass.
_ACTIVATION_BYTES = 2 * 2**30
_MOST_SAMPLES = 512
_LONG_SECONDS = 0.2
_PROVING_SAMPLES = 3


@dataclass(frozen=True)
class Job:
    """Everything a run needs.

    Attributes:
        config: The configuration.
        built: The model and what was decided about it.
        splits: The data.
        deal: Steps, noise and guarantee.
        device: Where the model is.
        optimizer: Over the trainable parameters.
        engine: None for ordinary training.
        noise: Draws the noise and nothing else.
        micro_batch: Samples held in memory at once.
        seconds_a_sample: Rough cost of one sample's forward and backward pass, in seconds.
        attempt: Which stream of randomness the steps use; above 0 where steps that an earlier
            process has taken are taken again, and would come out differently.
    """

    config: TrainConfig
    built: BuiltModel
    splits: Splits
    deal: Deal
    device: torch.device
    optimizer: Optimizer
    engine: PrivacyEngine | None
    noise: StepNoise | SecureNoise
    micro_batch: int
    seconds_a_sample: float
    attempt: int = 0

    @property
    def seed(self) -> int:
        """What every draw of a step follows from."""
        seed = self.config.seed
        return derive_seed(seed, "attempt", self.attempt) if self.attempt else seed

    @property
    def task(self) -> Task:
        """What the labels of the data ask for."""
        return task_of(self.splits.train)

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self.built.module

    @property
    def test(self) -> Split:
        """What the run is measured on at its end.

        All of the test set; but a run of few steps, which has seen fewer samples than a tenth of
        it, looks at ten times what it has seen, so that a trial ends when its training does.
        """
        seen = self.deal.num_steps * self.config.batch
        return some_of(self.splits.test, self.config.evaluate_samples or max(256, 10 * seen))

    def autocast(self) -> AbstractContextManager:
        """Return what the forward pass runs under."""
        return autocast_of(self.config.precision, self.device)

    def seed_noise(self, step: int) -> None:
        """Make the noise of a step follow from seed, attempt and step; not when it is secure."""
        if isinstance(self.noise, StepNoise):
            self.noise.start(derive_seed(self.seed, "noise", step))


def autocast_of(precision: str, device: torch.device) -> AbstractContextManager:
    """Return what a forward pass of this precision runs under; may be entered many times."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def prepare(
    config: TrainConfig, announce: Callable[[str], None], sigma: float | None = None
) -> Job:
    """Build everything that `config` asks for, checking it all before the first step.

    Args:
        config: Its ranges checked.
        announce: Told of downloads before they start.
        sigma: As for `make_deal`.

    Raises:
        DpexpError: If anything is missing, wrong or does not fit.
    """
    if config.compile:
        raise ConfigError(
            "compile=true: the engine watches each operation as it runs, which compiled code does "
            "not show; use compile=false"
        )
    _refuse_rounded_bounds(config)
    keep_freed_memory()
    device = pick_device(config.device)
    built, splits = load_model_and_data(config, announce)
    model = built.module.to(device)
    deal = make_deal(config, splits.num_train, sensitivity_of(model, config), sigma)
    optimizer = build_optimizer(
        config.optimizer, (p for p in model.parameters() if p.requires_grad)
    )
    noise = SecureNoise() if config.noise.secure else StepNoise(config.seed)
    needed, seconds = cost_of_one(model, splits, device)
    chosen = max(1, min(_MOST_SAMPLES, int(_ACTIVATION_BYTES / max(1, needed))))
    mechanism = deal.mechanism
    engine = build_engine(config, model, optimizer, mechanism, noise) if mechanism else None
    job = Job(
        config=config,
        built=built,
        splits=splits,
        deal=deal,
        device=device,
        optimizer=optimizer,
        engine=engine,
        noise=noise,
        micro_batch=config.micro_batch or chosen,
        seconds_a_sample=seconds,
    )
    prove(job)
    return job


def _refuse_rounded_bounds(config: TrainConfig) -> None:
    algorithm = config.clipping.algorithm
    is_rounded = config.precision == "bf16" and algorithm in TWO_PASSES
    if is_rounded and claims_epsilon(config) and config.protocol == "valid":
        raise ConfigError(
            f"precision=bf16 with clipping.algorithm={algorithm}: its second backward pass rounds "
            f"each weighted gradient anew, so a sample's share can pass R by a bfloat16 rounding "
            f"and epsilon would not hold; use clipping.algorithm=auto, or precision=float32"
        )


def prove(job: Job) -> None:
    """Clip a few samples and throw the result away, so that a model is refused before the run.

    Raises:
        UncoveredParameterError: If a trainable parameter gets past the engine.
        CrossSampleError: If the model mixes samples.
    """
    if job.engine is None:
        return
    count = min(_PROVING_SAMPLES, job.micro_batch, len(job.splits.train))
    images, labels = job.splits.train.batch(list(range(count)))
    with torch.random.fork_rng([job.device] if job.device.type == "cuda" else []):
        with job.autocast():
            outputs = job.model(images.to(job.device))
        losses = job.task.loss(outputs.float(), labels.to(job.device))
        job.engine.rehearse(losses)


def load_model_and_data(
    config: TrainConfig, announce: Callable[[str], None]
) -> tuple[BuiltModel, Splits]:
    """Build the model for the data's classes, and open the data as the model takes them.

    Raises:
        ConfigError: If one is for tables and the other for images.
        DpexpError: If either is missing, wrong or does not fit.
    """
    check_kind(config)
    built = build(
        config.model,
        num_classes=num_outputs(config.dataset),
        channels=num_columns(config.dataset.name) or config.dataset.channels,
        image_size=config.dataset.image_size,
        seed=derive_seed(config.seed, "initialisation"),
        announce=announce,
    )
    splits = load(
        config.dataset,
        image_size=built.image_size,
        channels=built.channels,
        mean=built.mean,
        std=built.std,
        announce=announce,
    )
    return built, splits


def check_kind(config: TrainConfig) -> None:
    """Check that a network for tables is given a table, and no other network is.

    Raises:
        ConfigError: If not; names a network or data set that fits.
    """
    dataset, network = config.dataset, config.model.name
    if problems := table_problems(dataset, network):
        raise ConfigError("\n".join(problems))
    if network in TABLE_NETWORKS and num_columns(dataset.name) is None:
        raise ConfigError(
            f"model.name={network} with dataset={dataset.name}: that network takes rows of a table "
            f"(diabetes, california), and an image would be shrunk to one pixel; use another "
            f"model, such as model=digits_cnn"
        )


def sensitivity_of(model: nn.Module, config: TrainConfig) -> float:
    """Return R over all groups of the clipping style; gradient units."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    groups = group_names(names, config.clipping.style)
    return total_bound(config.clipping.norm, len(groups), config.clipping.split)


def build_engine(
    config: TrainConfig,
    model: nn.Module,
    optimizer: Optimizer,
    mechanism: Mechanism,
    noise: StepNoise | SecureNoise,
) -> PrivacyEngine:
    """Return the engine that clips as `config` says, with the noise of the mechanism."""
    clipping = config.clipping
    return PrivacyEngine(
        model,
        optimizer,
        mechanism=mechanism,
        style=clipping.style,
        function=clipping.function,
        algorithm=clipping.algorithm,
        stability=clipping.stability,
        plan=clipping.plan,
        workspace_mib=clipping.workspace_mib,
        generator=noise,
    )


def pick_device(name: str) -> torch.device:
    """Return the device that `device=` names.

    Raises:
        ConfigError: If there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device={name}: must be auto, cpu, cuda or cuda:<number>")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"device={name}: this machine has {count} CUDA devices; use device=cpu")
    return device


def cost_of_one(model: nn.Module, splits: Splits, device: torch.device) -> tuple[int, float]:
    """Return bytes kept for the backward pass, and seconds, of one sample; gradients discarded.

    Runs without the engine, before it is attached, and leaves the model and the random state as
    they were: in eval mode, so that statistics that a model keeps of its batches do not move. A
    small network is timed again on a few samples, where fixed costs weigh as in training.
    """
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    params = [p for p in model.parameters() if p.requires_grad]
    task = task_of(splits.train)

    def seconds_for(num_samples: int) -> float:
        images, labels = splits.train.batch(list(range(num_samples)))
        start = time.perf_counter()
        loss = task.loss(model(images.to(device)), labels.to(device)).mean()
        torch.autograd.grad(loss, params, allow_unused=True)
        return (time.perf_counter() - start) / num_samples

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        model.eval()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            seconds = seconds_for(1)
        # The gradient of the loss needs room beside the activations, hence twice.
        needed = 2 * sum(kept.values())
        if seconds < _LONG_SECONDS:
            seconds = seconds_for(min(32, len(splits.train)))
        model.train()
    return needed, seconds
