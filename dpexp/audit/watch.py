"""Canaries with a coordinate of their own, watched over all steps of one run.

At step k the attacker sees x = y_j / R, where y_j is the noisy sum at coordinate j: if the canary
is in the training set, x = s_k i + sigma z, with i its (random) inclusion in the batch and s_k the
sign that it was given at that step, and z standard normal; else x = sigma z. The score is the log
likelihood ratio,

    sum over k of log(1 - q + q exp((2 s_k a x - a^2) / (2 sigma^2))),

with a = 1, or the canary's share of R where the style has groups. It is the best test there is of
the mechanism as claimed (Neyman & Pearson). Signs alternate, so that noise used for two steps in a
row cancels. The second score takes the difference to the blank parameter's coordinate j, which is
worth less unless both got the same noise.

Source: Nasr et al. 2023, arXiv:2302.07956, Section 4 (Dirac canaries, white box); Andrew et al.
2023, arXiv:2302.03098 (many orthogonal canaries in one run).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpexp.audit.attack import Attack, known
from dpexp.audit.bounds import Scores
from dpexp.audit.canaries import canary_records
from dpexp.audit.subject import Subject

_REHEARSED = 4000  # canaries of the simulation that the threshold is taken from


@dataclass(frozen=True)
class Samples:
    """The ordinary part of a training set.

    Attributes:
        num: How many samples.
        read: Records and labels of some of them, by position.
    """

    num: int
    read: Callable[[Tensor], tuple[Tensor, Tensor]]


def watch(subject: Subject, samples: Samples, is_in: NDArray[np.bool_], seed: int) -> list[Attack]:
    """Train on `samples` and the canaries that are in, and score all canaries.

    Args:
        subject: Fresh; its K steps are taken.
        samples: Trained on beside the canaries.
        is_in: Whether each canary is in the training set, shape (m,).
        seed: For the simulation that the thresholds are taken from.
    """
    mechanism = subject.mechanism
    sigma, rate, steps = mechanism.noise_multiplier, mechanism.sampling_rate, mechanism.num_steps
    rows = torch.from_numpy(np.flatnonzero(is_in)) + 1
    levels = (sigma, math.sqrt(2) * sigma)  # of the noise, in one coordinate and in a difference
    scores = [np.zeros(len(is_in)) for _ in levels]
    num_pixels = math.prod(subject.model.image_shape)
    for step in range(steps):
        sign = sign_of(step)
        drawn = subject.draw(samples.num + len(rows), step)
        records, labels = samples.read(drawn[drawn < samples.num])
        chosen = rows[drawn[drawn >= samples.num] - samples.num]
        # A loss falls where its logit rises: the gradient of the first class is negative.
        canaries = canary_records(chosen, -sign * subject.factor, num_pixels)
        labels = torch.cat([labels, torch.zeros(len(chosen), dtype=torch.int64)])
        subject.step(torch.cat([records, canaries]), labels, step)
        seen = subject.noisy_sum(subject.model.table.weight)[1:].numpy() / mechanism.clip_norm
        blank = subject.noisy_sum(subject.model.blank)[1:].numpy() / mechanism.clip_norm
        for total, x, level in zip(scores, (seen, seen - blank), levels, strict=True):
            total += log_ratio(sign * x, rate, level, subject.share)
    rng = np.random.default_rng(seed)
    names = ("coordinate", "coordinate, less the blank one")
    return [
        Attack(name, known(total), is_in, threshold(rate, level, subject.share, steps, rng))
        for name, total, level in zip(names, scores, levels, strict=True)
    ]


def sign_of(step: int) -> int:
    """Return the sign of the canaries' gradients at a step."""
    return 1 if step % 2 == 0 else -1


def log_ratio(x: Scores, rate: float, sigma: float, share: float) -> Scores:
    """Return log of the density of x with the canary over that without, at one step."""
    exponent = (2 * share * x - share**2) / (2 * sigma**2)
    if rate == 1:
        return exponent
    return np.logaddexp(math.log1p(-rate), math.log(rate) + exponent)


def threshold(
    rate: float, sigma: float, share: float, steps: int, rng: np.random.Generator
) -> float:
    """Return the score at which the mechanism as claimed errs as often either way; simulated."""
    if rate == 1:
        return 0.0
    out, inside = rehearsed(rate, sigma, share, steps, rng, _REHEARSED)
    both = np.sort(np.concatenate([out, inside]))
    false_positives = 1 - np.searchsorted(np.sort(out), both, side="right") / len(out)
    false_negatives = np.searchsorted(np.sort(inside), both, side="right") / len(inside)
    return float(both[np.argmin(np.abs(false_positives - false_negatives))])


def rehearsed(
    rate: float, sigma: float, share: float, steps: int, rng: np.random.Generator, count: int
) -> tuple[Scores, Scores]:
    """Return scores of `count` canaries that are out, and in, of the mechanism as claimed.

    They are simulated, with nothing of the engine.
    """
    totals = np.zeros((2, count))
    for _ in range(steps):
        x = sigma * rng.standard_normal((2, count))
        x[1] += share * (rng.random(count) < rate)
        totals += log_ratio(x, rate, sigma, share)
    return totals[0], totals[1]
