"""The smallest noise multiplier for a budget: searched with the fast bound, verified by both."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from dpexp.accounting import gaussian, gdp, pld, prv, rdp
from dpexp.accounting.bounds import (
    Bounds,
    PrvBound,
    cached_bounds,
    evaluate,
    exact_bounds,
    unavailable,
)
from dpexp.accounting.cache import cached
from dpexp.accounting.inputs import check_target
from dpexp.accounting.isolation import FAILURES, ChildLostError, run_in_child
from dpexp.errors import AccountingError

DECIMALS = 4  # of a sigma; rounded up, so that what is printed is what was verified
MAX_TRIES = 12  # verifications; the first succeeds but for tiny epsilons
MAX_EVALUATIONS = 80  # of one accountant in one search; about five are needed
COARSE = 4e-3  # relative error of the grid that a search starts on
NEAR_ENOUGH = 1e-4  # how far below the target a search may end, relatively

Epsilon = Callable[[float, float, int, float], float]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A noise multiplier and the bounds that it was verified with.

    Attributes:
        noise_multiplier: sigma, rounded up to 4 decimals; 0 for an infinite target.
        bounds: Its epsilons; `bounds.epsilon` is at most the target.
    """

    noise_multiplier: float
    bounds: Bounds

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Calibration":
        """Build it back from `dataclasses.asdict` after JSON."""
        return cls(
            noise_multiplier=float(fields["noise_multiplier"]),
            bounds=Bounds.from_dict(fields["bounds"]),
        )


def calibrate(eps: float, delta: float, sampling_rate: float, num_steps: int) -> Calibration:
    """Return the smallest sigma whose sound epsilon is at most `eps`; cached on disk.

    "Smallest" to 0.5 %: rounding and PRV's stated error make up the difference. The sound epsilon
    never exceeds the target.

    Args:
        eps: Target; infinity gives sigma 0.
        delta: In (0, 1).
        sampling_rate: q.
        num_steps: K.

    Raises:
        AccountingError: If an argument is out of range, or no sigma meets the target.
    """
    eps, delta, q, steps = check_target(eps, delta, sampling_rate, num_steps)

    def compute() -> Calibration:
        if math.isinf(eps):
            return _exact(0.0, q, steps, delta)
        if q == 1:
            sigma = round_up(math.sqrt(steps) / gaussian.mu_of(eps, delta))
            return _exact(sigma, q, steps, delta)
        try:
            arguments = {"eps": eps, "delta": delta, "q": q, "steps": steps}
            return Calibration.from_dict(run_in_child("calibrate", arguments))
        except ChildLostError as error:
            return search(eps, delta, q, steps, prv_bound=unavailable(error))

    return cached_calibration(eps, delta, q, steps, compute)


def cached_calibration(
    eps: float, delta: float, q: float, steps: int, compute: Callable[[], Calibration]
) -> Calibration:
    """Return the stored calibration, else compute it, and store it and its bounds."""
    inputs = {"eps": eps, "delta": delta, "q": q, "steps": steps}
    result = cached(
        "calibrate", inputs, compute, Calibration.from_dict, lambda result: result.bounds.is_final
    )
    of_bounds = {"sigma": result.noise_multiplier, "q": q, "steps": steps, "delta": delta}
    cached_bounds(of_bounds, lambda: result.bounds)
    return result


def search(eps: float, delta: float, q: float, steps: int, prv_bound: PrvBound) -> Calibration:
    """Return the calibration for q below 1 and a finite target; not cached.

    PLD finds sigma for a target lowered by PRV's error, so that PRV's bound then meets the target
    itself. If PRV has nothing to say, the target stays and PLD's bound is the sound one.
    """
    bound, start = _approach(eps, delta, q, steps)
    try:
        margin = prv.choose_error(start, q, steps, delta, eps)
    except AccountingError:
        margin = 0.0  # `evaluate` meets the same refusal, and notes it
    sigma = smallest_sigma(bound, eps - margin, delta, q, steps, start)
    for _ in range(MAX_TRIES):
        bounds = evaluate(sigma, q, steps, delta, prv_bound)
        if margin and bounds.prv is None:
            margin, sigma = 0.0, smallest_sigma(bound, eps, delta, q, steps, start)
        elif bounds.epsilon <= eps:
            return Calibration(noise_multiplier=sigma, bounds=bounds)
        else:
            # Epsilon falls about as 1 / sigma^2; the second bound keeps every try a move.
            sigma = round_up(sigma * max(math.sqrt(bounds.epsilon / eps), 1 + 1e-4))
    raise AccountingError(
        f"no sigma near {sigma} has a verified epsilon at most {eps} (the last try: "
        f"{bounds.epsilon}), so the budget cannot be promised; use a larger eps or delta"
    )


def _approach(eps: float, delta: float, q: float, steps: int) -> tuple[Epsilon, float]:
    """Return the accountant to search with, PLD or else RDP, and a sigma near its answer."""
    start = gdp.noise_multiplier(eps, delta, q, steps)
    # The work falls with the grid's error.
    coarse = partial(pld.epsilon, relative_error=COARSE)
    try:
        return pld.epsilon, smallest_sigma(coarse, eps, delta, q, steps, start)
    except FAILURES:
        return rdp.epsilon, start  # `evaluate` meets the same failure, and notes it


def smallest_sigma(
    accountant: Epsilon, eps: float, delta: float, q: float, steps: int, start: float
) -> float:
    """Return the smallest sigma by one accountant, rounded up to 4 decimals; within 0.01 %.

    Log epsilon is nearly linear in log sigma, so secant steps there need about five evaluations.

    Args:
        accountant: epsilon(noise_multiplier, sampling_rate, num_steps, delta), falling in sigma.
        eps: Target, finite.
        delta: In (0, 1).
        q: Sampling rate.
        steps: K.
        start: A guess; the closer, the fewer evaluations.

    Raises:
        AccountingError: If no sigma meets the target.
    """
    low, high = -math.inf, math.inf  # log sigmas that miss and that meet the target
    x, slope, previous = math.log(start), -1.5, None
    for num_evaluations in range(MAX_EVALUATIONS):
        epsilon = accountant(math.exp(x), q, steps, delta)
        # Bounded, because epsilon may be 0 or infinite far from the root.
        excess = math.log(min(max(epsilon, 1e-9 * eps), 1e9 * eps) / eps)
        low, high = (x, high) if excess > 0 else (low, x)
        if -NEAR_ENOUGH <= excess <= 0 or high - low < 1e-6:
            return round_up(math.exp(high))
        if previous is not None:
            slope = min(-0.5, max(-50.0, (excess - previous[1]) / (x - previous[0])))
        previous = (x, excess)
        x += min(1.0, max(-1.0, -(excess + NEAR_ENOUGH / 3) / slope))
        if not low < x < high or (num_evaluations > 15 and high - low < math.inf):
            x = (low + high) / 2
    raise AccountingError(
        f"no noise multiplier was found whose epsilon is {eps} at delta={delta}, q={q}, {steps} "
        f"steps, so the budget cannot be promised; use a larger eps or delta"
    )


def round_up(sigma: float) -> float:
    """Return `sigma` rounded up to 4 decimals; always above it."""
    return (math.floor(sigma * 10**DECIMALS) + 1) / 10**DECIMALS


def _exact(sigma: float, q: float, steps: int, delta: float) -> Calibration:
    return Calibration(noise_multiplier=sigma, bounds=exact_bounds(sigma, q, steps, delta))
