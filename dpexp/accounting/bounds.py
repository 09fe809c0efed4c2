"""Epsilon by every accountant, and the one that is reported.

The reported epsilon is the larger of two upper bounds that were computed by unrelated code: PRV and
PLD. If one fails the other stands alone, if both fail RDP does; either way `notes` says so.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dpexp.accounting import gaussian, gdp, pld, prv, rdp
from dpexp.accounting.cache import cached
from dpexp.accounting.inputs import check_inputs
from dpexp.accounting.isolation import FAILURES, ChildLostError, run_in_child
from dpexp.errors import AccountingError

MAX_DISAGREEMENT = 0.02  # between PRV's estimate and PLD, in epsilon

PrvBound = Callable[..., float]  # the signature of `prv.epsilon`


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Epsilon of one mechanism at one delta. Poisson sampling, neighbors add or remove a sample.

    Attributes:
        epsilon: The sound one: max(prv, pld), or what is left of them. Infinite without noise.
        source: Which accountant gave `epsilon`: "prv", "pld", "rdp", or "gaussian" where the
            curve is exact (q = 1, or no noise).
        prv: Upper bound by prv-accountant; None if it failed.
        prv_error: Half the width of its interval, so that its estimate is at least prv - prv_error.
        pld: Upper bound by dp-accounting's privacy loss distribution; None if it failed.
        rdp: Upper bound by Renyi orders, looser.
        gdp: Central-limit approximation. NOT a bound: it may lie below the true epsilon.
        notes: Every failure, fallback, timeout and disagreement; empty if all went well.
        is_final: False if a failure was one of time or process, which may not recur.
    """

    epsilon: float
    source: str
    prv: float | None
    prv_error: float | None
    pld: float | None
    rdp: float
    gdp: float
    notes: tuple[str, ...] = ()
    is_final: bool = True

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Bounds":
        """Build it back from `dataclasses.asdict` after JSON.

        Raises:
            TypeError: If a field is missing, unknown or not a number.
        """
        bounds = cls(**{**fields, "notes": tuple(fields["notes"])})
        if not isinstance(bounds.epsilon, int | float):
            raise TypeError(f"epsilon is {bounds.epsilon!r}, not a number")
        return bounds


def epsilon_bounds(
    noise_multiplier: float, sampling_rate: float, num_steps: int, delta: float
) -> Bounds:
    """Return epsilon of K Poisson-subsampled Gaussian steps by every accountant; cached on disk.

    It takes a second or two, and is stopped after two minutes: the accountant that can hang runs in
    a child process with limits of time and memory.

    Args:
        noise_multiplier: sigma; 0 gives infinity.
        sampling_rate: q in (0, 1]; 1 is taken exactly.
        num_steps: K.
        delta: In (0, 1).

    Raises:
        AccountingError: If an argument is out of range.
    """
    sigma, q, steps, delta = check_inputs(noise_multiplier, sampling_rate, num_steps, delta)
    inputs = {"sigma": sigma, "q": q, "steps": steps, "delta": delta}

    def compute() -> Bounds:
        if is_exact(sigma, q):
            return exact_bounds(sigma, q, steps, delta)
        try:
            return Bounds.from_dict(run_in_child("bounds", inputs))
        except ChildLostError as error:
            return evaluate(sigma, q, steps, delta, prv_bound=unavailable(error))

    return cached_bounds(inputs, compute)


def cached_bounds(inputs: dict[str, float], compute: Callable[[], Bounds]) -> Bounds:
    """Return the stored bounds of sigma, q, steps and delta, else compute and store them."""
    return cached("bounds", inputs, compute, Bounds.from_dict, lambda bounds: bounds.is_final)


def sound_epsilon(
    noise_multiplier: float, sampling_rate: float, num_steps: int, delta: float
) -> float:
    """Return the epsilon of `epsilon_bounds` that is reported."""
    return epsilon_bounds(noise_multiplier, sampling_rate, num_steps, delta).epsilon


