"""How each sampler is accounted for: one entry a sampler, read from the mechanism itself.

A run draws by `sampling.draw` and is accounted here, both from its one mechanism, so it cannot be
drawn by one sampler and accounted as another.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from dpexp.accounting import balls_and_bins, calibrate, gdp, pld, rdp, shuffled, truncated
from dpexp.accounting.bounds import sound_epsilon
from dpexp.accounting.cache import cached
from dpexp.accounting.inputs import check_target
from dpexp.accounting.isolation import FAILURES
from dpexp.errors import AccountingError
from dpexp.mechanism import Mechanism, Sampler

MAX_TRIES = 12  # verifications of a sigma; the first succeeds but for the grid's steps


@dataclass(frozen=True)
class Accountant:
    """Where the epsilon of a sampler comes from.

    Attributes:
        epsilons: (mechanism, rising step counts, delta) -> an upper bound after each.
        words: What a privacy statement calls it.
    """

    epsilons: Callable[[Mechanism, list[int], float], list[float]]
    words: str


@dataclass(frozen=True)
class _Noise:
    """A noise multiplier, as the cache holds it."""

    sigma: float

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "_Noise":
        return cls(float(fields["sigma"]))


def epsilons(mechanism: Mechanism, num_steps: list[int], delta: float) -> list[float]:
    """Return an upper bound on epsilon after each of some step counts; seconds when not cached.

    Args:
        mechanism: What the run does; its `num_steps` is not read.
        num_steps: Rising, at least 1.
        delta: In (0, 1).
    """
    return ACCOUNTANTS[mechanism.sampler].epsilons(mechanism, num_steps, delta)


def with_noise_for(mechanism: Mechanism, eps: float, delta: float) -> Mechanism:
    """Return the mechanism with the smallest sigma whose claimed epsilon is at most `eps`.

    The claimed epsilon is that of its own sampler's accountant over its `num_steps`; it never
    exceeds the target. Cached on disk.

    Args:
        mechanism: Its `noise_multiplier` is not read.
        eps: Target; infinity gives sigma 0.
        delta: In (0, 1).

    Raises:
        AccountingError: If an argument is out of range, or no sigma meets the target.
    """
    q, steps = mechanism.sampling_rate, mechanism.num_steps
    if mechanism.sampler == "poisson":
        sigma = calibrate.calibrate(eps, delta, q, steps).noise_multiplier
        return replace(mechanism, noise_multiplier=sigma)
    eps, delta, q, steps = check_target(eps, delta, q, steps)
    if math.isinf(eps):
        return replace(mechanism, noise_multiplier=0.0)
    inputs = {"eps": eps, **_inputs(mechanism), "delta": delta}
    found = cached(
        "noise", inputs, lambda: _Noise(_search(mechanism, eps, delta)), _Noise.from_dict
    )
    return replace(mechanism, noise_multiplier=found.sigma)


def inputs_of(mechanism: Mechanism) -> dict[str, float | str | None]:
    """Return all of a mechanism that its epsilon depends on."""
    return {"sigma": mechanism.noise_multiplier, **_inputs(mechanism)}


def _inputs(mechanism: Mechanism) -> dict[str, float | str | None]:
    return {
        "sampler": mechanism.sampler,
        "q": mechanism.sampling_rate,
        "steps": mechanism.num_steps,
        "limit": mechanism.batch_limit,
        "num_train": mechanism.num_train,
    }


def _search(mechanism: Mechanism, eps: float, delta: float) -> float:
    """Return sigma rounded up to 4 decimals, and verified as rounded."""
    q, steps = mechanism.sampling_rate, mechanism.num_steps

    def epsilon(sigma: float, q: float, steps: int, delta: float) -> float:
        return epsilons(replace(mechanism, noise_multiplier=sigma), [steps], delta)[0]

    start = gdp.noise_multiplier(eps, delta, q, steps)
    sigma = calibrate.smallest_sigma(epsilon, eps, delta, q, steps, start)
    for _ in range(MAX_TRIES):
        if epsilon(sigma, q, steps, delta) <= eps:
            return sigma
        sigma = calibrate.round_up(sigma * (1 + 1e-4))
    raise AccountingError(
        f"no sigma near {sigma} has a verified epsilon at most {eps} for {mechanism.sampler} "
        f"batches, so the budget cannot be promised; use a larger eps or delta"
    )


def _poisson(mechanism: Mechanism, num_steps: list[int], delta: float) -> list[float]:
    """The larger of PRV and PLD after the last count; PLD, or else RDP, after those before."""
    sigma, q = mechanism.noise_multiplier, mechanism.sampling_rate
    whole = sound_epsilon(sigma, q, num_steps[-1], delta)
    if len(num_steps) == 1:
        return [whole]
    try:
        bounds = pld.epsilons(sigma, q, num_steps, delta)
    except FAILURES:
        bounds = [rdp.epsilon(sigma, q, k, delta) for k in num_steps]
    return [*bounds[:-1], whole]


def _truncated(mechanism: Mechanism, num_steps: list[int], delta: float) -> list[float]:
    num_train, limit = mechanism.num_train, mechanism.batch_limit
    assert num_train is not None
    assert limit is not None
    sigma, q = mechanism.noise_multiplier, mechanism.sampling_rate
    return truncated.epsilons(sigma, q, num_steps, delta, num_train, limit)


def _balls_and_bins(mechanism: Mechanism, num_steps: list[int], delta: float) -> list[float]:
    num_batches = mechanism.batches_per_epoch
    assert num_batches is not None
    epochs = [-(-k // num_batches) for k in num_steps]
    return balls_and_bins.epsilons(mechanism.noise_multiplier, num_batches, epochs, delta)


def _shuffled(mechanism: Mechanism, num_steps: list[int], delta: float) -> list[float]:
    sigma, q = mechanism.noise_multiplier, mechanism.sampling_rate
    return [shuffled.epsilon(sigma, shuffled.epochs_started(k, q), delta) for k in num_steps]


ACCOUNTANTS: dict[Sampler, Accountant] = {
    "poisson": Accountant(_poisson, "larger of PRV and PLD, Poisson sampling"),
    "truncated_poisson": Accountant(_truncated, "PLD of dp-accounting, truncated Poisson sampling"),
    "balls_and_bins": Accountant(
        _balls_and_bins, "privacy loss distribution of an epoch, balls-and-bins sampling"
    ),
    "shuffle": Accountant(_shuffled, "Gaussian mechanism a started epoch, no amplification"),
}
