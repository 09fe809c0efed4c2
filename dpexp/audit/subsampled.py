"""The claimed family: K steps of Poisson-subsampled Gaussian noise, at any noise.

The attacker's error rates rule out every noise multiplier at which even the best test would err
more. The largest that is left bounds epsilon from below, within the family: q and K are taken as
claimed, sigma is what is audited.

Source: Nasr et al. 2023, arXiv:2302.07956, Section 5 (the privacy loss distribution's curve in
place of (epsilon, delta)); Dong, Roth & Su 2019, arXiv:1905.02383, Proposition 2.12 (the curve as
an upper envelope of (epsilon, delta) pairs).
"""

import math
from dataclasses import dataclass

import numpy as np

from dpexp.accounting import gaussian, pld
from dpexp.audit.bounds import ErrorRates, epsilon_gaussian

_PRECISION = 1e-3  # of sigma, relatively
_LEAST_SHARE = 1 / 64  # of the claimed sigma, at which the search ends
_GRID = np.concatenate([[0.0], np.geomspace(0.02, 40.0, 160)])  # epsilons of the envelope
_MAX_POINTS = 100_000


@dataclass(frozen=True)
class Family:
    """The mechanism as claimed, in all but its noise.

    Attributes:
        noise_multiplier: sigma, as claimed; where the search starts.
        sampling_rate: q.
        num_steps: K.
    """

    noise_multiplier: float
    sampling_rate: float
    num_steps: int

    def least_epsilon(self, rates: ErrorRates, delta: float) -> float:
        """Return the smallest epsilon in the family that allows such error rates."""
        if self.sampling_rate == 1:
            return epsilon_gaussian(rates, delta)
        sigma = self._largest_noise(rates)
        if math.isinf(sigma):
            return 0.0
        found = pld.epsilon(sigma, self.sampling_rate, self.num_steps, delta)
        return found * (1 - 2 * pld.RELATIVE_ERROR)  # what the accountant's grid may add

    def _largest_noise(self, rates: ErrorRates) -> float:
        """Return a sigma, hardly above the largest that allows the rates; infinity if all do."""
        if rates.fpr_above + rates.fnr_above >= 1:
            return math.inf
        low = high = self.noise_multiplier
        if self._allows(high, rates):
            while self._allows(high, rates):
                low, high = high, 1.25 * high
                if high > 64 * self.noise_multiplier:
                    return math.inf
        else:
            while not self._allows(low, rates):
                low, high = low / 1.25, low
                if low < _LEAST_SHARE * self.noise_multiplier:
                    return high
        while high / low > 1 + _PRECISION:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self._allows(middle, rates) else (low, middle)
        return high

    def _allows(self, sigma: float, rates: ErrorRates) -> bool:
        return rates.fnr_above >= least_fnr(
            sigma, self.sampling_rate, self.num_steps, rates.fpr_above
        )


def least_fnr(sigma: float, sampling_rate: float, num_steps: int, fpr: float) -> float:
    """Return the false negative rate that no test can go below at this false positive rate.

    max over epsilon of 1 - delta(epsilon) - e^epsilon FPR and e^-epsilon (1 - delta - FPR), over a
    grid of epsilon and with delta rounded up: at most the truth.
    """
    if sampling_rate == 1:
        from scipy.special import ndtr, ndtri

        return float(ndtr(ndtri(1 - fpr) - math.sqrt(num_steps) / sigma))
    deltas = deltas_of(sigma, sampling_rate, num_steps, _GRID)
    one = 1 - deltas - np.exp(_GRID) * fpr
    other = np.exp(-_GRID) * (1 - deltas - fpr)
    return max(0.0, float(np.maximum(one, other).max()))


def deltas_of(
    sigma: float, sampling_rate: float, num_steps: int, epsilons: np.ndarray
) -> np.ndarray:
    """Return delta at each epsilon, rounded up; the worse of adding and removing a sample."""
    if sampling_rate == 1:
        mu = math.sqrt(num_steps) / sigma
        return np.array([gaussian.delta_of(mu, float(epsilon)) for epsilon in epsilons])
    from dp_accounting.pld import privacy_loss_distribution

    # The grid adds about h^2 K to an epsilon; a step's loss reaches (1/2 + 10 sigma) / sigma^2.
    interval = max(math.sqrt(1e-3 / num_steps), (0.5 + 10 * sigma) / sigma**2 / _MAX_POINTS)
    single = privacy_loss_distribution.from_gaussian_mechanism(
        sigma,
        sampling_prob=sampling_rate,
        value_discretization_interval=interval,
        use_connect_dots=True,
    )
    composed = single.self_compose(num_steps, 1e-12)
    return np.asarray(composed.get_delta_for_epsilon(list(epsilons)), dtype=np.float64)
