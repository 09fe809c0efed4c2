"""A12 and A13: the CIFAR-10 network under local and global, flat and layerwise clipping.

Local is the clipping function of Abadi et al. 2016; global keeps or drops a sample. Both are judged
on CIFAR-10 alone, for the numbers in their criteria are of that data set.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dpexp.accounting.stated import stated
from dpexp.claims import Outcome, Verdict
from dpexp.report.claims.judging import (
    Part,
    clipping_of,
    percent,
    reason_of,
    repeat,
    spread,
    untestable,
)
from dpexp.report.groups import Point, same_but_for
from dpexp.report.runs import ROOTS, Run
from dpexp.report.statistics import mean_interval, paired

DATA = "cifar10"
FEWEST_SEEDS = 3
FEWEST_EVALUATIONS = 5
LOSS_FALL, ACCURACY_FALL, ECE_RATIO = 0.15, (0.01, 0.05), 0.5
RISE, FLAT_RISE = 0.1, 0.06  # nats
SPLITTING = ("clipping.style", "clipping.split")


def judge_global(settings: Sequence[Point]) -> Iterator[Part]:
    """Yield the verdict on A12 for each global flat point and its local twin on CIFAR-10."""
    for point in _of(settings, "global", "flat"):
        keys = ("seed", "clipping.function", "clipping.stability", *ROOTS)
        twin = _twin(point, _of(settings, "abadi", "flat"), keys)
        if twin is not None:
            yield _on(point), _global(twin, point)


def judge_rise(settings: Sequence[Point]) -> Iterator[Part]:
    """Yield the verdict on A13 for each local layerwise point and its flat twin on CIFAR-10."""
    for point in _of(settings, "abadi", "layerwise"):
        keys = ("seed", *SPLITTING, *ROOTS)
        twin = _twin(point, _of(settings, "abadi", "flat"), keys)
        if twin is not None:
            yield _on(point), _rise(twin, point)


def rise_of(run: Run) -> float | None:
    """Return how far the last watched test loss lies above the lowest, nats.

    The watched loss is on the samples that every evaluation took, which may be fewer than those of
    the summary: an evaluation on other samples is not compared. The lowest of noisy values is
    too low on average, so a rise is estimated too high. Infinite if the run diverged, None below
    five evaluations.
    """
    if run.has_diverged:
        return math.inf
    count = _num_watched(run)
    watched = [row["test/nll_nats"] for row in _watched(run) if row["test/num_samples"] == count]
    return watched[-1] - min(watched) if len(watched) >= FEWEST_EVALUATIONS else None


def _watched(run: Run) -> list[Mapping[str, Any]]:
    return [row for row in run.curve if row.get("test/nll_nats") is not None]


def _num_watched(run: Run) -> int:
    """Return the test samples of the first evaluation; 0 without one."""
    return next((int(row["test/num_samples"]) for row in _watched(run)), 0)


def _global(local: Point, other: Point) -> Verdict:
    found = {
        key: paired(local.values(f"test/{key}"), other.values(f"test/{key}"))
        for key in ("nll_nats", "accuracy", "ece")
    }
    loss, accuracy, ece = found["nll_nats"], found["accuracy"], found["ece"]
    if loss is None or accuracy is None or ece is None or loss.num_seeds < FEWEST_SEEDS:
        return untestable("A12", _too_few(local, other))
    fell = -accuracy.difference
    share = {seed: ECE_RATIO * value for seed, value in local.values("test/ece").items()}
    beyond_share = paired(share, other.values("test/ece"))
    assert beyond_share is not None
    parts = {
        "loss": loss.difference <= -LOSS_FALL,
        "accuracy": ACCURACY_FALL[0] <= fell <= ACCURACY_FALL[1],
        "ECE": beyond_share.difference <= 0,
    }
    missed = [name for name, is_met in parts.items() if not is_met]
    outcome: Outcome = "not reproduced" if missed else "reproduced"
    return Verdict(
        claim="A12",
        outcome=outcome,
        ours=(
            f"test loss {loss.second:.3f} for {loss.first:.3f} nats "
            f"({spread(loss, scale=1, unit='nats', digits=3)}); accuracy "
            f"{percent(accuracy.second)} for {percent(accuracy.first)} ({spread(accuracy)}); ECE "
            f"{percent(ece.second)} for {percent(ece.first)} ({spread(ece)})"
        ),
        value=loss.difference,
        interval=(loss.low, loss.high),
        reason=reason_of(
            missed,
            [
                ("loss", loss, -LOSS_FALL),
                *(("accuracy", accuracy, -margin) for margin in ACCURACY_FALL),
                ("ECE", beyond_share, 0.0),
            ],
        ),
        command=repeat((local, other)),
    )


def _too_few(local: Point, other: Point) -> str:
    """Return how many seeds there are, and what they show."""
    shared = sorted(set(local.values("test/nll_nats")) & set(other.values("test/nll_nats")))
    text = f"{len(shared)} seed{'s' * (len(shared) != 1)} shared, and the criterion asks for three"
    if not shared:
        return text
    before, after = (
        {
            key: statistics.fmean(point.values(f"test/{key}")[seed] for seed in shared)
            for key in ("nll_nats", "accuracy", "ece")
        }
        for point in (local, other)
    )
    return (
        f"{text}; there, global for local: test loss {after['nll_nats']:.3f} for "
        f"{before['nll_nats']:.3f} nats, accuracy {percent(after['accuracy'])} for "
        f"{percent(before['accuracy'])}, ECE {percent(after['ece'])} for {percent(before['ece'])}"
    )


def _rise(flat: Point, layerwise: Point) -> Verdict:
    rises = [rise_of(run) for run in layerwise.runs]
    flat_rises = [rise_of(run) for run in flat.runs]
    known = [rise for rise in rises if rise is not None]
    flat_known = [rise for rise in flat_rises if rise is not None]
    if len(known) < len(rises) or len(flat_known) < len(flat_rises):
        return untestable(
            "A13", f"a run has fewer than {FEWEST_EVALUATIONS} evaluations (evaluate_every)"
        )
    parts = {
        f"layerwise rises by at least {RISE:g} in every seed": min(known) >= RISE,
        f"flat stays below {FLAT_RISE:g}": max(flat_known) < FLAT_RISE,
    }
    missed = [name for name, is_met in parts.items() if not is_met]
    num_seeds = min(len(known), len(flat_known))
    few = f"{num_seeds} seed{'s' * (num_seeds != 1)}, fewer than three"
    outcome: Outcome = "not reproduced" if missed else "reproduced"
    if not missed and num_seeds < FEWEST_SEEDS:
        return untestable(
            "A13", f"{few}; there the criterion is met: {_rises(layerwise, known, flat_known)}"
        )
    is_finite = math.isfinite(sum(known))
    return Verdict(
        claim="A13",
        outcome=outcome,
        ours=_rises(layerwise, known, flat_known),
        value=sum(known) / len(known) if is_finite else None,
        interval=mean_interval(known) if is_finite else None,
        reason="; ".join(
            [
                *([f"criterion missed: {', '.join(missed)}"] if missed else []),
                *([few] if num_seeds < FEWEST_SEEDS else []),
                "the interval is of the mean, while every seed decides",
            ]
        ),
        command=repeat((flat, layerwise)),
    )


def _rises(layerwise: Point, rises: Sequence[float], flat: Sequence[float]) -> str:
    return (
        f"last test loss above the lowest: layerwise {_nats(rises)}, flat {_nats(flat)} nats, by "
        f"seed, on {_num_watched(layerwise.first):,} test samples, where the lowest of noisy "
        f"values is a little too low"
    )


def _of(settings: Sequence[Point], function: str, style: str) -> list[Point]:
    """Return the points on CIFAR-10 of one clipping function and style, the longest runs alone."""
    found = [
        point
        for point in settings
        if point.first.data == DATA
        and point.first.config["dp"]
        and clipping_of(point)["function"] == function
        and clipping_of(point)["style"] == style
    ]
    longest = max((point.steps for point in found), default=0)
    return [point for point in found if point.steps == longest]


def _twin(point: Point, others: Sequence[Point], keys: Sequence[str]) -> Point | None:
    wanted = same_but_for(point.first, keys)
    return next((other for other in others if same_but_for(other.first, keys) == wanted), None)


def _on(point: Point) -> str:
    run = point.first
    eps = "" if run.eps is None else f", epsilon {stated(run.eps)}"
    return f"{run.data}, {run.model}{eps}, {run.steps:,} steps"


def _nats(rises: Sequence[float]) -> str:
    return ", ".join(f"{rise:.3f}" for rise in rises)
