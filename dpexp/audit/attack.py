"""An attack: one score a canary, a threshold fixed before, and what its errors rule out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dpexp.audit.bounds import ErrorRates, Scores, epsilon_any, error_rates
from dpexp.audit.subsampled import Family

CERTAIN = 1e30  # the score of an observation that gives the canary away, such as NaN


@dataclass(frozen=True)
class Attack:
    """What an attacker computed of each canary.

    Attributes:
        name: What it looks at.
        scores: Larger where the canary seems to be in, shape (m,).
        is_in: Fair coins, shape (m,).
        threshold: Fixed before the scores were seen.
    """

    name: str
    scores: Scores
    is_in: NDArray[np.bool_]
    threshold: float


@dataclass(frozen=True)
class Finding:
    """What an attack shows.

    Attributes:
        name: Of the attack.
        rates: How often it erred, with upper limits.
        epsilon: Lower bound, for a mechanism that is as claimed in all but its noise.
        epsilon_any: Lower bound for any mechanism in which canaries of one run fare independently
            of each other, as they do in the one claimed.
        error: Chance that the two fail; they rest on one pair of limits.
    """

    name: str
    rates: ErrorRates
    epsilon: float
    epsilon_any: float
    error: float


@dataclass(frozen=True)
class Part:
    """Attacks on one mechanism.

    Attributes:
        name: What was run.
        family: The mechanism as claimed.
        claimed: Its epsilon.
        findings: One an attack; their errors add up to the part's.
        attacks: The scores behind them.
        share: What a canary's gradient was clipped to, over R.
    """

    name: str
    family: Family
    claimed: float
    findings: Sequence[Finding]
    attacks: Sequence[Attack] = field(repr=False)
    share: float = 1.0

    @property
    def best(self) -> Finding:
        """The finding with the largest lower bound."""
        return max(self.findings, key=lambda finding: lower_bound(finding))

    @property
    def is_violated(self) -> bool:
        """Whether a lower bound is above what is claimed."""
        return lower_bound(self.best) > self.claimed


def lower_bound(finding: Finding) -> float:
    """Return the larger of a finding's two bounds."""
    return max(finding.epsilon, finding.epsilon_any)


def judge(
    name: str,
    attacks: Sequence[Attack],
    family: Family,
    claimed: float,
    *,
    delta: float,
    error: float,
    share: float = 1.0,
) -> Part:
    """Return what attacks on one mechanism show; each has an equal part of `error`."""
    each = error / len(attacks)
    findings = []
    for attack in attacks:
        rates = error_rates(attack.scores, attack.is_in, attack.threshold, each)
        least = family.least_epsilon(rates, delta)
        findings.append(Finding(attack.name, rates, least, epsilon_any(rates, delta), each))
    return Part(name, family, claimed, findings, attacks, share)


def known(scores: Scores) -> Scores:
    """Return scores with NaN, and infinities, as certainty: an attacker sees those too."""
    return np.nan_to_num(scores, nan=CERTAIN, posinf=CERTAIN, neginf=-CERTAIN)
