"""The audit in one run: an ordinary training run with fair coins for its canaries.

Two kinds of canaries are in one run. Training images with a random wrong label, told apart by how
far their loss fell from the first weights to the last (black box: only the final model is seen);
and canaries with a coordinate of their own, told apart by their score over all steps (white box).
The training set holds the images that are no canaries, and each canary whose coin fell so.

Source: Steinke, Nasr & Jagielski 2023, arXiv:2305.08846, Algorithm 1 and Section 5.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dpexp.audit.attack import known
from dpexp.audit.bounds import Scores, upper_limit
from dpexp.audit.guesses import Guesses, chance_of, epsilon_of_guesses, guess
from dpexp.audit.mislabelled import ImageCanaries, accuracy, losses_of
from dpexp.audit.subject import Materials, Subject
from dpexp.audit.subsampled import Family
from dpexp.audit.watch import Look, rehearsed, watch

IMAGE_SHARES = (0.05, 0.2, 1.0)  # of the canaries that are guessed; looks that are all paid for
_COORDINATE_SHARES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_REHEARSALS = 5
_MARGIN = 0.3  # of epsilon


@dataclass(frozen=True)
class GuessFinding:
    """What guesses about some of the canaries show.

    Attributes:
        score: What they go by.
        guesses: How many, and how many were right.
        accuracy_low: Lower end of the interval of their accuracy (Clopper & Pearson), at 1 - error
            if guesses were independent; it is shown, and nothing rests on it.
        accuracy_high: Upper end.
        epsilon: Lower bound for any mechanism, Theorem 5.2.
        claim_chance: Upper bound on the chance of so many right guesses under the claim.
        error: Chance that the lower bound fails.
    """

    score: str
    guesses: Guesses
    accuracy_low: float
    accuracy_high: float
    epsilon: float
    claim_chance: float
    error: float


@dataclass(frozen=True)
class GuessPart:
    """One kind of canary in the run.

    Attributes:
        name: Which kind.
        findings: One a look; their errors add up to the part's.
        scores: Of the first look, shape (m,).
        is_in: The coins, shape (m,).
    """

    name: str
    findings: Sequence[GuessFinding]
    scores: Scores = field(repr=False)
    is_in: NDArray[np.bool_] = field(repr=False)

    @property
    def best(self) -> GuessFinding:
        """The finding with the largest lower bound."""
        return max(self.findings, key=lambda finding: finding.epsilon)


@dataclass(frozen=True)
class OneRun:
    """An audited training run.

    Attributes:
        family: sigma, q and K of the run.
        claimed: Its epsilon.
        num_kept: Training images that are no canaries.
        num_expected: N: those, and half of the image canaries; q = B / N.
        test_accuracy: Of the trained network, a fraction.
        parts: Image canaries, then those with a coordinate.
    """

    family: Family
    claimed: float
    num_kept: int
    num_expected: int
    test_accuracy: float
    parts: Sequence[GuessPart]

    @property
    def is_violated(self) -> bool:
        """Whether a lower bound is above what is claimed."""
        return max(part.best.epsilon for part in self.parts) > self.claimed


def audit_run(
    subject: Subject,
    materials: Materials,
    images: ImageCanaries,
    is_in: NDArray[np.bool_],
    *,
    claimed: float,
    delta: float,
    error: float,
    seed: int,
) -> OneRun:
    """Train once, and guess.

    Args:
        subject: Fresh, with the run's mechanism.
        materials: Model and data.
        images: The image canaries.
        is_in: Coins of the canaries with a coordinate.
        claimed: Epsilon of the mechanism.
        delta: Of the guarantee.
        error: Chance that any of the lower bounds fails; each part has half.
        seed: For simulations by which the number of guesses is chosen.
    """
    before = losses_of(subject, materials, images)
    look = Look(delta, error / 4)
    ratio, signed, _ = watch(subject, images.samples(materials), is_in, look, seed)
    after = losses_of(subject, materials, images)
    fall = known(before - after)
    part_error = error / 2
    counts = [max(1, round(share * len(images.rows))) for share in IMAGE_SHARES]
    best = best_count(subject, len(is_in), delta, part_error / 2, seed)
    refuting = refuting_count(len(is_in), claimed, delta, part_error / 2)
    kinds = (
        ("mislabelled images", images.is_in, [("fall of the loss", fall, n) for n in counts]),
        (
            "coordinates",
            is_in,
            [(ratio.name, ratio.scores, best), (signed.name, signed.scores, refuting)],
        ),
    )
    parts = [_part(*kind, claimed, delta, part_error) for kind in kinds]
    mechanism = subject.mechanism
    return OneRun(
        family=Family(mechanism.noise_multiplier, mechanism.sampling_rate, mechanism.num_steps),
        claimed=claimed,
        num_kept=len(images.kept),
        num_expected=round(mechanism.expected_batch_size / mechanism.sampling_rate),
        test_accuracy=accuracy(subject, materials.splits.test),
        parts=parts,
    )


def best_count(subject: Subject, num_canaries: int, delta: float, error: float, seed: int) -> int:
    """Return how many guesses prove most if the mechanism is as claimed, by simulation."""
    rng = np.random.default_rng(seed)
    half = num_canaries // 2
    counts = [max(2, round(share * 2 * half)) for share in _COORDINATE_SHARES]
    proven = np.zeros(len(counts))
    for _ in range(_REHEARSALS):
        groups = rehearsed(subject.family, subject.share, rng, half)
        mixed = rng.permutation(2 * half)
        scores, is_in = np.concatenate(groups)[mixed], (np.arange(2 * half) >= half)[mixed]
        proven += [epsilon_of_guesses(guess(scores, is_in, r), delta, error) for r in counts]
    return counts[int(proven.argmax())]


def refuting_count(num_canaries: int, claimed: float, delta: float, error: float) -> int:
    """Return how many guesses, were they all right, would prove `_MARGIN` more than the claim."""
    count = 10
    while count < num_canaries:
        all_right = Guesses(num_canaries, count, count)
        if epsilon_of_guesses(all_right, delta, error) > claimed + _MARGIN:
            return count
        count = math.ceil(1.25 * count)
    return num_canaries


def _part(
    name: str,
    is_in: NDArray[np.bool_],
    looks: Sequence[tuple[str, Scores, int]],
    claimed: float,
    delta: float,
    error: float,
) -> GuessPart:
    share = error / len(looks)
    findings = []
    for score, scores, count in looks:
        made = guess(scores, is_in, count)
        wrong = count - made.num_right
        findings.append(
            GuessFinding(
                score=score,
                guesses=made,
                accuracy_low=1 - upper_limit(wrong, count, share / 2),
                accuracy_high=upper_limit(made.num_right, count, share / 2),
                epsilon=epsilon_of_guesses(made, delta, share),
                claim_chance=chance_of(made, claimed, delta),
                error=share,
            )
        )
    return GuessPart(name, findings, looks[0][1], is_in)
