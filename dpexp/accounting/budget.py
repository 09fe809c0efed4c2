"""Noise for a budget, and what a noise costs, under every accountant side by side."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from dpexp.accounting import gdp, pld, rdp, shuffled
from dpexp.accounting.bounds import (
    Bounds,
    PrvBound,
    epsilon_bounds,
    evaluate,
    exact_bounds,
    unavailable,
)
from dpexp.accounting.cache import cached
from dpexp.accounting.calibrate import (
    Calibration,
    cached_calibration,
    calibrate,
    round_up,
    search,
    smallest_sigma,
)
from dpexp.accounting.inputs import check_inputs, check_target
from dpexp.accounting.isolation import ChildLostError, run_in_child
from dpexp.errors import AccountingError

TABLE_POINTS = 100_000  # PRV's grid for the sigmas that are shown for comparison; 0.2 s


@dataclass(frozen=True, kw_only=True)
class Row:
    """One noise multiplier, and what its epsilon is.

    Attributes:
        accountant: Whose sigma it is: "prv" (the sound one), "pld", "rdp", "gdp", or "given".
        noise_multiplier: The smallest sigma that meets the target by that accountant.
        bounds: Its epsilon by every accountant.
    """

    accountant: str
    noise_multiplier: float
    bounds: Bounds

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Row":
        """Build it back from `dataclasses.asdict` after JSON."""
        return cls(**{**fields, "bounds": Bounds.from_dict(fields["bounds"])})


@dataclass(frozen=True, kw_only=True)
class Published:
    """The three epsilons of protocol=published: shuffled batches, central-limit accountant.

    Attributes:
        noise_multiplier: sigma, by the central limit for a target, else as given.
        claimed: Epsilon as the papers state it (GDP); an approximation and no guarantee.
        poisson: Sound epsilon, had the batches been Poisson samples.
        shuffled: Sound epsilon of the shuffled batches, without amplification.
        num_epochs: Epochs started, each one Gaussian release of every sample.
    """

    noise_multiplier: float
    claimed: float
    poisson: float
    shuffled: float
    num_epochs: int


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What `dpexp budget` prints.

    Attributes:
        eps: The target; None where the noise multiplier was given.
        delta: As given.
        batch: B, expected batch size.
        num_train: N.
        sampling_rate: q = B / N.
        num_steps: K.
        rows: One a noise multiplier; the first is the sound or the given one.
        published: The same setting under protocol=published.
    """

    eps: float | None
    delta: float
    batch: int
    num_train: int
    sampling_rate: float
    num_steps: int
    rows: tuple[Row, ...]
    published: Published

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Budget":
        """Build it back from `dataclasses.asdict` after JSON."""
        rows = tuple(Row.from_dict(row) for row in fields["rows"])
        return cls(**{**fields, "rows": rows, "published": Published(**fields["published"])})


def budget(
    *,
    eps: float | None = None,
    noise_multiplier: float | None = None,
    delta: float,
    batch: int,
    num_train: int,
    epochs: float | None = None,
    steps: int | None = None,
) -> Budget:
    """Return noise for a budget, or the budget of a noise; cached on disk.

    Args:
        eps: Target epsilon; excludes `noise_multiplier`.
        noise_multiplier: sigma, in place of a target.
        delta: In (0, 1).
        batch: B, samples.
        num_train: N, samples; public.
        epochs: Expected passes, K = round(epochs N / B); excludes `steps`.
        steps: K.

    Raises:
        AccountingError: If an argument is out of range, or the target cannot be met.
    """
    _check_choices(eps, noise_multiplier, batch, num_train, epochs, steps)
    if steps is None:
        assert epochs is not None
        steps = max(1, round(epochs * num_train / batch))
    q = batch / num_train
    if eps is not None:
        check_target(eps, delta, q, steps)
    if noise_multiplier is not None:
        check_inputs(noise_multiplier, q, steps, delta)

    def compute() -> Budget:
        if noise_multiplier is None:
            assert eps is not None
            rows = _rows(eps, delta, q, steps)
        else:
            bounds = epsilon_bounds(noise_multiplier, q, steps, delta)
            rows = (Row(accountant="given", noise_multiplier=noise_multiplier, bounds=bounds),)
        return Budget(
            eps=eps,
            delta=delta,
            batch=batch,
            num_train=num_train,
            sampling_rate=q,
            num_steps=steps,
            rows=rows,
            published=_published(rows[-1], delta, q, steps),
        )

    inputs = {
        "eps": None if eps is None else float(eps),
        "sigma": None if noise_multiplier is None else float(noise_multiplier),
        "delta": delta,
        "batch": batch,
        "num_train": num_train,
        "steps": steps,
    }
    return cached("budget", inputs, compute, Budget.from_dict, _is_final)


