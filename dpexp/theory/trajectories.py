"""A5, A6 and the loss columns of Table 1: does the loss fall monotonically, how low does it go."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import SGD

from dpexp.theory.flow import (
    UNCLIPPED,
    Clip,
    flat_weights,
    largest_rise,
    losses_along,
    steps_of,
    total_loss,
)
from dpexp.theory.found import Found, judge, rounded
from dpexp.theory.kernels import Tangent, tangent_at
from dpexp.theory.spectra_claims import ROWS
from dpexp.theory.states import LARGE, QUANTILES, stable_lr
from dpexp.theory.subjects import Subject, all_subjects

NUM_STEPS = 300
SEEDS = (0, 1, 2)
RISE = 1e-4  # relative
ROUNDING = 1e-12  # relative; below it a rise is the sum's last digits
EQUAL = 1e-6


@dataclass(frozen=True)
class Run:
    """One trajectory.

    Attributes:
        subject: Its name.
        row: Which row of Table 1.
        seed: Of the random weights it starts from.
        bound: R.
        losses: L before each step and after the last.
        gap: Largest |w - w'| / |w'| to the unclipped weights after each step; NaN if not compared.
    """

    subject: str
    row: str
    seed: int
    bound: float
    losses: Sequence[float]
    gap: float = math.nan

    @property
    def rise(self) -> float:
        """How far the loss rose above a value it had, relative to that value."""
        return largest_rise(list(self.losses))


def follow(subject: Subject, seed: int, *, num_steps: int = 0) -> list[Run]:
    """Return trajectories of every row of Table 1 from one random start; the lowest R is small."""
    num_steps = num_steps or NUM_STEPS
    tangent = tangent_at(subject.network(seed), subject)
    lr = stable_lr(tangent.kernel)
    path, largest = _unclipped(subject, seed, lr, num_steps)
    plain = Run(subject.name, "none", seed, math.inf, path.losses)
    bound = LARGE * largest
    runs = [plain, _batch(subject, seed, tangent.batch_norm / 2, lr, num_steps)]
    for row, clip in (
        ("large R, flat", Clip(bound)),
        ("large R, layerwise", Clip(bound, style="layerwise")),
    ):
        losses, gap = _against(subject, seed, clip, lr, path.weights)
        runs.append(Run(subject.name, row, seed, bound, losses, gap))
    return [*runs, *_small(subject, seed, tangent, num_steps)]


@dataclass(frozen=True)
class _Path:
    losses: Sequence[float]
    weights: Sequence[torch.Tensor]


def _unclipped(subject: Subject, seed: int, lr: float, num_steps: int) -> tuple[_Path, float]:
    """Return the ordinary trajectory, and the largest per-sample norm along it."""
    model = subject.network(seed)
    losses, weights, largest = [], [], 0.0
    for step in steps_of(model, subject, UNCLIPPED, lr=lr, num_steps=num_steps):
        losses.append(step.loss)
        weights.append(flat_weights(model))
    # Norms are not computed without clipping: a run that clips nothing has them.
    probe = subject.network(seed)
    for step in steps_of(probe, subject, Clip(1e300), lr=lr, num_steps=num_steps):
        largest = max(largest, float(step.norms.max()))
    return _Path([*losses, total_loss(model, subject)], weights), largest


def _against(
    subject: Subject, seed: int, clip: Clip, lr: float, weights: Sequence[torch.Tensor]
) -> tuple[list[float], float]:
    model = subject.network(seed)
    losses, gap = [], 0.0
    steps = steps_of(model, subject, clip, lr=lr, num_steps=len(weights))
    for step, there in zip(steps, weights, strict=True):
        losses.append(step.loss)
        gap = max(gap, float((flat_weights(model) - there).norm() / there.norm()))
    return [*losses, total_loss(model, subject)], gap


def _small(subject: Subject, seed: int, tangent: Tangent, num_steps: int) -> list[Run]:
    runs = []
    for quantile in QUANTILES:
        flat = float(tangent.norms.quantile(quantile))
        lr = stable_lr(tangent.flat(flat))
        losses = losses_along(subject.network(seed), subject, Clip(flat), lr=lr,
                              num_steps=num_steps)  # fmt: skip
        runs.append(Run(subject.name, "small R, flat", seed, flat, losses))
    each = float(tangent.layer_norms.quantile(QUANTILES[1]))
    lr = stable_lr(tangent.layerwise([each] * len(tangent.layers)))
    losses = losses_along(subject.network(seed), subject, Clip(each, style="layerwise"), lr=lr,
                          num_steps=num_steps)  # fmt: skip
    return [*runs, Run(subject.name, "small R, layerwise", seed, each, losses)]


def _batch(subject: Subject, seed: int, bound: float, lr: float, num_steps: int) -> Run:
    """Follow the whole gradient clipped to `bound`: not private, so not a part of the engine."""
    model = subject.network(seed)
    optimizer = SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(num_steps):
        loss = subject.losses(model(subject.inputs)).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), bound)
        optimizer.step()
        losses.append(loss.item())
    return Run(subject.name, "batch", seed, bound, [*losses, total_loss(model, subject)])


@dataclass(frozen=True)
class Finer:
    """The trajectory that rose most, again with a tenth of its step: is it the flow that rises?

    Attributes:
        run: As first followed.
        rate: dL/dt at its start by the kernel; loss a unit of time.
        losses: At the same times, with a tenth of the step.
    """

    run: Run
    rate: float
    losses: Sequence[float]

    @property
    def rise(self) -> float:
        """As of a run."""
        return largest_rise(list(self.losses))


def refine(run: Run) -> Finer:
    """Follow a flat run again with a tenth of its step and ten times as many."""
    subject = next(s for s in all_subjects() if s.name == run.subject)
    tangent = tangent_at(subject.network(run.seed), subject)
    kernel = tangent.flat(run.bound)
    losses = losses_along(
        subject.network(run.seed), subject, Clip(run.bound), lr=stable_lr(kernel) / 10,
        num_steps=10 * (len(run.losses) - 1),
    )  # fmt: skip
    return Finer(run, tangent.loss_rate(kernel), losses[::10])


def judge_trajectories(runs: Sequence[Run], finer: Finer) -> Found:
    """Judge A5 and A6, and count what the loss columns of Table 1 say."""
    large = [run for run in runs if run.row.startswith("large")]
    plain = [run for run in runs if run.row == "none"]
    small = [run for run in runs if run.row == "small R, flat"]
    gap, rise = max(run.gap for run in large), max(run.rise for run in large)
    a5 = judge(
        "A5",
        is_met=gap < EQUAL and rise < ROUNDING,
        ours=f"{len(large)} trajectories of {len(large[0].losses) - 1} steps, R twice the largest "
        f"norm: weights within {gap:.1g} of the unclipped ones, largest relative rise of the loss "
        f"{rise:.1g} (unclipped: {max(run.rise for run in plain):.1g})",
        value=gap,
    )
    rising = [run for run in small if run.rise > RISE]
    by_subject = Counter(run.subject for run in small)
    seen = Counter(run.subject for run in rising)
    never = [name for name in by_subject if not seen[name]]
    a6 = judge(
        "A6",
        is_met=bool(rising) and finer.rise > RISE and rise < RISE,
        ours=f"the loss rises by more than 1e-4 in {len(rising)} of {len(small)} trajectories from "
        f"random starts, by up to {finer.run.rise:.1%}; with a tenth of the step by "
        f"{finer.rise:.1%}, so it is the flow and not the step; at large R by at most "
        f"{rise:.1g}",
        value=finer.rise,
        reason="all starts are random, none was searched for. Rises: "
        + "; ".join(f"{seen[name]} of {by_subject[name]} with {name}" for name in seen)
        + f". None with: {'; '.join(never)}" * bool(never),
    )
    numbers: dict[str, Any] = {
        "table": {row: _columns([r for r in runs if r.row == row]) for row in ROWS},
        "rises": [
            [r.subject, r.seed, float(f"{r.bound:.4g}"), float(f"{r.rise:.4g}")] for r in small
        ],
        "curves": _curves(runs, finer),
    }
    return Found([a5, a6], {"trajectories": numbers})


def _columns(runs: Sequence[Run]) -> Mapping[str, float]:
    return {
        "runs": len(runs),
        "monotone": sum(run.rise < ROUNDING for run in runs),
        "rise": max(run.rise for run in runs),
        "final": sum(run.losses[-1] / run.losses[0] for run in runs) / len(runs),
    }


def _curves(runs: Sequence[Run], finer: Finer) -> Mapping[str, Any]:
    """Return losses over the start's of every row from the start that rose most, every 5th step."""
    here = [r for r in runs if (r.subject, r.seed) == (finer.run.subject, finer.run.seed)]
    flat = [r for r in here if r.row == "small R, flat"]
    chosen = [r for r in here if r.row != "small R, flat" or r is finer.run] if flat else here
    return {
        "subject": finer.run.subject,
        "rate": finer.rate,
        "bound": finer.run.bound,
        **{r.row: rounded([x / r.losses[0] for x in r.losses[::5]], 5) for r in chosen},
        "tenth of the step": rounded([x / finer.losses[0] for x in finer.losses[::5]], 5),
    }
