"""What a part of the theory's checks hands back, and how its numbers are put into words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dpexp.claims import Outcome, Verdict


@dataclass(frozen=True)
class Found:
    """Verdicts of some claims, and the numbers behind them.

    Attributes:
        verdicts: One a claim.
        numbers: What figures and tables are drawn from, by the part's name.
    """

    verdicts: Sequence[Verdict]
    numbers: Mapping[str, Any] = field(default_factory=dict)


def judge(
    claim: str,
    *,
    is_met: bool,
    ours: str,
    value: float | None = None,
    interval: tuple[float, float] | None = None,
    reason: str = "",
) -> Verdict:
    """Return the verdict of a claim whose criterion was met, or was not."""
    outcome: Outcome = "reproduced" if is_met else "not reproduced"
    return Verdict(
        claim=claim,
        outcome=outcome,
        ours=ours,
        value=value,
        interval=interval,
        reason=reason,
        command=f"dpexp theory claims={claim}",
    )


def rounded(values: Sequence[float], digits: int = 4) -> list[float]:
    """Return values with so many significant digits: what a file keeps of them."""
    return [float(f"{value:.{digits}g}") for value in values]
