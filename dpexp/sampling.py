"""Which samples a step sees. Without secure randomness a draw follows from (seed, purpose, step).

So any step can be drawn alone: resuming needs no stored state, and the size of micro-batches
changes no draw. Steps count from 0.
"""

import hashlib
import math
import os
from collections.abc import Callable

import numpy as np
from numpy.random import SeedSequence, default_rng
from numpy.typing import NDArray

from dpexp.errors import ConfigError, EngineError
from dpexp.mechanism import Mechanism, Sampler

Indices = NDArray[np.int64]


def derive_seed(seed: int, purpose: str, step: int = 0) -> int:
    """Return a 64-bit seed for one purpose at one step, independent of all others.

    Args:
        seed: The run's seed, at least 0.
        purpose: What the numbers are for, such as "noise"; each purpose has its own stream.
        step: Optimizer step or epoch, at least 0.
    """
    return int(_sequence(seed, purpose, step).generate_state(1, np.uint64)[0])


def poisson_batch(
    num_train: int, sampling_rate: float, seed: int, step: int, *, secure: bool = False
) -> Indices:
    """Return one Poisson draw: each index, independently, with probability q; rising order.

    The size varies and may be 0. q is used as given, to the 2^-53 that a double resolves.

    Args:
        num_train: N, samples to draw from.
        sampling_rate: q in (0, 1].
        seed: The run's seed; not read when secure.
        step: Optimizer step, from 0; not read when secure.
        secure: Draw from the operating system. Then no two calls agree: a resumed run draws its
            remaining steps afresh, which is the same mechanism.

    Raises:
        ConfigError: If q is not a probability above 0, or there is nothing to draw from.
    """
    if num_train < 1:
        raise ConfigError(f"num_train={num_train}: there is no sample to draw; use at least 1")
    if not 0 < sampling_rate <= 1:
        raise ConfigError(
            f"sampling_rate={sampling_rate}: q is a probability in (0, 1]; it is expected batch "
            f"size / data set size, not a number of samples"
        )
    if secure:
        uniforms = _system_uniforms(num_train)
    else:
        uniforms = default_rng(_sequence(seed, "sampling", step)).random(num_train)
    return np.flatnonzero(uniforms < sampling_rate)


