"""The configuration of a run: typed, checked at once, and free of torch and of Hydra.

Every number has a unit or a range beside it. `null` means "not given", and each such key says what
then holds. The command line fills these; no function below it reads anything else.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal

from dpexp.errors import ConfigError
from dpexp.schema import choice_problems

Algorithm = Literal["auto", "mixed_ghost", "ghost", "fastgradclip", "instantiate", "nonprivate"]
Function = Literal["abadi", "global", "autos", "autov", "psac"]
Style = Literal["flat", "layerwise", "blockwise", "paramwise"]
Split = Literal["equal", "per_group"]
Plan = Literal["balanced", "time", "memory", "paper"]
Sampling = Literal["poisson", "truncated_poisson", "balls_and_bins"]

EMBEDDED = ("digits", "diabetes", "fake")  # data sets that are read from no folder

# What a number must be, and in words.
Range = tuple[Callable[[Any], bool], str]
_POSITIVE: Range = (lambda x: 0 < x < math.inf, "finite and above 0")
_NOT_NEGATIVE: Range = (lambda x: 0 <= x < math.inf, "finite and at least 0")
RANGES: dict[str, Range] = {
    "clipping.norm": _POSITIVE,
    "clipping.tail_norm": _POSITIVE,
    "clipping.tail_lr": _POSITIVE,
    "clipping.tail_steps": (lambda x: x >= 1, "at least 1 step"),
    "clipping.stability": _POSITIVE,
    "clipping.workspace_mib": _POSITIVE,
    "optimizer.lr": _POSITIVE,
    "optimizer.momentum": (lambda x: 0 <= x < 1, "in [0, 1)"),
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.betas": (
        lambda x: len(x) == 2 and all(0 <= beta < 1 for beta in x),
        "two numbers in [0, 1)",
    ),
    "optimizer.adam_eps": _POSITIVE,
    "schedule.warmup_steps": _NOT_NEGATIVE,
    "schedule.final_factor": (lambda x: 0 <= x <= 1, "in [0, 1]"),
    "dataset.validation": (lambda x: 0 <= x < math.inf, "a fraction below 1, or a count"),
    "dataset.num_train": (lambda x: x >= 1, "at least 1"),
    "dataset.num_classes": (lambda x: x >= 1, "at least 1"),
    "dataset.image_size": (lambda x: x >= 1, "at least 1 pixel"),
    "model.image_size": (lambda x: x >= 1, "at least 1 pixel"),
    "epochs": _POSITIVE,
    "steps": _POSITIVE,
    "batch_limit": (lambda x: x >= 1, "at least 1 sample"),
    "micro_batch": _POSITIVE,
    "evaluate_every": _POSITIVE,
    "evaluate_samples": _POSITIVE,
    "checkpoint_every": _POSITIVE,
    "seed": _NOT_NEGATIVE,
}


@dataclass
class ModelConfig:
    """Which network, from which weights, and which of its parameters train."""

    name: str = "digits_cnn"  # any timm name, or one of ours
    pretrained: bool = False  # download (or find in the cache) the weights timm pins for the name
    checkpoint: str | None = None  # file with a state dict; excludes pretrained
    image_size: int | None = None  # pixels a side; null: the weights' or the model's own
    trainable: str = "all"  # all | head | bias | comma-separated name patterns
    norm: Literal["groupnorm", "keep"] = "groupnorm"  # what becomes of BatchNorm


@dataclass
class DatasetConfig:
    """Which images, where they lie, and what is public about them."""

    name: str = "digits"
    root: str | None = None  # folder; null: data/ under the working directory, for downloads
    validation: float = 0.0  # below 1 a fraction, else a count, held out of training before N
    num_train: int | None = None  # public, before validation; null: known or counted
    image_size: int | None = None  # pixels a side; null: the model's own
    channels: int | None = None  # 1 or 3; null: the model's own
    num_classes: int | None = None  # null: the data set's own
    mean: list[float] | None = None  # per channel, of pixels in [0, 1]; null: the weights' or 0.5
    std: list[float] | None = None
    download: bool = True  # only data sets that torchvision knows


@dataclass
class NoiseConfig:
    """Where the noise comes from."""

    secure: bool = False  # true draws from the operating system; false is seeded, for research


@dataclass
class ClippingConfig:
    """How a sample's gradient is bounded."""

    norm: float = 1.0  # R, gradient units; > 0
    style: Style = "flat"
    function: Function = "abadi"
    algorithm: Algorithm = "auto"
    split: Split = "equal"  # equal: norm is the total R; per_group: norm is each group's bound
    stability: float = 0.01  # gamma of autos, r of psac; gradient units, > 0
    plan: Plan = "balanced"  # which way auto takes each norm; time keeps more in memory
    workspace_mib: float = 256.0  # MiB a norm may use at once; > 0
    tail_norm: float | None = None  # norm of the last steps; noise follows, epsilon stays
    tail_steps: int | None = None  # how many steps that is; with tail_norm
    tail_lr: float | None = None  # learning rate of those steps; null: as before


