"""What Table 1 of the paper says of a kernel: is it symmetric, a positive form, of what spectrum.

Each measure is relative, so that it does not hang on the scale of the loss or of R.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of a kernel over the largest of them, as a general solver has them.

    Attributes:
        values: Complex, shape (m,); the largest has absolute value 1.
        lowest_real: Smallest real part.
        largest_imaginary: Largest imaginary part.
        error: How far rounding may move an eigenvalue that decides the two: unit roundoff times the
            kernel's norm over |y* x| of its left and right eigenvectors, the larger of the two.
    """

    values: Tensor
    lowest_real: float
    largest_imaginary: float
    error: float


def asymmetry(kernel: Float[Tensor, "m m"]) -> float:
    """Return |A - A^T| / |A| in Frobenius norm; 0 for a symmetric kernel."""
    return float((kernel - kernel.T).norm() / kernel.norm())


def lowest_form(kernel: Float[Tensor, "m m"]) -> float:
    """Return the smallest eigenvalue of (A + A^T) / 2 over its largest in absolute value.

    Negative if and only if x^T A x is negative for some x.
    """
    values = torch.linalg.eigvalsh((kernel + kernel.T) / 2)
    return float(values[0] / values.abs().max())


def spectrum_of(kernel: Float[Tensor, "m m"]) -> Spectrum:
    """Return the eigenvalues, and how well those that decide are known.

    Source of the error: Golub & Van Loan 2013, Matrix Computations, Section 7.2.2, the condition of
    a simple eigenvalue.
    """
    raw, right = torch.linalg.eig(kernel)
    largest = raw.abs().max()
    values = raw / largest
    left = torch.linalg.pinv(right).mH
    conditions = left.norm(dim=0) * right.norm(dim=0)
    deciding = conditions[[int(values.real.argmin()), int(values.imag.argmax())]]
    roundoff = torch.finfo(kernel.dtype).eps * float(torch.linalg.matrix_norm(kernel, 2) / largest)
    return Spectrum(
        values,
        float(values.real.min()),
        float(values.imag.abs().max()),
        roundoff * len(kernel) * float(deciding.max()),
    )


def distance_from_scalar(kernel: Float[Tensor, "m m"], of: Float[Tensor, "m m"]) -> float:
    """Return min_c |A - c H| / |A| in Frobenius norm; 0 where A is a scalar times H, or is 0."""
    size = float(kernel.norm())
    if size == 0:
        return 0.0
    scalar = (kernel * of).sum() / of.square().sum()
    return float((kernel - scalar * of).norm() / size)
