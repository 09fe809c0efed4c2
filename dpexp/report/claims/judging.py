"""What the verdicts of all claims share: words for numbers, commands, and many parts made one."""

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from dpexp.claims import Outcome, Verdict
from dpexp.report.groups import Point
from dpexp.report.statistics import Paired

Part = tuple[str, Verdict]  # what it was judged on, and the verdict there

# Words of a command that say where a run goes and what it runs on; seeds are listed anew.
LOCAL_KEYS = ("output", "wandb", "micro_batch", "device", "seed", "resume")


def points(fraction: float, digits: int = 2) -> str:
    """Return a difference of fractions in percentage points, with its sign."""
    return f"{100 * fraction:+.{digits}f}"


def percent(fraction: float | None, digits: int = 2) -> str:
    """Return a fraction as a percentage, or a dash."""
    return "-" if fraction is None else f"{100 * fraction:.{digits}f} %"


def spread(found: Paired, *, scale: float = 100, unit: str = "points", digits: int = 2) -> str:
    """Return a paired difference with its interval, effect size and exact p in words."""
    low, middle, high = (scale * x for x in (found.low, found.difference, found.high))
    text = f"{middle:+.{digits}f} {unit} [{low:+.{digits}f}, {high:+.{digits}f}]"
    floor = ", the smallest there can be" if found.p_exact <= found.smallest_p else ""
    return (
        f"{text}, {found.num_seeds} seeds, d_z {found.effect:.1f}, sign-flip p "
        f"{found.p_exact:.3g}{floor}"
    )


def reason_of(missed: Sequence[str], margins: Iterable[tuple[str, Paired, float]]) -> str:
    """Return which parts missed their criterion, and which the seeds leave open.

    Args:
        missed: Names of the parts that missed it, by their means.
        margins: Name of a part, what was found, and a margin that its difference is held against.
    """
    parts = [f"criterion missed by: {', '.join(missed)}"] if missed else []
    is_open = [name for name, found, margin in margins if found.low < margin < found.high]
    if is_open:
        names = " and ".join(dict.fromkeys(is_open))
        parts.append(f"the interval of {names} holds the margin: the means decide")
    return "; ".join(parts)


def repeat(settings: Iterable[Point]) -> str:
    """Return the commands that make these points again, machine's words left out."""
    return "; ".join(dict.fromkeys(_sweep(point) for point in settings))


def combine(claim: str, parts: Sequence[Part], otherwise: str) -> tuple[Verdict, str]:
    """Return the verdict of all parts together and what it was judged on.

    Reproduced if every part that could be judged was; a claim that holds on one data set and not
    on another has not been reproduced, and the parts say where.

    Args:
        claim: Its name.
        parts: One a data set and epsilon.
        otherwise: Why it cannot be tested where there is no part at all.
    """
    judged = [part for part in parts if part[1].outcome != "not testable here"]
    if not judged:
        reason = "; ".join(f"{on}: {verdict.reason}" for on, verdict in parts) or otherwise
        return untestable(claim, reason), ""
    if len(parts) == 1:
        return judged[0][1], judged[0][0]
    met = [on for on, verdict in judged if verdict.outcome == "reproduced"]
    outcome: Outcome = "reproduced" if len(met) == len(judged) else "not reproduced"
    words = "; ".join(f"{on}: {verdict.ours} ({verdict.outcome})" for on, verdict in judged)
    reasons = [f"{on}: {verdict.reason}" for on, verdict in parts if verdict.reason]
    verdict = Verdict(
        claim=claim,
        outcome=outcome,
        ours=f"met in {len(met)} of {len(judged)} settings. {words}",
        reason="; ".join(reasons),
        command="; ".join(dict.fromkeys(v.command for _, v in judged if v.command)),
    )
    return verdict, "; ".join(on for on, _ in judged)


def untestable(claim: str, reason: str) -> Verdict:
    """Return the verdict of a claim that there are no data for."""
    return Verdict(claim=claim, outcome="not testable here", ours="", reason=reason)


def clipping_of(point: Point) -> Any:
    """Return the section clipping of a point's configuration."""
    return point.first.config["clipping"]


def _sweep(point: Point) -> str:
    try:
        words = shlex.split(point.first.provenance["command"])
    except (KeyError, ValueError):
        words = []
    keys = [word.partition("=")[0].partition(".")[0] for word in words]
    kept = [word for word, key in list(zip(words, keys, strict=True))[2:] if key not in LOCAL_KEYS]
    seeds = ",".join(map(str, point.seeds))
    return shlex.join(["dpexp", "sweep", *kept, f"seed={seeds}"])
