"""A14: a short tail at a larger R, against the same run without it."""

import math
from collections.abc import Iterator, Sequence

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
from dpexp.report.groups import SELECTED_BY, Point, same_but_for
from dpexp.report.runs import ROOTS
from dpexp.report.statistics import paired

TAIL_KEYS = ("clipping.tail_norm", "clipping.tail_steps", "clipping.tail_lr")
WATCHED_KEYS = ("evaluate_every", "evaluate_samples", "checkpoint_every")
ECE_FALL, ACCURACY_FALL = 0.03, 0.015


def judge_tail(settings: Sequence[Point]) -> Iterator[Part]:
    """Yield the verdict on A14 for each run without a tail that has twins with one at larger R.

    Of several tails of one run the one with the lowest ECE on validation is judged, among those
    that keep the accuracy there; the words say of how many.
    """
    for twin in (point for point in settings if not clipping_of(point)["tail_norm"]):
        tails = [point for point in settings if _is_tail_of(point, twin, settings)]
        if tails:
            run = twin.first
            on = f"{run.data}, {run.model}, epsilon {stated(run.eps or 0)}"
            yield on, _tail(twin, _chosen(twin, tails), len(tails))


def twin_of(tail: Point, settings: Sequence[Point]) -> Point | None:
    """Return the point that differs in the tail alone, of one experiment first; None without."""
    keys = ("seed", *TAIL_KEYS, *WATCHED_KEYS, *ROOTS)
    wanted = same_but_for(tail.first, keys)
    twins = [
        point
        for point in settings
        if not clipping_of(point)["tail_norm"] and same_but_for(point.first, keys) == wanted
    ]
    # Then the one with most seeds in common.
    return max(
        twins,
        key=lambda point: (
            point.first.experiment == tail.first.experiment,
            len(set(point.seeds) & set(tail.seeds)),
        ),
        default=None,
    )


def _is_tail_of(tail: Point, twin: Point, settings: Sequence[Point]) -> bool:
    norm = clipping_of(tail)["tail_norm"]
    return norm is not None and norm > tail.clip_norm and twin_of(tail, settings) is twin


def _chosen(twin: Point, tails: Sequence[Point]) -> Point:
    floor = (twin.mean(SELECTED_BY) or 0.0) - ACCURACY_FALL
    keeps = [point for point in tails if (point.mean(SELECTED_BY) or 0.0) >= floor]
    return min(keeps or tails, key=_validation_ece)


def _validation_ece(point: Point) -> float:
    """Return it; infinite without a validation part."""
    found = point.mean("val/ece")
    return math.inf if found is None else found


def _tail(twin: Point, tail: Point, num_tails: int) -> Verdict:
    ece = paired(twin.values("test/ece"), tail.values("test/ece"))
    accuracy = paired(twin.values("test/accuracy"), tail.values("test/accuracy"))
    if ece is None or accuracy is None:
        shared = len(twin.values("test/ece").keys() & tail.values("test/ece").keys())
        num_diverged = twin.num_diverged + tail.num_diverged
        return untestable(
            "A14",
            f"{shared} seed{'s' * (shared != 1)} measured with the tail and without it"
            f"{f' ({num_diverged} runs diverged)' * bool(num_diverged)}, and a paired interval "
            f"needs two",
        )
    parts = {
        "ECE": ece.difference <= -ECE_FALL,
        "accuracy": accuracy.difference >= -ACCURACY_FALL,
    }
    missed = [name for name, is_met in parts.items() if not is_met]
    outcome: Outcome = "not reproduced" if missed else "reproduced"
    clipping = clipping_of(tail)
    is_chosen = math.isfinite(_validation_ece(tail))
    of_several = f", of {num_tails} tails the {'best on validation' if is_chosen else 'first'}"
    return Verdict(
        claim="A14",
        outcome=outcome,
        ours=(
            f"R {tail.clip_norm:g}, then {clipping['tail_norm']:g} in the last "
            f"{clipping['tail_steps']:,} of {tail.steps:,} steps"
            f"{of_several * (num_tails > 1)}: ECE {percent(ece.first)} to {percent(ece.second)} "
            f"({spread(ece)}); accuracy {percent(accuracy.first)} to {percent(accuracy.second)} "
            f"({spread(accuracy)})"
        ),
        value=100 * ece.difference,
        interval=(100 * ece.low, 100 * ece.high),
        reason=reason_of(missed, [("ECE", ece, -ECE_FALL), ("accuracy", accuracy, -ACCURACY_FALL)]),
        command=repeat((twin, tail)),
    )
