"""The bound of an audit in one run: many canaries in one training run, and guesses about them.

Each of m canaries is in with chance 1/2. The attacker guesses r of them and abstains from the rest.
Under (epsilon, delta) the number of right guesses is hardly larger than a binomial W of r tries
with chance e^epsilon / (1 + e^epsilon):

    P[right >= v] <= P[W >= v] + 2 m delta max over i = 1..m of P[v > W >= v - i] / i.

It holds for any mechanism, and however the canaries' scores depend on each other.

Source: Steinke, Nasr & Jagielski 2023, arXiv:2305.08846, Theorem 5.2.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpexp.audit.bounds import Scores

_PRECISION = 1e-4  # of epsilon


@dataclass(frozen=True)
class Guesses:
    """What an attacker guessed.

    Attributes:
        num_canaries: m.
        num_guesses: r, fixed before.
        num_right: v.
    """

    num_canaries: int
    num_guesses: int
    num_right: int


def guess(scores: Scores, is_in: NDArray[np.bool_], num_guesses: int) -> Guesses:
    """Guess "in" for the r / 2 highest scores, "out" for the r / 2 lowest; count who is right.

    Args:
        scores: Shape (m,); ties are broken by position, which says nothing about `is_in`.
        is_in: Fair coins, shape (m,).
        num_guesses: r, at most m; an odd one guesses "in" once more.
    """
    order = np.argsort(scores, kind="stable")
    num_out = num_guesses // 2
    num_in = num_guesses - num_out
    right = int((~is_in[order[:num_out]]).sum() + is_in[order[len(order) - num_in :]].sum())
    return Guesses(len(scores), num_guesses, right)


def chance_of(guesses: Guesses, epsilon: float, delta: float) -> float:
    """Return an upper bound on the chance of so many right guesses under (epsilon, delta)."""
    from scipy.stats import binom

    r, v = guesses.num_guesses, guesses.num_right
    accuracy = 1 / (1 + np.exp(-epsilon))
    exact = float(binom.sf(v - 1, r, accuracy))
    if delta == 0 or v == 0:
        return min(1.0, exact)
    # P[v > W >= v - i] for i = 1..v; beyond that it stays, while i grows.
    below = np.cumsum(binom.pmf(np.arange(v - 1, -1, -1), r, accuracy))
    slack = float((below / np.arange(1, v + 1)).max())
    return min(1.0, exact + 2 * guesses.num_canaries * delta * slack)


def epsilon_of_guesses(guesses: Guesses, delta: float, error: float) -> float:
    """Return the largest epsilon, to 1e-4, that is ruled out at chance `error`; 0 if none is."""
    if chance_of(guesses, 0.0, delta) >= error:
        return 0.0
    low, high = 0.0, 1.0
    while chance_of(guesses, high, delta) < error:
        low, high = high, 2 * high
    while high - low > _PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if chance_of(guesses, middle, delta) < error else (low, middle)
    return low
