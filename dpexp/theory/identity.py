"""A1: the loss falls at the rate that the kernel says, seen by one step of the engine."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dpexp.config import Style
from dpexp.theory.flow import Clip, losses_along
from dpexp.theory.found import Found, judge, rounded
from dpexp.theory.states import State

LRS = (1e-4, 1e-5, 1e-6, 1e-7)
JUDGED_LR = 1e-6
TOLERANCE = 0.01
STYLES: tuple[Style, ...] = ("flat", "layerwise")


@dataclass(frozen=True)
class Identity:
    """How far a finite difference is from the formula, relative, for each lr; one state, one style.

    Attributes:
        style: Flat or layerwise.
        errors: |measured / formula - 1|, in the order of `LRS`.
    """

    style: Style
    errors: Sequence[float]

    @property
    def judged(self) -> float:
        """The error at the lr that decides."""
        return self.errors[LRS.index(JUDGED_LR)]


def compare(state: State, style: Style) -> Identity:
    """Return the errors of (L(w + lr dw) - L(w)) / lr against -(dL/df) HC (dL/df)^T.

    Layerwise, every layer is clipped to the same R: the engine has one bound for all groups.
    """
    tangent = state.tangent
    if style == "flat":
        bound = state.small
        kernel = tangent.flat(bound)
    else:
        bound = float(tangent.layer_norms.quantile(max(state.quantile, 0.1)))
        kernel = tangent.layerwise([bound] * len(tangent.layers))
    rate = tangent.loss_rate(kernel)
    errors = []
    for lr in LRS:
        model = copy.deepcopy(state.model)
        before, after = losses_along(
            model, state.subject, Clip(bound, style=style), lr=lr, num_steps=1
        )
        errors.append(abs((after - before) / lr / rate - 1))
    return Identity(style, errors)


def judge_identity(found: Sequence[Identity]) -> Found:
    """Judge A1 on the same states for both styles."""
    words, shares = [], []
    for style in STYLES:
        errors = [each.judged for each in found if each.style == style]
        good = sum(error < TOLERANCE for error in errors)
        shares.append(good / len(errors))
        words.append(
            f"{style}: within 1 % in {good} of {len(errors)} states, median error "
            f"{np.median(errors):.2g}, largest {max(errors):.2g}"
        )
    numbers: dict[str, Any] = {"lrs": LRS}
    for style in STYLES:
        numbers[style] = [rounded(each.errors) for each in found if each.style == style]
    verdict = judge(
        "A1",
        is_met=min(shares) >= 0.99,
        ours=f"one step of lr {JUDGED_LR:g} of the engine; " + "; ".join(words),
        value=min(shares),
    )
    return Found([verdict], {"identity": numbers})