def _check_choices(
    eps: float | None,
    noise_multiplier: float | None,
    batch: int,
    num_train: int,
    epochs: float | None,
    steps: int | None,
) -> None:
    problems = []
    if (eps is None) == (noise_multiplier is None):
        problems.append(
            f"eps={eps} and noise_multiplier={noise_multiplier}: one follows from the other; give "
            f"exactly one"
        )
    if (epochs is None) == (steps is None):
        problems.append(f"epochs={epochs} and steps={steps}: give exactly one of the two")
    if not 1 <= batch <= num_train:
        problems.append(
            f"batch={batch} with {num_train} samples: the expected batch size must be from 1 to "
            f"the size of the data set"
        )
    if epochs is not None and not 0 < epochs < math.inf:
        problems.append(f"epochs={epochs}: must be finite and above 0")
    if problems:
        raise AccountingError("\n".join(problems))


def _is_final(result: Budget) -> bool:
    return all(row.bounds.is_final for row in result.rows)


def _rows(eps: float, delta: float, q: float, steps: int) -> tuple[Row, ...]:
    """Return a row for each accountant's sigma; the sound one first, the central limit's last."""
    if math.isinf(eps) or q == 1:
        sound, others = calibrate(eps, delta, q, steps), _exact_rows(eps, delta, q, steps)
    else:
        found, others = _search_rows(eps, delta, q, steps)
        sound = cached_calibration(eps, delta, q, steps, lambda: found)
    first = Row(accountant="prv", noise_multiplier=sound.noise_multiplier, bounds=sound.bounds)
    return (first, *others)


def _exact_rows(eps: float, delta: float, q: float, steps: int) -> list[Row]:
    if math.isinf(eps):
        return []
    return [
        Row(accountant=name, noise_multiplier=s, bounds=exact_bounds(s, q, steps, delta))
        for name, s in _other_sigmas(eps, delta, q, steps).items()
    ]


def _search_rows(eps: float, delta: float, q: float, steps: int) -> tuple[Calibration, list[Row]]:
    arguments = {"eps": eps, "delta": delta, "q": q, "steps": steps}
    try:
        answer = run_in_child("budget", arguments)
    except ChildLostError as error:
        stand_in = unavailable(error)
        sound = search(eps, delta, q, steps, stand_in)
        return sound, other_rows(eps, delta, q, steps, stand_in)
    others = [Row.from_dict(row) for row in answer["other_rows"]]
    return Calibration.from_dict(answer["calibrate"]), others


def other_rows(eps: float, delta: float, q: float, steps: int, prv_bound: PrvBound) -> list[Row]:
    """Return the rows beside the sound one, for q below 1 and a finite target; not cached."""
    return [
        Row(
            accountant=name,
            noise_multiplier=sigma,
            bounds=evaluate(sigma, q, steps, delta, prv_bound, TABLE_POINTS),
        )
        for name, sigma in _other_sigmas(eps, delta, q, steps).items()
    ]


def _other_sigmas(eps: float, delta: float, q: float, steps: int) -> dict[str, float]:
    """Return the sigma that each other accountant asks for, rounded up to 4 decimals."""
    by_gdp = gdp.noise_multiplier(eps, delta, q, steps)
    smallest = partial(smallest_sigma, eps=eps, delta=delta, q=q, steps=steps)
    by_rdp = smallest(rdp.epsilon, start=1.2 * by_gdp)
    by_pld = smallest(pld.epsilon, start=by_rdp / 1.1)
    return {"pld": by_pld, "rdp": by_rdp, "gdp": round_up(by_gdp)}


def _published(row: Row, delta: float, q: float, steps: int) -> Published:
    epochs = shuffled.epochs_started(steps, q)
    return Published(
        noise_multiplier=row.noise_multiplier,
        claimed=row.bounds.gdp,
        poisson=row.bounds.epsilon,
        shuffled=shuffled.epsilon(row.noise_multiplier, epochs, delta),
        num_epochs=epochs,
    )
