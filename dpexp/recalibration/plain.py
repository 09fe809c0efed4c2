"""The fit without noise: the scaling of least negative log likelihood. Not private."""

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from dpexp.recalibration.request import Method
from dpexp.recalibration.scaling import (
    MOST_LOG_SCALE,
    MOST_SHIFT,
    Scaling,
    centred,
    identity,
)


def fit_plain(method: Method, logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> Scaling:
    """Return the scaling of least mean NLL within the bounds, never worse than none.

    Convex in the scales and shifts themselves, so there is one optimum. Not private: it is a
    function of the data without noise.
    """
    from scipy.optimize import minimize

    z = centred(logits.double()).numpy()
    one_hot = np.eye(z.shape[1])[labels.numpy()]
    num_scales = len(identity(method, z.shape[1]).log_scale)
    num_shifts = len(identity(method, z.shape[1]).shift)

    def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return the mean NLL, nats, and its gradient."""
        scale = np.exp(values[:num_scales])
        scaled = z * scale + (values[num_scales:] if num_shifts else 0.0)
        scaled = scaled - scaled.max(1, keepdims=True)
        log_sum = np.log(np.exp(scaled).sum(1, keepdims=True))
        residual = np.exp(scaled - log_sum) - one_hot
        nll = float((log_sum[:, 0] - (scaled * one_hot).sum(1)).mean())
        of_scale = (residual * z).mean(0) * scale
        if num_scales == 1:
            of_scale = of_scale.sum(keepdims=True)
        return nll, np.concatenate([of_scale, residual.mean(0)[:num_shifts]])

    start = np.zeros(num_scales + num_shifts)
    bounds = [(-MOST_LOG_SCALE, MOST_LOG_SCALE)] * num_scales
    bounds += [(-MOST_SHIFT, MOST_SHIFT)] * num_shifts
    tight = {"ftol": 1e-14, "gtol": 1e-9, "maxiter": 1000}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=tight)
    best = found.x if found.fun <= loss(start)[0] else start
    return Scaling(
        method=method,
        log_scale=tuple(best[:num_scales].tolist()),
        shift=tuple(best[num_scales:].tolist()),
    )
