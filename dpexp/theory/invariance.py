"""A9: while every sample is clipped, a run depends on lr and R by their product alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dpexp.clipping.noise import StepNoise
from dpexp.metrics.measures import accuracy
from dpexp.theory.flow import Clip, flat_weights, steps_of
from dpexp.theory.found import Found, judge
from dpexp.theory.subjects import Subject, digits_with_test

LENGTH, BOUND = 0.1, 1e-4  # of a step were all gradients parallel; gradient units
SIGMAS = (0.0, 1.0)
SEEDS = (0, 1, 2)
NUM_STEPS = 100
WEIGHTS, ACCURACY = 1e-4, 1e-3  # relative; a fraction, 0.1 point


@dataclass(frozen=True)
class Pair:
    """Two runs of one seed whose lr R is the same.

    Attributes:
        factor: What R was multiplied by, and lr divided.
        sigma: Noise over sensitivity, the same draws in both.
        least: Smallest per-sample norm over R, along both runs; above 1 if all were clipped.
        gap: |w - w'| / |w'| at the end.
        accuracies: Of both, on the test images; fractions.
    """

    factor: float
    sigma: float
    least: float
    gap: float
    accuracies: tuple[float, float]

    @property
    def is_all_clipped(self) -> bool:
        """Whether every sample of every step of both runs was clipped."""
        return self.least > 1


def compare(seed: int, factor: float, sigma: float) -> Pair:
    """Return how far (lr / factor, factor R) ends from (lr, R)."""
    subject, images, labels = digits_with_test()
    ends, scores, least = [], [], float("inf")
    for by in (1.0, factor):
        model = subject.network(seed)
        bound = BOUND * by
        for step in steps_of(
            model, subject, Clip(bound, sigma=sigma), lr=_lr(subject) / by,
            num_steps=NUM_STEPS, noise=StepNoise(seed),
        ):  # fmt: skip
            least = min(least, float(step.norms.min()) / bound)
        ends.append(flat_weights(model))
        scores.append(_accuracy(model, images, labels))
    gap = float((ends[1] - ends[0]).norm() / ends[0].norm())
    return Pair(factor, sigma, least, gap, (scores[0], scores[1]))


@torch.no_grad()
def _accuracy(model: torch.nn.Module, images: Tensor, labels: Tensor) -> float:
    return accuracy(model(images), labels)


def _lr(subject: Subject) -> float:
    """Return the lr with which n clipped gradients of norm R, all parallel, move by `LENGTH`."""
    return LENGTH / (len(subject.inputs) * BOUND)


def judge_invariance(pairs: Sequence[Pair], control: Pair) -> Found:
    """Judge A9 on pairs in which all samples are clipped, beside one in which they are not."""
    assert all(pair.is_all_clipped for pair in pairs)
    gap = max(pair.gap for pair in pairs)
    apart = max(abs(pair.accuracies[0] - pair.accuracies[1]) for pair in pairs)
    accuracies = [pair.accuracies[0] for pair in pairs]
    verdict = judge(
        "A9",
        is_met=gap < WEIGHTS and apart <= ACCURACY and control.gap > WEIGHTS,
        ours=f"{len(pairs)} pairs of {NUM_STEPS} steps, sigma 0 and 1, every norm at least "
        f"{min(pair.least for pair in pairs):.3g} R: weights within {gap:.1g} of their norm, "
        f"accuracies ({min(accuracies):.3f} to {max(accuracies):.3f}) within {100 * apart:.2g} "
        f"points; beside it, with R 1e5 times larger and not all samples clipped, weights "
        f"{control.gap:.2g} apart",
        value=gap,
    )
    return Found([verdict], {"invariance": {"pairs": list(pairs), "control": control}})
