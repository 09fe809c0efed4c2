"""Balls-and-bins batches: an upper bound on epsilon, computed without a Monte Carlo draw.

In each epoch every sample goes to one of T batches, uniformly and independently of all others.
Adding or removing a sample therefore moves no other, and an epoch is dominated by the pair

    P = mean over t of N(e_t, sigma^2 I_T)    and    Q = N(0, sigma^2 I_T),

whatever the steps do with what they have seen: step t adds a vector v_t with |v_t| <= 1 chosen from
the past to its noise if the sample is in batch t, and coordinate t of P or Q, scaled by |v_t| along
v_t and filled up with noise to sigma in every direction, has just that distribution. Epochs compose
because their assignments are independent.

The likelihood ratio of the pair under Q is a mean of T independent variables,

    R = dP/dQ = mean over t of exp(z_t / sigma - 1 / (2 sigma^2)),    z_t standard normal,

and both directions are expectations of convex functions of it: delta(P || Q) = E (R - e^eps)^+ and
delta(Q || P) = E (1 - e^eps R)^+. So a value of R may be split between its two neighbours on a grid
of losses so that the mean stays, and the pair only gets easier to tell apart. The distribution of R
is built so, from one variable by sums of halves; what is cut off at the ends counts as an infinite
loss in both directions. Nothing here is estimated, so no confidence stands beside the bound. What
float64 rounds is not counted: sums of positive terms, 1e-14 T of delta itself, and the transform
that composes epochs, about 1e-15 in all, hence `MIN_DELTA`.

Source: Chua, Ghazi, Harrison, Leeman, Kamath, Kumar, Manurangsi, Sinha & Zhang 2024,
arXiv:2412.16802 (the sampler, and the pair, whose delta they estimate by Monte Carlo); Zhu, Dong &
Wang 2022, arXiv:2106.08567 (dominating pairs compose); Doroshenko et al. 2022, arXiv:2207.04380
(splitting between grid points); that the sum can be computed at all was shown at the same time for
the more general random allocation (arXiv:2602.17284).
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dpexp.accounting import gaussian
from dpexp.accounting.inputs import check_inputs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Masses = NDArray[np.float64]

IS_UPPER_BOUND = True

MIN_DELTA = 1e-10  # below it, float64 could matter: the bound without amplification is taken
MIN_SIGMA = 0.1  # below it, amplification is nil and the grid very wide
DEVIATIONS = 9.0  # of a normal variable; what lies beyond is an infinite loss, 1e-19 of mass
CUT = 1e-19  # mass that may be cut off at each end of a mean's distribution, likewise
FINENESS = 0.05  # interval over an epoch's standard deviation of the loss
MAX_INTERVAL = 0.02
MAX_POINTS = 12_000  # of one variable's grid: a sum of two takes its square, about a second


@dataclass(frozen=True)
class Ratios:
    """The likelihood ratio of a mean of variables, under Q, on a grid of logarithms.

    Attributes:
        first: The ratio of the first mass is exp(first * interval).
        masses: Probabilities under Q.
        lost: Bound on what is missing, under P as well as under Q.
    """

    first: int
    masses: "Masses"
    lost: float


def epsilon(noise_multiplier: float, num_batches: int, num_epochs: int, delta: float) -> float:
    """Return an upper bound on epsilon of E epochs of T batches, add/remove-one.

    Args:
        noise_multiplier: sigma.
        num_batches: T, batches of an epoch.
        num_epochs: E; one that is started counts whole.
        delta: In (0, 1).
    """
    return epsilons(noise_multiplier, num_batches, [num_epochs], delta)[0]


def epsilons(
    noise_multiplier: float, num_batches: int, num_epochs: list[int], delta: float
) -> list[float]:
    """Return the bound after each count in `num_epochs`, with one grid for all of them.

    None is above the bound without amplification, which holds too: given its batch, an epoch is one
    Gaussian release of the sample.
    """
    # check_inputs counts steps; what it says of them holds for epochs.
    sigma, _, _, delta = check_inputs(noise_multiplier, 1 / num_batches, max(num_epochs), delta)
    plain = [gaussian.epsilon_of_steps(sigma, count, delta) for count in num_epochs]
    if num_batches == 1 or delta < MIN_DELTA or sigma < MIN_SIGMA:
        return plain
    step = interval(sigma, num_batches)
    directions = _directions(mean_ratio(sigma, num_batches, step), step)
    amplified = [_epsilon_of(directions, count, delta) for count in num_epochs]
    return [min(pair) for pair in zip(plain, amplified, strict=True)]


def interval(sigma: float, num_batches: int) -> float:
    """Return the grid's interval: it sets how tight the bound is and how long it takes."""
    # The variance of R is (e^(1 / sigma^2) - 1) / T.
    deviation = math.sqrt(math.log1p(math.expm1(1 / sigma**2) / num_batches))
    width = (2 * DEVIATIONS + 1 / sigma) / sigma
    return max(min(FINENESS * deviation, MAX_INTERVAL), width / MAX_POINTS)


