"""Canaries with a coordinate of their own, watched over all steps of one run.

At step k the attacker sees x = y_j / R, where y_j is the noisy sum at coordinate j: if the canary
is in the training set, x = s_k i + sigma z, with i its (random) inclusion in the batch and s_k the
sign that it was given at that step, and z standard normal; else x = sigma z. The score is the log
likelihood ratio,

    sum over k of log(1 - q + q exp((2 s_k a x - a^2) / (2 sigma^2))),

with a = 1, or the canary's share of R where the style has groups. It is the best test there is of
the mechanism as claimed (Neyman & Pearson).

Two more scores are worth less of that mechanism, and more of a faulty one. The signed sum, sum over
k of s_k x: signs alternate, so that noise that serves two steps in a row cancels. And the same with
the blank parameter's coordinate j subtracted from x, which cancels noise that both were given.

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
from dpexp.audit.bounds import Scores, error_rates
from dpexp.audit.canaries import canary_records
from dpexp.audit.subject import Subject
from dpexp.audit.subsampled import Family

RATIO, SIGNED = "likelihood ratio of its coordinate", "signed sum of its coordinate"
LESS_BLANK = "signed sum, less a blank coordinate"
_QUANTILES = (0.9, 0.97, 0.99, 0.997, 0.999)  # of canaries that are out, as thresholds


@dataclass(frozen=True)
class Look:
    """What is asked of an attack.

    Attributes:
        delta: Of the guarantee.
        error: Chance that its lower bound fails.
    """

    delta: float
    error: float


@dataclass(frozen=True)
class Samples:
    """The ordinary part of a training set.

    Attributes:
        num: How many samples.
        read: Records and labels of some of them, by position.
    """

    num: int
    read: Callable[[Tensor], tuple[Tensor, Tensor]]


def watch(
    subject: Subject, samples: Samples, is_in: NDArray[np.bool_], look: Look, seed: int
) -> list[Attack]:
    """Train on `samples` and the canaries that are in, and score all canaries.

    Args:
        subject: Fresh; its K steps are taken.
        samples: Trained on beside the canaries.
        is_in: Whether each canary is in the training set, shape (m,).
        look: What the threshold is to serve.
        seed: For the simulation that the threshold is taken from.
    """
    mechanism = subject.mechanism
    sigma, rate, steps = mechanism.noise_multiplier, mechanism.sampling_rate, mechanism.num_steps
    rows = torch.from_numpy(np.flatnonzero(is_in)) + 1
    ratio, signed, less_blank = np.zeros((3, len(is_in)))
    num_paired = steps - steps % 2 if steps > 1 else 1
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
        ratio += log_ratio(sign * seen, rate, sigma, subject.share)
        if step < num_paired:
            signed += sign * seen
            less_blank += sign * (seen - blank)
    middle = subject.share * rate * num_paired / 2
    rng = np.random.default_rng(seed)
    found = best_threshold(subject.family, subject.share, look, len(is_in), rng)
    return [
        Attack(RATIO, known(ratio), is_in, found),
        Attack(SIGNED, known(signed), is_in, middle),
        Attack(LESS_BLANK, known(less_blank), is_in, middle),
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


def best_threshold(
    family: Family, share: float, look: Look, num_canaries: int, rng: np.random.Generator
) -> float:
    """Return the threshold on the log ratio that proves most if the mechanism is as claimed.

    Found by simulation, with nothing of the engine. With few inclusions what gives a canary away is
    rare, and a threshold far out proves more than one at which both errors are alike.
    """
    if family.sampling_rate == 1:
        return 0.0
    out, inside = rehearsed(family, share, rng, num_canaries // 2)
    scores = np.concatenate([out, inside])
    is_in = np.arange(len(scores)) >= len(out)
    alike = _alike(out, inside)
    candidates = [alike, *np.quantile(out, _QUANTILES)]
    proven = [
        family.least_epsilon(error_rates(scores, is_in, each, look.error), look.delta)
        for each in candidates
    ]
    return float(candidates[int(np.argmax(proven))])


def _alike(out: Scores, inside: Scores) -> float:
    """Return a threshold at which both errors are about as frequent."""
    both = np.sort(np.concatenate([out, inside]))
    false_positives = 1 - np.searchsorted(np.sort(out), both, side="right") / len(out)
    false_negatives = np.searchsorted(np.sort(inside), both, side="right") / len(inside)
    return float(both[np.argmin(np.abs(false_positives - false_negatives))])


def rehearsed(
    family: Family, share: float, rng: np.random.Generator, count: int
) -> tuple[Scores, Scores]:
    """Return scores of `count` canaries that are out, and in, of the mechanism as claimed.

    They are simulated, with nothing of the engine.
    """
    sigma, rate = family.noise_multiplier, family.sampling_rate
    totals = np.zeros((2, count))
    for _ in range(family.num_steps):
        x = sigma * rng.standard_normal((2, count))
        x[1] += share * (rng.random(count) < rate)
        totals += log_ratio(x, rate, sigma, share)
    return totals[0], totals[1]