def shuffled_batch(num_train: int, batch_size: int, seed: int, step: int) -> Indices:
    """Return one fixed-size batch of the step's epoch, in the epoch's shuffled order.

    Each epoch has its own permutation and floor(N / B) batches; the `num_dropped` samples at its
    end are not seen in that epoch. This sampler is for protocol=published: epsilon of Poisson
    sampling does not hold for it.

    Raises:
        ConfigError: If a batch cannot be filled.
    """
    if not 1 <= batch_size <= num_train:
        raise ConfigError(
            f"batch={batch_size} with {num_train} samples: a shuffled batch has a fixed size, from "
            f"1 to the size of the data set; use a smaller batch"
        )
    epoch, position = divmod(step, num_train // batch_size)
    order = default_rng(_sequence(seed, "shuffle", epoch)).permutation(num_train)
    return order[position * batch_size : (position + 1) * batch_size]


def num_dropped(num_train: int, batch_size: int) -> int:
    """Return how many samples each shuffled epoch leaves out: its last, incomplete batch."""
    return num_train % batch_size


def truncated_batch(
    num_train: int,
    sampling_rate: float,
    batch_limit: int,
    seed: int,
    step: int,
    *,
    secure: bool = False,
) -> Indices:
    """Return a Poisson draw or, where it has more than `batch_limit`, a random subset of that size.

    Every subset of the draw is as likely: keeping the first ones would spare late samples, which
    the accountant does not know of. Rising order.

    Args:
        num_train: N, samples to draw from.
        sampling_rate: q in (0, 1], before truncation.
        batch_limit: The most samples that come back, at least 1.
        seed: The run's seed; not read when secure.
        step: Optimizer step, from 0; not read when secure.
        secure: Draw from the operating system, the subset too.

    Raises:
        ConfigError: As `poisson_batch`, or if nothing may come back.
    """
    if batch_limit < 1:
        raise ConfigError(f"batch_limit={batch_limit}: no sample could ever be taken; at least 1")
    drawn = poisson_batch(num_train, sampling_rate, seed, step, secure=secure)
    if len(drawn) <= batch_limit:
        return drawn
    if secure:
        order = np.argsort(_system_uniforms(len(drawn)))
    else:
        order = default_rng(_sequence(seed, "truncation", step)).permutation(len(drawn))
    return np.sort(drawn[order[:batch_limit]])


def balls_and_bins_batch(num_train: int, num_batches: int, seed: int, step: int) -> Indices:
    """Return one batch of the step's epoch: the samples that went to it, in rising order.

    In each epoch every sample goes to one of T batches, uniformly and independently of all other
    samples and epochs. The size varies and may be 0.

    Source: Chua et al. 2024, arXiv:2412.16802.

    Args:
        num_train: N, samples to draw from.
        num_batches: T, batches of an epoch.
        seed: The run's seed.
        step: Optimizer step, from 0.

    Raises:
        ConfigError: If there is no batch, or nothing to draw from.
    """
    if num_train < 1 or num_batches < 1:
        raise ConfigError(
            f"num_train={num_train}, num_batches={num_batches}: samples go to the batches of an "
            f"epoch, so both must be at least 1"
        )
    epoch, position = divmod(step, num_batches)
    rng = default_rng(_sequence(seed, "balls_and_bins", epoch))
    places = rng.integers(num_batches, size=num_train)
    return np.flatnonzero(places == position)


def draw(
    mechanism: Mechanism, num_train: int, seed: int, step: int, *, secure: bool = False
) -> Indices:
    """Return the batch of one step, by the sampler that the mechanism is accounted with.

    Args:
        mechanism: The very object whose epsilon is reported.
        num_train: N.
        seed: The run's seed.
        step: Optimizer step, from 0 to K - 1.
        secure: Draw from the operating system; Poisson kinds only.

    Raises:
        EngineError: If the step is outside the accounted run, or N is not the accounted one.
        ConfigError: If the sampler cannot draw so.
    """
    if not 0 <= step < mechanism.num_steps:
        raise EngineError(
            f"step {step} is outside the {mechanism.num_steps} steps that are accounted for, so "
            f"epsilon would not cover it; plan more steps before the run"
        )
    return DRAWS[mechanism.sampler](mechanism, num_train, seed, step, secure)


def _draw_poisson(
    mechanism: Mechanism, num_train: int, seed: int, step: int, secure: bool
) -> Indices:
    return poisson_batch(num_train, mechanism.sampling_rate, seed, step, secure=secure)


def _draw_truncated(
    mechanism: Mechanism, num_train: int, seed: int, step: int, secure: bool
) -> Indices:
    limit = mechanism.batch_limit
    assert limit is not None
    if num_train != mechanism.num_train:
        raise EngineError(
            f"num_train={num_train}, but {mechanism.num_train} are accounted for: how often a "
            f"batch is truncated hangs on it, so epsilon would not hold; make both the same"
        )
    return truncated_batch(num_train, mechanism.sampling_rate, limit, seed, step, secure=secure)


def _draw_balls_and_bins(
    mechanism: Mechanism, num_train: int, seed: int, step: int, secure: bool
) -> Indices:
    if secure:
        raise ConfigError(
            "noise.secure=true with balls-and-bins batches: where each sample goes must be drawn "
            "again at every step of an epoch, which only a seed can; use sampling=poisson or "
            "sampling=truncated_poisson"
        )
    num_batches = mechanism.batches_per_epoch
    assert num_batches is not None
    return balls_and_bins_batch(num_train, num_batches, seed, step)


def _draw_shuffled(
    mechanism: Mechanism, num_train: int, seed: int, step: int, secure: bool
) -> Indices:
    if secure:
        raise ConfigError(
            "noise.secure=true with shuffled batches: they carry no guarantee that secure "
            "randomness could protect, and an epoch's order must be drawn again at each of its "
            "steps; use protocol=valid"
        )
    batch_size = mechanism.expected_batch_size
    if batch_size != int(batch_size):
        raise ConfigError(
            f"expected_batch_size={batch_size}: a shuffled batch has a whole number of samples; "
            f"use sampler 'poisson' for another expectation"
        )
    return shuffled_batch(num_train, int(batch_size), seed, step)


# How each sampler draws; `accounting.samplers` holds by the same keys how it is accounted.
DRAWS: dict[Sampler, Callable[[Mechanism, int, int, int, bool], Indices]] = {
    "poisson": _draw_poisson,
    "truncated_poisson": _draw_truncated,
    "balls_and_bins": _draw_balls_and_bins,
    "shuffle": _draw_shuffled,
}


def micro_batches(indices: Indices, micro_batch: int) -> list[Indices]:
    """Return `indices` cut, in order, into pieces of at most `micro_batch`, equal to within one.

    An empty draw gives an empty list: its step is noise alone, and is still taken.

    Raises:
        ConfigError: If `micro_batch` is below 1.
    """
    if micro_batch < 1:
        raise ConfigError(f"micro_batch={micro_batch}: must hold at least 1 sample")
    if len(indices) == 0:
        return []
    return np.array_split(indices, math.ceil(len(indices) / micro_batch))


def _sequence(seed: int, purpose: str, step: int) -> SeedSequence:
    if seed < 0 or step < 0:
        raise ConfigError(f"seed={seed}, step={step}: both must be at least 0")
    digest = hashlib.sha256(purpose.encode()).digest()
    # Four words of fixed width, so that no two (purpose, step) pairs can spell the same key.
    words = (
        int.from_bytes(digest[:4], "little"),
        int.from_bytes(digest[4:8], "little"),
        step % 2**32,
        step // 2**32,
    )
    return SeedSequence(entropy=seed, spawn_key=words)


def _system_uniforms(count: int) -> NDArray[np.float64]:
    """Return uniforms on the multiples of 2^-53 in [0, 1), from the operating system."""
    bits = np.frombuffer(os.urandom(8 * count), dtype=np.uint64)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
