"""The Renyi accountant: an upper bound, fast and loose (5 to 40 % above PLD)."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dpexp.accounting.inputs import check_inputs

IS_UPPER_BOUND = True

ROUGH_ORDERS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)


def epsilon(noise_multiplier: float, sampling_rate: float, num_steps: int, delta: float) -> float:
    """Return an upper bound on epsilon of K Poisson-subsampled Gaussian steps, add/remove-one.

    Source: Mironov, Talwar & Zhang 2019, arXiv:1908.10530, as dp-accounting evaluates it; its
    conversion to (epsilon, delta) is Canonne, Kamath & Steinke 2020, arXiv:2004.00010, Prop. 12.
    """
    return _epsilon(noise_multiplier, sampling_rate, num_steps, delta, orders=None)


def rough_epsilon(
    noise_multiplier: float, sampling_rate: float, num_steps: int, delta: float
) -> float:
    """Return a looser upper bound, a tenth of the work: for sizes of grids, not for reports."""
    return _epsilon(noise_multiplier, sampling_rate, num_steps, delta, orders=ROUGH_ORDERS)


def curve(
    noise_multiplier: float, sampling_rate: float, num_steps: int, orders: Sequence[float]
) -> list[float]:
    """Return an upper bound on the Renyi divergence of K steps at each order above 1.

    Infinite where it could not be computed, and without noise.
    """
    sigma, q, steps, _ = check_inputs(noise_multiplier, sampling_rate, num_steps, 0.5)
    if sigma == 0:
        return [math.inf for _ in orders]
    accountant = _composed(sigma, q, steps, orders)
    found = dict(zip(map(float, accountant.orders), map(float, accountant.rdp), strict=True))
    at_orders = [found.get(float(order), math.nan) for order in orders]
    return [math.inf if math.isnan(value) else value for value in at_orders]


def to_epsilon(orders: Sequence[float], divergences: Sequence[float], delta: float) -> float:
    """Return the smallest epsilon at `delta` that Renyi divergences at some orders imply.

    Source: Canonne, Kamath & Steinke 2020, arXiv:2004.00010, Proposition 12.
    """
    epsilons = (
        divergence + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)
        for order, divergence in zip(orders, divergences, strict=True)
    )
    return max(0.0, min(epsilons))


def _epsilon(
    noise_multiplier: float,
    sampling_rate: float,
    num_steps: int,
    delta: float,
    orders: tuple[int, ...] | None,
) -> float:
    sigma, q, steps, delta = check_inputs(noise_multiplier, sampling_rate, num_steps, delta)
    if sigma == 0:
        return math.inf
    accountant = _composed(sigma, q, steps, orders)
    with _absl_quiet():
        return float(accountant.get_epsilon(delta))


def _composed(sigma: float, q: float, steps: int, orders: Sequence[float] | None) -> Any:
    """Return dp-accounting's accountant after K steps; its own orders for None."""
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    event = dp_accounting.GaussianDpEvent(sigma)
    if q < 1:
        event = dp_accounting.PoissonSampledDpEvent(q, event)
    with _absl_quiet():
        accountant = RdpAccountant(orders=orders)
        accountant.compose(event, steps)
    return accountant


@contextmanager
def _absl_quiet() -> Iterator[None]:
    """Drop absl's warnings that some orders were left out: fewer orders are still a bound."""
    logger = logging.getLogger("absl")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was_disabled
