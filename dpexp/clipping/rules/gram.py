"""Inner products of Gram matrices: |G^T U|^2 = <U U^T, G G^T>, without forming G^T U.

Axes: n sample, t position. U is (n, t, i) and G (n, t, o), both as views of any strides.
"""

from functools import cache

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

# Below this many positions, halving a Gram matrix costs more than it saves.
SMALLEST = 64


def gram_product(u: Tensor, grad_y: Tensor) -> Tensor:
    """Return <U_n U_n^T, G_n G_n^T>, shape (n,), from whole Gram matrices."""
    return inner(u @ u.transpose(-1, -2), grad_y @ grad_y.transpose(-1, -2))


def triangular_gram_product(u: Tensor, grad_y: Tensor) -> Tensor:
    """Return the same from the blocks on and below the diagonal.

    Gram matrices are symmetric: the blocks off the diagonal count twice, and only one of each two
    is formed. Halving down to `SMALLEST` positions leaves little more than half of the work.
    """
    num_positions = u.shape[-2]
    if num_positions <= SMALLEST:
        return gram_product(u, grad_y)
    half = -(-num_positions // 32) * 16  # a multiple of 16: a full row of vector registers
    u0, u1 = u[..., :half, :], u[..., half:, :]
    g0, g1 = grad_y[..., :half, :], grad_y[..., half:, :]
    below = inner(u1 @ u0.transpose(-1, -2), g1 @ g0.transpose(-1, -2))
    return 2 * below + triangular_gram_product(u0, g0) + triangular_gram_product(u1, g1)


def symmetric_gram_product(u: Tensor, grad_y: Tensor) -> Tensor:
    """Return the same sample by sample, by BLAS's own product of a matrix with its transpose.

    NumPy calls it (syrk) where both factors are one array; torch has no way to it. On another
    device than the CPU it is the product by triangles.
    """
    if u.device.type != "cpu":
        return triangular_gram_product(u, grad_y)
    pairs = zip(*(t.flatten(0, -3).numpy() for t in (u, grad_y)), strict=True)
    # NumPy's BLAS has threads of its own, which would not heed torch's number.
    with _numpy_blas().limit(limits=torch.get_num_threads()):
        found = torch.tensor([np.vdot(a @ a.T, b @ b.T) for a, b in pairs], dtype=u.dtype)
    return found.view(u.shape[0], -1).sum(1)


@cache
def _numpy_blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of each sample, shape (n,); `b` may have other axes."""
    return (a * b.view(a.shape)).flatten(1).sum(1)


GRAM_PRODUCTS = {
    "ghost": gram_product,
    "triangle": triangular_gram_product,
    "syrk": symmetric_gram_product,
}
