"""The deal: what a run will do and what guarantee it will have, settled before the first step."""

import math
from dataclasses import dataclass, replace

from dpexp.accounting import gdp, truncated
from dpexp.accounting.bounds import Bounds, epsilon_bounds
from dpexp.accounting.samplers import ACCOUNTANTS, with_noise_for
from dpexp.accounting.spent import SpentTable, spent_table
from dpexp.config import TrainConfig, size_problems
from dpexp.errors import AccountingError, ConfigError
from dpexp.mechanism import Mechanism, Sampler, whole_batches


@dataclass(frozen=True)
class Deal:
    """What a run does to the data, and what may be said about it.

    Attributes:
        mechanism: What sampler, step and accountant agree on; None for ordinary training.
        num_train: N.
        num_steps: K.
        sampling_rate: q = B / N; for balls-and-bins 1 / T, with T = floor(N / B).
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
        return "add or remove one sample" if self.mechanism is None else self.mechanism.adjacency

    @property
    def accountant(self) -> str | None:
        """Where the epsilon of what was done comes from; None where there is none."""
        return (
            None
            if self.spent is None or not self.mechanism
            else ACCOUNTANTS[self.mechanism.sampler].words
        )

    @property
    def overflow_chance(self) -> float | None:
        """Bound on the chance that the run drops any sample of a draw; None where none can be."""
        mechanism = self.mechanism
        if mechanism is None or mechanism.batch_limit is None:
            return None
        return truncated.overflow_chance(
            self.num_train, self.sampling_rate, self.num_steps, mechanism.batch_limit
        )

    def epsilon_after(self, num_steps: int) -> float:
        """Return an upper bound on the epsilon of the first `num_steps` steps, of what was done.

        Each sampler has its own accountant; that of shuffled batches claims no amplification.
        Infinite without noise, or without DP.
        """
        if num_steps == 0:
            return 0.0
        return math.inf if self.spent is None else self.spent.after(num_steps)


def make_deal(
    config: TrainConfig, num_train: int, sensitivity: float, sigma: float | None = None
) -> Deal:
    """Settle steps, noise and guarantee of a run on `num_train` samples.

    Args:
        config: The run, its ranges checked.
        num_train: N; a public constant.
        sensitivity: R, the bound on one sample's share of the gradient sum; gradient units.
        sigma: What a run that goes on was begun with; a target might be met by another one today.

    Raises:
        ConfigError: If batch or delta do not fit N.
        AccountingError: If no noise meets the target, or sigma does not.
    """
    if problems := size_problems(config, num_train):
        raise ConfigError("\n".join(problems))
    sampler: Sampler = config.sampling if config.protocol == "valid" else "shuffle"
    rate = config.batch / num_train
    steps = config.steps or max(1, round((config.epochs or 0) * num_train / config.batch))
    if sampler == "balls_and_bins":
        rate = 1 / whole_batches(rate)
        steps = config.steps or max(1, round((config.epochs or 0) * whole_batches(rate)))
    tail = config.clipping.tail_steps
    if tail is not None and tail >= steps:
        raise ConfigError(
            f"clipping.tail_steps={tail}: the run has {steps} steps, so none would be taken with "
            f"clipping.norm={config.clipping.norm:g}; give fewer than {steps}"
        )
    if not config.dp:
        return Deal(None, num_train, steps, rate, config.delta, None, None, None, "none", "dp=off")
    is_truncated = sampler == "truncated_poisson"
    limit = config.batch_limit or truncated.default_limit(num_train, rate, steps, config.delta)
    silent = Mechanism(
        noise_multiplier=0.0,
        clip_norm=sensitivity,
        sampling_rate=rate,
        num_steps=steps,
        expected_batch_size=config.batch,
        sampler=sampler,
        batch_limit=limit if is_truncated else None,
        num_train=num_train if is_truncated else None,
    )
    begun_with = sigma if config.noise_multiplier is None else None
    if begun_with is None:
        mechanism = _with_noise(silent, config)
    else:
        mechanism = replace(silent, noise_multiplier=begun_with)
    sigma = mechanism.noise_multiplier
    guarantee, reason = _guarantee(config, sigma)
    bounds = epsilon_bounds(sigma, rate, steps, config.delta)
    spent = spent_table(mechanism, config.delta) if sigma else None
    target = config.eps if config.noise_multiplier is None else None
    deal = Deal(
        mechanism, num_train, steps, rate, config.delta, target, bounds, spent, guarantee, reason
    )
    if begun_with and target and guarantee != "none" and deal.epsilon_after(steps) > target:
        raise AccountingError(
            f"eps={target}: the run was begun with noise_multiplier {sigma}, of which epsilon is "
            f"{deal.epsilon_after(steps):.6g} by the accountants that are installed now; go on "
            f"with the versions in provenance.json, or start a new run"
        )
    return deal


def _with_noise(mechanism: Mechanism, config: TrainConfig) -> Mechanism:
    """Return the mechanism with the noise that was asked for, or that its target asks for."""
    if config.noise_multiplier is not None:
        return replace(mechanism, noise_multiplier=config.noise_multiplier)
    assert config.eps is not None
    if config.protocol == "published" and config.eps < math.inf:
        # As published, hence not by the accountant of shuffled batches.
        rate, steps = mechanism.sampling_rate, mechanism.num_steps
        sigma = gdp.noise_multiplier(config.eps, config.delta, rate, steps)
        return replace(mechanism, noise_multiplier=sigma)
    return with_noise_for(mechanism, config.eps, config.delta)


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