def unavailable(reason: ChildLostError) -> PrvBound:
    """Return a stand-in for `prv.epsilon` that fails for this reason, so that it is recorded."""

    def raise_reason(**_: float) -> float:
        raise reason

    return raise_reason


def is_exact(sigma: float, q: float) -> bool:
    """Say whether epsilon has a closed form: no noise, or no subsampling."""
    return sigma == 0 or q == 1


def exact_bounds(sigma: float, q: float, steps: int, delta: float) -> Bounds:
    """Return the bounds where epsilon is that of a Gaussian mechanism, or infinite."""
    epsilon = gaussian.epsilon_of_steps(sigma, steps, delta)
    return Bounds(
        epsilon=epsilon,
        source="gaussian",
        prv=epsilon,
        prv_error=0.0,
        pld=epsilon,
        rdp=rdp.epsilon(sigma, q, steps, delta),
        gdp=gdp.epsilon(sigma, q, steps, delta),
    )


def evaluate(
    sigma: float,
    q: float,
    steps: int,
    delta: float,
    prv_bound: PrvBound,
    preferred_points: int = prv.PREFERRED_POINTS,
) -> Bounds:
    """Return the bounds of a subsampled mechanism, with PRV by `prv_bound`; not cached."""
    notes: list[str] = []
    by_rdp = rdp.epsilon(sigma, q, steps, delta)
    by_pld = pld_or_none(sigma, q, steps, delta, notes)
    by_prv, error, is_final = None, None, True
    try:
        near = by_rdp if by_pld is None else by_pld
        error = prv.choose_error(sigma, q, steps, delta, near, preferred_points)
        by_prv = prv_bound(
            noise_multiplier=sigma, sampling_rate=q, num_steps=steps, delta=delta, eps_error=error
        )
    except FAILURES as failure:
        kind = "" if isinstance(failure, AccountingError) else f"{type(failure).__name__}: "
        notes.append(f"PRV gave no bound: {kind}{failure}")
        is_final = not isinstance(failure, ChildLostError | MemoryError)
    epsilon, source = _sound(by_prv, by_pld, by_rdp, error, notes)
    return Bounds(
        epsilon=epsilon,
        source=source,
        prv=by_prv,
        prv_error=None if by_prv is None else error,
        pld=by_pld,
        rdp=by_rdp,
        gdp=gdp.epsilon(sigma, q, steps, delta),
        notes=tuple(notes),
        is_final=is_final,
    )


def pld_or_none(sigma: float, q: float, steps: int, delta: float, notes: list[str]) -> float | None:
    """Return the PLD bound; where it is not finite or fails, None and the reason in `notes`."""
    try:
        epsilon = pld.epsilon(sigma, q, steps, delta)
    except FAILURES as error:
        notes.append(f"PLD gave no bound: {type(error).__name__}: {error}")
        return None
    if not math.isfinite(epsilon):
        notes.append(f"PLD gave no finite bound: delta={delta:g} is below what it resolves")
        return None
    return epsilon


def _sound(
    by_prv: float | None,
    by_pld: float | None,
    by_rdp: float,
    error: float | None,
    notes: list[str],
) -> tuple[float, str]:
    """Return the reported epsilon and its accountant; notes what stands in for what."""
    if by_prv is not None and by_pld is not None:
        gap = by_prv - (error or 0.0) - by_pld
        if abs(gap) > MAX_DISAGREEMENT:
            notes.append(
                f"PRV's estimate and PLD differ by {gap:+.3g}, above {MAX_DISAGREEMENT}; the "
                f"larger bound is reported"
            )
        return max((by_prv, "prv"), (by_pld, "pld"))
    if by_pld is not None:
        notes.append("epsilon is the PLD bound alone")
        return by_pld, "pld"
    if by_prv is not None:
        notes.append("epsilon is the PRV bound alone")
        return by_prv, "prv"
    notes.append("epsilon is the RDP bound, looser than need be")
    return by_rdp, "rdp"