@dataclass
class OptimizerConfig:
    """The update that is made from the noisy gradient."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 1.0  # > 0
    momentum: float = 0.0  # sgd only; [0, 1)
    weight_decay: float = 0.0  # >= 0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # adam, adamw
    adam_eps: float = 1e-8  # adam, adamw


@dataclass
class ScheduleConfig:
    """The learning rate over steps, as a factor of optimizer.lr."""

    name: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = 0  # linear, from 0; >= 0
    final_factor: float = 0.0  # where cosine ends; [0, 1]


@dataclass
class WandbConfig:
    """The mirror on Weights & Biases. WANDB_MODE, when set, wins over mode."""

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "dpexp"
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass
class TrainConfig:
    """Everything that defines a run, and where it goes."""

    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    clipping: ClippingConfig = field(default_factory=ClippingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    eps: float | None = 4.0  # target; inf clips without noise; excludes noise_multiplier
    delta: float = 1e-5  # (0, 1/N)
    noise_multiplier: float | None = None  # sigma, in place of eps
    dp: bool = True  # off: ordinary training, same loader, same steps
    protocol: Literal["valid", "published"] = "valid"
    sampling: Sampling = "poisson"  # within protocol=valid: how a step's batch is drawn
    batch_limit: int | None = None  # samples; truncated_poisson only; null: hardly ever reached

    epochs: float | None = 40.0  # expected passes; steps = round(epochs N / B); excludes steps
    steps: int | None = None  # K, optimizer updates
    batch: int = 512  # B, samples; a public constant; q = B / N
    micro_batch: int | None = None  # samples held in memory at once; null: chosen, result the same

    evaluate_every: int | None = None  # steps; null: ten times a run of at least ten steps
    evaluate_samples: int | None = None  # of the test set; null: all, but 10 K B in a short run
    checkpoint_every: int | None = None  # steps; null: ten times a run
    seed: int = 0
    device: str = "auto"  # auto | cpu | cuda | cuda:<n>
    precision: Literal["float32", "bf16"] = "float32"
    compile: bool = False
    output: str = "outputs"  # folder that run folders go into
    resume: str | None = None  # a run folder to go on with


def check(config: TrainConfig) -> None:
    """Check every range and every pair of keys that needs no data to be judged.

    Raises:
        ConfigError: If anything is wrong; lists all problems at once.
    """
    problems = [
        *choice_problems(config),
        *_training_problems(config),
        *_privacy_problems(config),
        *_part_problems(config),
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def claims_epsilon(config: TrainConfig) -> bool:
    """Return whether noise is to hide a sample's share: a false bound on it is a false epsilon."""
    sigma = config.noise_multiplier
    return config.dp and (config.eps != math.inf if sigma is None else sigma != 0)


def size_problems(config: TrainConfig, num_train: int) -> list[str]:
    """Return what is wrong with delta and batch, one sentence each, once N is known.

    Args:
        config: Past `check`.
        num_train: N, samples that train; validation is already held out.
    """
    problems = []
    if config.dp and 1 > config.delta >= 1 / num_train:
        problems.append(
            f"delta={config.delta}: publishing one of the N = {num_train} samples outright would "
            f"meet that delta, so it promises nothing; give a delta below 1/N = {1 / num_train:.2g}"
        )
    if config.batch > num_train:
        problems.append(
            f"batch={config.batch}: larger than the training set of N = {num_train}, but each step "
            f"includes a sample with probability batch / N; give at most {num_train}"
        )
    return problems


