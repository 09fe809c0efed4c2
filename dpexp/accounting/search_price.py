"""Epsilon of having searched: the best of several runs of one mechanism on the same data.

Two things may be claimed. If all runs are fixed beforehand, as on a grid, choosing the best is
covered by composing all of them, whatever is shown of the others. If the number of runs is itself
drawn at random, and nothing but the best run is ever seen, Papernot & Steinke 2022 bound the choice
by far less. Their bounds say nothing of a number that was fixed.

With K runs, E[K] = m, of a mechanism with Renyi divergence r(l) at order l, the best has at most

    r(l) + (1 + eta) ((1 - 1/h) r(h) + log(1/gamma) / h) + log(m) / (l - 1)       for every h >= 1,

if K is truncated negative binomial of shape eta > -1 (1: geometric, 0: logarithmic), and

    r(l) + m d + log(m) / (l - 1)           with d = delta of one run at epsilon log(1 + 1/(l - 1)),

if K is Poisson, where no run at all may come out.

Source: Papernot & Steinke 2022, arXiv:2110.03620, Definition 1 (gamma), Theorems 2 and 6.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dpexp.accounting import gaussian, pld, rdp
from dpexp.accounting.bounds import sound_epsilon
from dpexp.accounting.cache import cached
from dpexp.accounting.inputs import check_inputs
from dpexp.accounting.isolation import FAILURES
from dpexp.errors import AccountingError

SHAPES = {"geometric": 1.0, "logarithmic": 0.0, "negative_binomial": -0.5}

# The divergence of a subsampled mechanism bends sharply near the best order, about 5 to 20.
ORDERS = (
    *(1 + i / 100 for i in range(1, 10)),
    *(1 + i / 10 for i in range(1, 111)),
    *range(13, 65),
    *(round(64 * 2 ** (i / 6)) for i in range(1, 37)),
)


@dataclass(frozen=True, kw_only=True)
class SearchPrice:
    """Epsilon of choosing the best of several runs, all at one delta, batches Poisson samples.

    Attributes:
        num_runs: How many there are; for the random numbers, their mean.
        delta: As given.
        single: One run, nothing chosen; the sound epsilon.
        composed: All runs, their number fixed beforehand; the sound epsilon of all their steps.
            Holds for any choice among them, and for showing them all.
        geometric: The best of a geometric number of runs. This and the next three hold only if the
            number was drawn from that distribution, and nothing of the other runs is seen.
        logarithmic: Of a logarithmic number.
        negative_binomial: Of a truncated negative binomial number, shape -1/2.
        poisson: Of a Poisson number; with probability exp(-num_runs) there is no run.
    """

    num_runs: int
    delta: float
    single: float
    composed: float
    geometric: float
    logarithmic: float
    negative_binomial: float
    poisson: float

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "SearchPrice":
        """Build it back from `dataclasses.asdict` after JSON."""
        return cls(**fields)


def price_of_search(
    noise_multiplier: float, sampling_rate: float, num_steps: int, num_runs: int, delta: float
) -> SearchPrice:
    """Return what choosing the best of `num_runs` runs costs; a few seconds, cached on disk.

    Runs may differ in what costs nothing, as the learning rate. Where they differ in sigma, q or
    K, the bounds hold for the smallest sigma, largest q and largest K among them.

    Args:
        noise_multiplier: sigma of every run; 0 gives infinity.
        sampling_rate: q of every run.
        num_steps: K, steps of one run.
        num_runs: Runs, at least 1; the mean where the number is random.
        delta: In (0, 1).

    Raises:
        AccountingError: If an argument is out of range.
    """
    sigma, q, steps, delta = check_inputs(noise_multiplier, sampling_rate, num_steps, delta)
    if not (1 <= num_runs < math.inf and num_runs == int(num_runs)):
        raise AccountingError(
            f"num_runs={num_runs}: the best is chosen of a whole number of runs, at least 1"
        )
    runs = int(num_runs)

    def compute() -> SearchPrice:
        curve = rdp.curve(sigma, q, steps, ORDERS)
        selected = {name: of_negative_binomial(curve, shape, runs, delta)
                    for name, shape in SHAPES.items()}  # fmt: skip
        return SearchPrice(
            num_runs=runs,
            delta=delta,
            single=sound_epsilon(sigma, q, steps, delta),
            composed=sound_epsilon(sigma, q, runs * steps, delta),
            poisson=of_poisson(curve, _deltas(sigma, q, steps, delta), runs, delta),
            **selected,
        )

    inputs = {"sigma": sigma, "q": q, "steps": steps, "runs": runs, "delta": delta}
    return cached("search", inputs, compute, SearchPrice.from_dict)


def of_negative_binomial(curve: Sequence[float], shape: float, mean: float, delta: float) -> float:
    """Return epsilon of the best of a truncated negative binomial number of runs (Theorem 2).

    Args:
        curve: Renyi divergence of one run at each of `ORDERS`.
        shape: eta, above -1.
        mean: E[K], at least 1.
        delta: In (0, 1).
    """
    log_inverse = -math.log(gamma_of(shape, mean))
    # At order 1 the divergence has no weight: log(1 / gamma) remains.
    of_other = min(
        log_inverse,
        *((1 - 1 / h) * r + log_inverse / h for h, r in zip(ORDERS, curve, strict=True)),
    )
    chosen = [
        r + (1 + shape) * of_other + math.log(mean) / (order - 1)
        for order, r in zip(ORDERS, curve, strict=True)
    ]
    return rdp.to_epsilon(ORDERS, chosen, delta)


def of_poisson(curve: Sequence[float], deltas: Sequence[float], mean: float, delta: float) -> float:
    """Return epsilon of the best of a Poisson number of runs (Theorem 6).

    Args:
        curve: Renyi divergence of one run at each of `ORDERS`.
        deltas: delta of one run at epsilon log(1 + 1 / (order - 1)), for each of them.
        mean: E[K].
        delta: In (0, 1).
    """
    chosen = [
        r + mean * d + math.log(mean) / (order - 1)
        for order, r, d in zip(ORDERS, curve, deltas, strict=True)
    ]
    return rdp.to_epsilon(ORDERS, chosen, delta)


def mean_of(shape: float, gamma: float) -> float:
    """Return E[K] of a truncated negative binomial number: eta (1 - g) / (g (1 - g^eta))."""
    if gamma == 1:
        return 1.0
    log_gamma = math.log(gamma)
    over = -log_gamma if shape == 0 else -math.expm1(shape * log_gamma) / shape
    return (1 - gamma) / (gamma * over)


def gamma_of(shape: float, mean: float) -> float:
    """Return the gamma whose E[K] is `mean`, rounded down by at most 1e-12 of itself.

    A smaller gamma means more runs and a larger epsilon.
    """
    if mean == 1:
        return 1.0
    low, high = -1.0, 0.0  # log gamma; the mean falls in it
    while mean_of(shape, math.exp(low)) < mean:
        low *= 2
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if mean_of(shape, math.exp(middle)) >= mean else (low, middle)
    return math.exp(low)


def _deltas(sigma: float, q: float, steps: int, delta: float) -> list[float]:
    """Return an upper bound on delta of one run at epsilon log(1 + 1 / (order - 1)), each order.

    By the privacy loss distribution; 1, which is always true, where that fails.
    """
    epsilons = [math.log1p(1 / (order - 1)) for order in ORDERS]
    if sigma == 0:
        return [1.0 for _ in epsilons]
    if q == 1:
        return [gaussian.delta_of(math.sqrt(steps) / sigma, epsilon) for epsilon in epsilons]
    try:
        return pld.deltas(sigma, q, steps, epsilons, delta)
    except FAILURES:
        return [1.0 for _ in epsilons]
