"""The claims of paper A that are put to the test, what would meet each, and what came out.

Source: Bu et al. 2023, arXiv:2106.07830. Claims are restated, and numbers marked "digitised" are
read off its figures; criteria are this project's own.
"""

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["reproduced", "not reproduced", "not testable here"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim.

    Attributes:
        name: A1 to A17; parts that are judged apart end in a letter.
        title: What is claimed.
        paper: The paper's own value or wording; what it rests on.
        criterion: What must be measured for the verdict "reproduced".
    """

    name: str
    title: str
    paper: str
    criterion: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found of one claim.

    Attributes:
        claim: Name of the claim.
        outcome: Whether the criterion was met; or that it could not be tested.
        ours: What was measured, in words and numbers with units.
        value: The number that decides, if there is one.
        interval: 95 % interval of `value`, if it has one.
        reason: Why the outcome is what it is, where the number does not say so itself.
        command: What repeats the measurement.
    """

    claim: str
    outcome: Outcome
    ours: str
    value: float | None = None
    interval: tuple[float, float] | None = None
    reason: str = ""
    command: str = ""


CLAIMS = (
    Claim(
        name="A1",
        title="Under gradient flow the loss falls by (dL/df) H C (dL/df)^T, H the neural tangent "
        "kernel and C the clip factors.",
        paper="derived there",
        criterion="Euler steps of lr 1e-5 or less agree to 1 % in at least 99 of 100 random states",
    ),
    Claim(
        name="A2",
        title="Small R, flat: the kernel HC is not symmetric, its eigenvalues are real and not "
        "negative.",
        paper="Table 1",
        criterion="asymmetry above 1e-3 of the norm in all states; real parts above -1e-8 and "
        "imaginary parts below 1e-8 of the largest eigenvalue",
    ),
    Claim(
        name="A3",
        title="Small R, flat: the kernel may be negative as a quadratic form.",
        paper="Table 1",
        criterion="smallest eigenvalue of (HC + CH)/2 below -1e-6 of the largest in some state",
    ),
    Claim(
        name="A4",
        title="Small R, layerwise: eigenvalues of the kernel may be negative or complex.",
        paper="Table 1",
        criterion="a real part below -1e-6 or an imaginary part above 1e-6 of the largest "
        "eigenvalue in some state",
    ),
    Claim(
        name="A5",
        title="With R above every gradient norm, clipped training is ordinary training.",
        paper="Table 1: the loss falls monotonically to zero",
        criterion="trajectories without noise equal to 1e-6, and the loss never rises at small lr",
    ),
    Claim(
        name="A6",
        title="Small R, flat: the loss may rise under gradient flow.",
        paper="Table 1",
        criterion="a rise above 1e-4 of the loss from some start, and none at large R",
    ),
    Claim(
        name="A7",
        title="Noise has no effect on convergence in the limit of small learning rates.",
        paper="stated in the abstract: noise affects only the privacy",
        criterion="at fixed time and sigma 1 the gap of the mean loss to the noiseless run falls "
        "at least fivefold for each tenfold smaller lr, over 20 seeds",
    ),
    Claim(
        name="A8",
        title="Noise has no effect on calibration in the limit of small learning rates.",
        paper="stated in the abstract",
        criterion="ECE within 0.01 of the noiseless run at the smallest lr",
    ),
    Claim(
        name="A9",
        title="While every sample is clipped, only the product lr R matters.",
        paper="Figure 3: equal cells, as 31.39 % three times",
        criterion="(lr, R) and (lr/10, 10R) of one seed: accuracy within 0.1 point, weights within "
        "1e-4 of their norm",
    ),
    Claim(
        name="A10",
        title="Small R gives the best accuracy.",
        paper="97.17 % at R 0.1 against 96.04 % at R 100 (Figure 3)",
        criterion="best accuracy at R 0.1 to 1 not below that at R 100 by more than 0.2 point",
    ),
    Claim(
        name="A11a",
        title="Large R gives a lower MCE at the same epsilon.",
        paper="38.8 % at R 1 against 27.5 % at R 10 (Figure 3, among cells within 2 points "
        "of 97.17 %)",
        criterion="among models within 2 points of the best accuracy, MCE is lower at larger R, "
        "paired over seeds",
    ),
    Claim(
        name="A11b",
        title="Large R gives a lower ECE at the same epsilon.",
        paper="0.7 % at R 1 against 1.1 % at R 10 and 100 (Figure 3: it does not)",
        criterion="among models within 2 points of the best accuracy, ECE is lower at larger R, "
        "paired over seeds",
    ),
    Claim(
        name="A12",
        title="CIFAR-10 CNN: global against local flat clipping lowers the loss and the accuracy, "
        "and calibrates.",
        paper="test loss 1.487 for 1.755, accuracy 46.0 % for 48.8 % (digitised)",
        criterion="test loss lower by at least 0.15 nats, accuracy lower by 1 to 5 points, ECE at "
        "most half, over at least 3 seeds",
    ),
    Claim(
        name="A13",
        title="CIFAR-10 CNN: layerwise local clipping makes the loss rise late in training.",
        paper="test loss from about 1.74 to 1.965; flat does not (digitised)",
        criterion="final test loss above its own minimum by at least 0.1 nats in every seed; flat "
        "below 0.06",
    ),
    Claim(
        name="A14",
        title="A short tail at large R repairs calibration.",
        paper="SNLI: ECE 0.2145 to 0.176 for R 20 in the last 2,500 of 54,000 steps, accuracy "
        "0.7465 to 0.7355 (digitised)",
        criterion="against the same run without the tail, ECE lower by at least 0.03 and accuracy "
        "lower by at most 1.5 points",
    ),
    Claim(
        name="A15",
        title="R does not change the privacy guarantee.",
        paper="stated in the abstract",
        criterion="equal epsilon for equal sigma, q and K, whatever R",
    ),
    Claim(
        name="A16",
        title="SNLI was trained at epsilon 1.25, delta 1/550152.",
        paper="1.25, by a central-limit estimate",
        criterion="a sound accountant gives at most 1.25 for batch 32, sigma 0.4, 54,000 steps",
    ),
    Claim(
        name="A17",
        title="The kernel of global clipping is a scalar times H.",
        paper="Table of clippings in versions 1 to 5",
        criterion="the scalar form holds in states where some but not all samples are dropped",
    ),
)

CLAIM = {claim.name: claim for claim in CLAIMS}