def _privacy_problems(config: TrainConfig) -> list[str]:
    problems = []
    if config.eps is not None and not config.eps > 0:
        problems.append(
            f"eps={config.eps}: epsilon bounds the privacy loss and must be above 0; "
            f"eps=inf clips without noise"
        )
    if not 0 < config.delta < 1:
        problems.append(f"delta={config.delta}: delta is a probability and must be in (0, 1)")
    if config.noise_multiplier is not None:
        if config.eps is not None and config.dp:
            problems.append(
                f"eps={config.eps} and noise_multiplier={config.noise_multiplier}: one follows "
                f"from the other; give eps=null with noise_multiplier, or leave it out"
            )
        if not (math.isfinite(config.noise_multiplier) and config.noise_multiplier >= 0):
            problems.append(
                f"noise_multiplier={config.noise_multiplier}: sigma must be finite and at least 0"
            )
    elif config.eps is None and config.dp:
        problems.append("eps=null: give a target eps, or a noise_multiplier in its place")
    if claims_epsilon(config) and config.clipping.algorithm == "nonprivate":
        problems.append(
            "clipping.algorithm=nonprivate: nothing is clipped, so noise bounds no sample's share "
            "and any epsilon would be false; use dp=off for ordinary training, or eps=inf"
        )
    if config.sampling != "poisson" and not config.dp:
        problems.append(
            f"sampling={config.sampling} with dp=off: ordinary training takes Poisson batches, so "
            f"that it can stand beside a private run; leave sampling out"
        )
    if config.noise.secure and config.protocol == "published":
        problems.append(
            "noise.secure=true with protocol=published: shuffled batches carry no guarantee that "
            "secure noise could protect; use protocol=valid"
        )
    return problems + _sampling_problems(config)


def _sampling_problems(config: TrainConfig) -> list[str]:
    problems = []
    if config.sampling != "poisson" and config.protocol == "published":
        problems.append(
            f"sampling={config.sampling} with protocol=published: the papers shuffle, and their "
            f"numbers are for that; use protocol=valid, or leave sampling out"
        )
    if config.batch_limit is not None and config.sampling != "truncated_poisson":
        problems.append(
            f"batch_limit={config.batch_limit} with sampling={config.sampling}: dropping samples "
            f"of a draw changes epsilon, and only sampling=truncated_poisson is accounted so; use "
            f"that, or leave batch_limit out (micro_batch bounds the memory at no cost)"
        )
    if config.noise.secure and config.sampling == "balls_and_bins":
        problems.append(
            "noise.secure=true with sampling=balls_and_bins: where each sample goes must be drawn "
            "again at every step of an epoch, which only a seed can; use sampling=poisson or "
            "truncated_poisson"
        )
    return problems


def _training_problems(config: TrainConfig) -> list[str]:
    problems = []
    if (config.epochs is None) == (config.steps is None):
        problems.append(
            f"epochs={config.epochs} and steps={config.steps}: give exactly one of the two "
            f"(set the other to null)"
        )
    if config.batch < 1:
        problems.append(f"batch={config.batch}: the expected batch size must be at least 1 sample")
    return problems


def _part_problems(config: TrainConfig) -> list[str]:
    clipping, optimizer, dataset = config.clipping, config.optimizer, config.dataset
    values = {key: attrgetter(key)(config) for key in RANGES}
    problems = [
        f"{key}={values[key]}: must be {words}"
        for key, (is_right, words) in RANGES.items()
        if values[key] is not None and not is_right(values[key])
    ]
    if optimizer.momentum and optimizer.name != "sgd":
        problems.append(
            f"optimizer.momentum={optimizer.momentum} with optimizer={optimizer.name}: only sgd "
            f"has momentum; use optimizer.betas"
        )
    if (clipping.tail_norm is None) != (clipping.tail_steps is None):
        problems.append(
            f"clipping.tail_norm={clipping.tail_norm} and clipping.tail_steps="
            f"{clipping.tail_steps}: the clip norm of the last steps, and how many they are, say "
            f"something only together; give both or neither"
        )
    if clipping.tail_lr is not None and clipping.tail_norm is None:
        problems.append(
            f"clipping.tail_lr={clipping.tail_lr}: there is no tail for it to be the learning rate "
            f"of; give clipping.tail_norm and clipping.tail_steps, or use a schedule"
        )
    if clipping.style != "flat" and clipping.algorithm not in ("auto", "instantiate"):
        problems.append(
            f"clipping.algorithm={clipping.algorithm} with clipping.style={clipping.style}: its "
            f"second backward pass weights each loss once, so it can only clip flat; use auto or "
            f"instantiate"
        )
    if dataset.root is not None and dataset.name in EMBEDDED:
        problems.append(
            f"dataset.root={dataset.root} with dataset={dataset.name}: these data come with the "
            f"program and are read from no folder; leave it out, or choose a data set that is on "
            f"disk"
        )
    if config.model.checkpoint and config.model.pretrained:
        problems.append(
            f"model.pretrained=true and model.checkpoint={config.model.checkpoint}: two sources "
            f"of weights; give one"
        )
    return problems
