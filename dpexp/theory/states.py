"""The states at which kernels are looked at: random and trained weights, small and large R."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpexp.theory.flow import UNCLIPPED, losses_along
from dpexp.theory.kernels import Tangent, tangent_at
from dpexp.theory.subjects import Subject, all_subjects

SCALES = (0.5, 1.0, 2.0)
QUANTILES = (0.0, 0.1, 0.25, 0.5)  # of the per-sample norms: a small R clips most samples
LARGE = 2.0  # times the largest norm: a large R clips none
TRAINED_STEPS = 200
STEP = 0.1  # of the largest at which the linearised network is stable, about


@dataclass(frozen=True)
class State:
    """A network at one state, with the clipping norms that are tried there.

    Attributes:
        subject: Network, samples, loss.
        model: At the state.
        tangent: Kernels, slopes, norms.
        is_trained: Whether unclipped steps were taken from random weights.
        scale: What the random weights were multiplied by.
        quantile: Of the norms, at which the small R lies.
    """

    subject: Subject
    model: nn.Module
    tangent: Tangent
    is_trained: bool
    scale: float
    quantile: float

    @property
    def small(self) -> float:
        """A small R: clips every sample whose norm is above the quantile."""
        return float(self.tangent.norms.quantile(self.quantile))

    @property
    def smalls(self) -> list[float]:
        """A small R_r for each layer, the same quantile of that layer's norms."""
        return [float(norms.quantile(self.quantile)) for norms in self.tangent.layer_norms]

    @property
    def large(self) -> float:
        """A large R: twice the largest norm."""
        return LARGE * float(self.tangent.norms.max())

    @property
    def larges(self) -> list[float]:
        """A large R_r for each layer."""
        return [LARGE * float(norms.max()) for norms in self.tangent.layer_norms]


def states(count: int) -> Iterator[State]:
    """Yield `count` states: every subject in turn, one in three trained, all seeds different."""
    subjects = all_subjects()
    for i in range(count):
        subject, turn = subjects[i % len(subjects)], i // len(subjects)
        is_trained = turn % 3 == 2
        scale = 1.0 if is_trained else SCALES[(turn + i) % len(SCALES)]
        model = subject.network(i, scale)
        if is_trained:
            lr = stable_lr(tangent_at(model, subject).kernel)
            losses_along(model, subject, UNCLIPPED, lr=lr, num_steps=TRAINED_STEPS)
        quantile = QUANTILES[(turn + i) % len(QUANTILES)]
        yield State(subject, model, tangent_at(model, subject), is_trained, scale, quantile)


def stable_lr(kernel: Float[Tensor, "m m"]) -> float:
    """Return a step that is a tenth of one over the kernel's 2-norm: close to the flow."""
    return STEP / float(torch.linalg.matrix_norm(kernel, 2))
