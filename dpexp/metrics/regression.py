"""Errors of a regression, in the unit of what is predicted.

With f_n the prediction and y_n the truth of sample n, and m the mean of the y_n measured on,

    MSE = mean (f - y)^2,    MAE = mean |f - y|,    R2 = 1 - sum (f - y)^2 / sum (y - m)^2.
"""

from jaxtyping import Float
from torch import Tensor

from dpexp.errors import MetricError

ERRORS = ("mse", "rmse", "mae", "r2", "mse_scaled")


def regression_metrics(
    outputs: Float[Tensor, "n k"], targets: Float[Tensor, " n"], *, spread: float
) -> dict[str, float | int | None]:
    """Return `mse`, its root `rmse`, `mae` and `r2` by name, `mse_scaled` and `num_nonfinite`.

    `mse_scaled` is that of the numbers given, twice the mean loss; all others are in the target's
    own unit. `r2` is None where targets do not differ. If an output is NaN or infinite the model
    has diverged: `num_nonfinite` counts such samples, and every error is None.

    Args:
        outputs: Of a network with one output, in scaled units: (y - center) / spread.
        targets: Scaled likewise.
        spread: Units of the target in one scaled unit.

    Raises:
        MetricError: If there is no sample, more than one output, or another number of targets.
    """
    if outputs.ndim != 2 or outputs.shape[1] != 1 or outputs.shape[:1] != targets.shape:
        raise MetricError(
            f"outputs have shape {tuple(outputs.shape)} and targets {tuple(targets.shape)}, but "
            f"must be (samples, 1) and (samples,), one number each; check that the network was "
            f"built with one output"
        )
    if not len(targets):
        raise MetricError("there is no sample, and an error is a mean over samples; give some")
    # float64: squares of small differences are summed.
    predicted, truth = outputs.detach().cpu().double()[:, 0], targets.detach().cpu().double()
    num_nonfinite = int((~predicted.isfinite()).sum())
    if num_nonfinite:
        return dict.fromkeys(ERRORS) | {"num_nonfinite": num_nonfinite}
    residuals = predicted - truth
    mse = float(residuals.square().mean())
    variance = float((truth - truth.mean()).square().mean())
    return {
        "mse": mse * spread**2,
        "rmse": mse**0.5 * spread,
        "mae": float(residuals.abs().mean()) * spread,
        "r2": 1 - mse / variance if variance > 0 else None,
        "mse_scaled": mse,
        "num_nonfinite": 0,
    }
