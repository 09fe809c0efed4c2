"""What a recalibration is asked for."""

from dataclasses import dataclass
from typing import Literal

Method = Literal["temperature", "platt"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One recalibration of a run.

    Attributes:
        method: Which scaling.
        eps: Of the fit alone; infinity fits without noise, and then there is no guarantee.
    """

    method: Method
    eps: float


def problems_of(method: Method | None, eps: float | None) -> list[str]:
    """Return what is wrong with what was asked for, one sentence each."""
    if method is None:
        return [
            f"recalibration.eps={eps}: there is nothing to fit at that epsilon; give "
            f"recalibration=temperature or recalibration=platt too"
        ]
    if eps is None:
        return [
            f"recalibration={method}: it is fitted to private samples and spends an epsilon of its "
            f"own, which has no default; give recalibration.eps=0.5, say, or recalibration.eps=inf "
            f"for a fit without noise, which has no guarantee"
        ]
    if not eps > 0:
        return [
            f"recalibration.eps={eps}: epsilon bounds the privacy loss and must be above 0; "
            f"recalibration.eps=inf fits without noise, and has no guarantee"
        ]
    return []
