"""What `dpexp theory` is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dpexp.claims import CLAIM
from dpexp.schema import did_you_mean

TESTED = ("A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8", "A9", "A15", "A16", "A17")


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which claims, and how thoroughly.

    Attributes:
        claims: Names, of `TESTED`.
        states: Random and trained states at which kernels are looked at.
        seeds: Noisy runs at each lr, two a pair of opposite noise.
        output: Folder for theory.json, README.md and figures.
        command: As typed.
    """

    claims: Sequence[str] = TESTED
    states: int = 100
    seeds: int = 20
    output: Path = Path("outputs/theory")
    command: Sequence[str] = ("dpexp", "theory")

    def asks(self, *claims: str) -> bool:
        """Return whether any of these is among those asked for."""
        return any(claim in self.claims for claim in claims)


def problems_of(request: Request) -> list[str]:
    """Return a sentence for each part of a request that cannot be met."""
    known = ", ".join(TESTED)
    problems = []
    for name in request.claims:
        if name in TESTED:
            continue
        elsewhere = name in CLAIM
        problems.append(
            f"claims={name}: is put to the test by training runs, not by theory; see dpexp report; "
            f"theory tests {known}"
            if elsewhere
            else f"claims={name}: no such claim; {did_you_mean(name, TESTED)}known: {known}"
        )
    if not request.claims:
        problems.append(f"claims=: nothing to test; known: {known}")
    if request.states < 1:
        problems.append(f"states={request.states}: a claim needs a state to be seen at; 1 or more")
    if request.seeds < 4 or request.seeds % 2:
        problems.append(
            f"seeds={request.seeds}: seeds come in pairs of opposite noise, and an interval needs "
            f"two pairs; give an even number from 4"
        )
    return problems