def mean_ratio(sigma: float, num_batches: int, step: float) -> Ratios:
    """Return R of one epoch on a grid of interval `step`; T by repeated doubling."""
    power, size = _single(sigma, step), 1
    result, result_size = None, 0
    while True:
        if num_batches & size:
            result = power if result is None else _mean(result, result_size, power, size, step)
            result_size += size
        if result is not None and result_size == num_batches:
            return result
        power, size = _mean(power, size, power, size, step), 2 * size


def _single(sigma: float, step: float) -> Ratios:
    """Return the ratio of one variable: each cell's mass split so that its mean stays."""
    import numpy as np
    from scipy.special import ndtr

    shift = 1 / sigma

    def cells(z: "Masses") -> "Masses":
        # From the nearer tail, so that small masses keep their digits.
        rising = np.diff(ndtr(z))
        return np.where(z[:-1] > 0, -np.diff(ndtr(-z)), rising)

    first = math.floor((-DEVIATIONS * shift - shift**2 / 2) / step)
    last = math.ceil(((DEVIATIONS + shift) * shift - shift**2 / 2) / step)
    logs = np.arange(first, last + 1, dtype=np.float64) * step
    z = logs / shift + shift / 2
    under_q, under_p = cells(z), cells(z - shift)
    ratios = np.exp(logs)
    share = (under_p / np.maximum(under_q, 1e-300) - ratios[:-1]) / np.diff(ratios)
    upper = under_q * np.clip(share, 0.0, 1.0)
    masses = np.zeros(len(logs))
    masses[:-1] += under_q - upper
    masses[1:] += upper
    return _trimmed(Ratios(first, masses, 2 * float(ndtr(-DEVIATIONS))), step)


def _mean(one: Ratios, one_size: int, other: Ratios, other_size: int, step: float) -> Ratios:
    """Return the ratio of the mean over both, of independent means over their sizes.

    Pairs (i, j) of grid points with the same difference i - j have means that lie alike between two
    points, so one pass over differences does all pairs. All terms are positive: no digits are lost.
    """
    import numpy as np

    share = one_size / (one_size + other_size)
    a, b = one.masses, other.masses
    differences = np.arange(-(len(b) - 1), len(a))
    logs = (one.first - other.first + differences) * step
    factor = share + (1 - share) * np.exp(-logs)  # the mean over one's ratio
    below = np.floor(np.log(factor) / step).astype(int)
    upper = (factor * np.exp(-below * step) - 1) / math.expm1(step)
    upper = np.clip(upper, 0.0, 1.0)

    starts = np.maximum(differences, 0)
    ends = np.minimum(len(a), len(b) + differences)
    offset = int((starts + below).min())
    masses = np.zeros(int((ends + below).max()) + 1 - offset)
    for difference, start, end, move, share_up in zip(
        differences, starts, ends, below - offset, upper, strict=True
    ):
        product = a[start:end] * b[start - difference : end - difference]
        high = share_up * product
        masses[start + move : end + move] += product - high
        masses[start + move + 1 : end + move + 1] += high
    return _trimmed(Ratios(one.first + offset, masses, one.lost + other.lost), step)


def _trimmed(ratios: Ratios, step: float) -> Ratios:
    """Return it without ends that weigh at most CUT under Q and under P."""
    import numpy as np

    masses = ratios.masses
    under_p = masses * np.exp((ratios.first + np.arange(len(masses))) * step)
    larger = np.maximum(masses, under_p)
    start = int(np.searchsorted(np.cumsum(larger), CUT))
    end = len(masses) - int(np.searchsorted(np.cumsum(larger[::-1]), CUT))
    return Ratios(ratios.first + start, masses[start:end], ratios.lost + 2 * CUT)


def _directions(ratios: Ratios, step: float) -> tuple[Any, Any]:
    """Return the privacy losses of P against Q and of Q against P."""
    import numpy as np
    from dp_accounting.pld import pld_pmf

    masses, first, lost = ratios.masses, ratios.first, ratios.lost
    under_p = masses * np.exp((first + np.arange(len(masses))) * step)
    last = first + len(masses) - 1
    return (
        pld_pmf.DensePLDPmf(step, first, under_p, lost, True),
        pld_pmf.DensePLDPmf(step, -last, masses[::-1].copy(), lost, True),
    )


def _epsilon_of(directions: tuple[Any, Any], num_epochs: int, delta: float) -> float:
    tail = min(1e-15, 1e-5 * delta)
    return max(
        float(losses.self_compose(num_epochs, tail).get_epsilon_for_delta(delta))
        for losses in directions
    )
