"""The privacy random variables of prv-accountant: a tight upper bound with an error it states.

The package returns (low, estimate, up), `eps_error` apart; only `up` is a bound. Its cost is one
grid of 2 L / h points, which is known before it is paid:

    L = 3 + max(epsilon at delta_error / 4 of all steps, at delta_error / (8 K) of one step)
    h = eps_error / sqrt(K / 2 log(12 / delta_error)).

Source: Gopi, Lee & Wutschitz 2021, arXiv:2106.02848, Theorem 5.5 (h) and Remark 5.6 (L).
"""

import math

from dpexp.accounting import gaussian, pld, rdp
from dpexp.accounting.inputs import check_inputs
from dpexp.errors import AccountingError

IS_UPPER_BOUND = True

FINEST = 1e-3  # eps_error over epsilon, where the grid allows it
COARSEST = 4e-3  # beyond this the bound would cost more noise than it is worth
WIDEST = 0.01  # eps_error itself, in epsilon

SMALL_POINTS = 150_000  # below this a transform of any length is fast
PREFERRED_POINTS = 1_000_000  # about 2 s
MAX_POINTS = 4_000_000  # about 6 s and, at 180 bytes a point, 0.7 GiB
BYTES_PER_POINT = 180  # resident at the peak, measured on grids of 0.2 to 4 million points


def epsilon(
    noise_multiplier: float,
    sampling_rate: float,
    num_steps: int,
    delta: float,
    eps_error: float | None = None,
) -> float:
    """Return an upper bound on epsilon of K Poisson-subsampled Gaussian steps, add/remove-one.

    It lies `eps_error` above prv-accountant's estimate, and the true epsilon at most as far below
    that. q = 1 is the Gaussian mechanism and is taken exactly.

    Args:
        noise_multiplier: sigma.
        sampling_rate: q.
        num_steps: K.
        delta: In (0, 1).
        eps_error: Half the width of the result's interval; None takes what `choose_error` says.

    Raises:
        AccountingError: If the grid would be too large, or the package returns no number.
    """
    sigma, q, steps, delta = check_inputs(noise_multiplier, sampling_rate, num_steps, delta)
    if sigma == 0:
        return math.inf
    if q == 1:
        return gaussian.epsilon_of_steps(sigma, steps, delta)
    if eps_error is None:
        eps_error = choose_error(sigma, q, steps, delta, pld.epsilon(sigma, q, steps, delta))
    return _upper_bound(sigma, q, steps, delta, eps_error)


def choose_error(
    noise_multiplier: float,
    sampling_rate: float,
    num_steps: int,
    delta: float,
    epsilon_near: float,
    preferred_points: int = PREFERRED_POINTS,
) -> float:
    """Return the smallest eps_error in reach: min(0.01, epsilon / 1000) where it is affordable.

    A grid above `preferred_points` is coarsened, to epsilon / 250 at most.

    Args:
        noise_multiplier: sigma, above 0.
        sampling_rate: q, below 1.
        num_steps: K.
        delta: In (0, 1).
        epsilon_near: epsilon by a fast accountant.
        preferred_points: Grid size that is not exceeded while accuracy allows it.

    Raises:
        AccountingError: If even the coarsest error needs more than MAX_POINTS.
    """
    finest = min(WIDEST, FINEST * epsilon_near)
    coarsest = max(finest, COARSEST * epsilon_near)
    # Error times points is constant: 2 L sqrt(K / 2 log(12 / delta_error)).
    product = _error_times_points(noise_multiplier, sampling_rate, num_steps, delta)
    error = min(max(finest, product / preferred_points), coarsest)
    if not 0 < error < math.inf or product / error > MAX_POINTS:
        raise AccountingError(_too_large(product, error, epsilon_near))
    return error


def _too_large(product: float, error: float, epsilon_near: float) -> str:
    if not 0 < error < math.inf:
        return f"no finite grid resolves epsilon near {epsilon_near:g}"
    points = product / error
    gib = points * BYTES_PER_POINT / 2**30
    return (
        f"its grid at eps_error {error:.2g} would take {points:.2g} points ({gib:.2g} GiB), "
        f"above the limit of {MAX_POINTS:.2g}"
    )


def _error_times_points(sigma: float, q: float, steps: int, delta: float) -> float:
    delta_error = delta / 1000
    all_steps = rdp.rough_epsilon(sigma, q, steps, delta_error / 4)
    one_step = rdp.rough_epsilon(sigma, q, 1, delta_error / 8 / steps)
    return 2 * (3 + max(all_steps, one_step)) * _error_over_mesh(steps, delta_error)


def _error_over_mesh(steps: int, delta_error: float) -> float:
    return math.sqrt(steps / 2 * math.log(12 / delta_error))


def _upper_bound(sigma: float, q: float, steps: int, delta: float, eps_error: float) -> float:
    # Keywords only: the package's own README has these two arguments in the wrong order.
    from prv_accountant import PoissonSubsampledGaussianMechanism, PRVAccountant

    prv = PoissonSubsampledGaussianMechanism(sampling_probability=q, noise_multiplier=sigma)
    if _error_times_points(sigma, q, steps, delta) / eps_error > SMALL_POINTS:
        eps_error = _error_of_fast_grid(prv, steps, delta, eps_error)
    accountant = PRVAccountant(
        prvs=[prv],
        eps_error=eps_error,
        delta_error=delta / 1000,
        max_self_compositions=[steps],
    )
    _, _, upper = accountant.compute_epsilon(delta=delta, num_self_compositions=[steps])
    if not math.isfinite(upper):
        raise AccountingError(f"it returned {upper}")
    return float(upper)


def _error_of_fast_grid(prv: object, steps: int, delta: float, eps_error: float) -> float:
    """Return a slightly smaller error, whose grid has a length that transforms fast.

    The package takes whatever length follows from the error; with a large prime factor the
    transforms, in extended precision, then take two thirds of the time.
    """
    from prv_accountant.accountant import compute_safe_domain_size
    from scipy.fft import next_fast_len

    delta_error = delta / 1000
    half_width = float(
        compute_safe_domain_size(
            prvs=[prv], max_self_compositions=[steps], eps_error=eps_error, delta_error=delta_error
        )
    )
    error_over_mesh = _error_over_mesh(steps, delta_error)
    # The grid has 2 (ceil(L / h) + 1) points; L / h at half an integer keeps rounding away.
    half_points = next_fast_len(math.ceil(half_width / (eps_error / error_over_mesh)) + 2)
    return half_width / (half_points - 1.5) * error_over_mesh
