"""The deal: what a run will do and what guarantee it will have, settled before the first step."""

import math
from dataclasses import dataclass

from dpexp.accounting import gdp
from dpexp.accounting.bounds import Bounds, epsilon_bounds
from dpexp.accounting.calibrate import calibrate
from dpexp.accounting.spent import SpentTable, spent_table
from dpexp.config import TrainConfig, size_problems
from dpexp.errors import ConfigError
from dpexp.mechanism import Mechanism


@dataclass(frozen=True)
class Deal:
    """What a run does to the data, and what may be said about it.

    Attributes:
        mechanism: What sampler, step and accountant agree on; None for ordinary training.
        num_train: N.
        num_steps: K.
        sampling_rate: q = B / N.
        delta: Of the guarantee.
        target_epsilon: What was asked for; None where sigma was.
        bounds: Every accountant's epsilon of the whole run, had it been Poisson-sampled; None for
            ordinary training.
        spent: Epsilon after fewer steps; None without noise.
        guarantee: "valid", "seeded" (the same mechanism with noise that can be repeated: for
            research, not for release) or "none".
        reason: Why there is none, or what is missing.
    """

    mechanism: Mechanism | None
    num_train: int
    num_steps: int
    sampling_rate: float
    delta: float
    target_epsilon: float | None
    bounds: Bounds | None
    spent: SpentTable | None
    guarantee: str
    reason: str

    @property
    def adjacency(self) -> str:
        """Which two data sets the bound compares."""
        if self.mechanism is not None and self.mechanism.sampler == "shuffle":
            # Taking one out for real would move others between batches of a fixed size.
            return "replace one sample by an empty one"
        return "add or remove one sample"

    def epsilon_after(self, num_steps: int) -> float:
        """Return an upper bound on the epsilon of the first `num_steps` steps, of what was done.

        Poisson sampling has the accountants' bound; shuffled batches have theirs, without
        amplification. Infinite without noise, or without DP.
        """
        if num_steps == 0:
            return 0.0
        return math.inf if self.spent is None else self.spent.after(num_steps)


def make_deal(config: TrainConfig, num_train: int, sensitivity: float) -> Deal:
    """Settle steps, noise and guarantee of a run on `num_train` samples.

    Args:
        config: The run, its ranges checked.
        num_train: N; a public constant.
        sensitivity: R, the bound on one sample's share of the gradient sum; gradient units.

    Raises:
        ConfigError: If batch or delta do not fit N.
        AccountingError: If no noise meets the target.
    """
    if problems := size_problems(config, num_train):
        raise ConfigError("\n".join(problems))
    rate = config.batch / num_train
    steps = config.steps or max(1, round((config.epochs or 0) * num_train / config.batch))
    if not config.dp:
        return Deal(None, num_train, steps, rate, config.delta, None, None, None, "none", "dp=off")
    sigma = _noise_multiplier(config, rate, steps)
    mechanism = Mechanism(
        noise_multiplier=sigma,
        clip_norm=sensitivity,
        sampling_rate=rate,
        num_steps=steps,
        expected_batch_size=config.batch,
        sampler="poisson" if config.protocol == "valid" else "shuffle",
    )
    guarantee, reason = _guarantee(config, sigma)
    bounds = epsilon_bounds(sigma, rate, steps, config.delta)
    spent = spent_table(mechanism, config.delta) if sigma else None
    target = config.eps if config.noise_multiplier is None else None
    return Deal(
        mechanism, num_train, steps, rate, config.delta, target, bounds, spent, guarantee, reason
    )


def _noise_multiplier(config: TrainConfig, rate: float, steps: int) -> float:
    if config.noise_multiplier is not None:
        return config.noise_multiplier
    assert config.eps is not None
    if math.isinf(config.eps):
        return 0.0
    if config.protocol == "published":
        return gdp.noise_multiplier(config.eps, config.delta, rate, steps)
    return calibrate(config.eps, config.delta, rate, steps).noise_multiplier


def _guarantee(config: TrainConfig, sigma: float) -> tuple[str, str]:
    if sigma == 0:
        return "none", "no noise was added"
    if config.protocol == "published":
        return (
            "none",
            "sigma was chosen by a central-limit approximation, as if batches were Poisson",
        )
    if config.noise.secure:
        return "valid", "noise and sampling drawn from the operating system"
    return "seeded", "noise and sampling follow from a seed: for research, not for release"
