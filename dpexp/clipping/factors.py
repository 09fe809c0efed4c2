"""Clipping functions: the factor C_n that a sample's gradient is scaled by, from its norm.

Each keeps C_n |g_n| <= R, so one sample moves the sum by at most R and all share one noise scale.
Norms come with shape (n,); so do the factors.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dpexp.config import Function

# (norms |g_n|, bound R, stability) -> factors C_n.
ClipFunction = Callable[[Tensor, float, float], Tensor]


def abadi(norms: Tensor, bound: float, stability: float) -> Tensor:
    """Return min(1, R / |g_n|). Source: Abadi et al. 2016, arXiv:1607.00133, Algorithm 1."""
    return (bound / norms).clamp(max=1.0)


def global_(norms: Tensor, bound: float, stability: float) -> Tensor:
    """Return 1 where |g_n| <= R, else 0: keep the sample or drop it.

    Source: Bu et al. 2021, arXiv:2106.07830, versions 1 to 5.
    """
    return (norms <= bound).to(norms.dtype)


def autos(norms: Tensor, bound: float, stability: float) -> Tensor:
    """Return R / (|g_n| + gamma). Source: Bu et al. 2022, arXiv:2206.07136, AUTO-S."""
    return bound / (norms + stability)


def autov(norms: Tensor, bound: float, stability: float) -> Tensor:
    """Return R / |g_n|, and 0 for a zero gradient, which has no direction.

    A gradient whose squares come near the smallest number counts as zero: its norm is then known
    to no accuracy (1e-15 in float32), and R over it would exceed the bound.

    Source: Bu et al. 2022, arXiv:2206.07136, AUTO-V.
    """
    smallest = 1e4 * math.sqrt(torch.finfo(norms.dtype).tiny)
    return torch.where(norms > smallest, bound / norms, 0.0)


def psac(norms: Tensor, bound: float, stability: float) -> Tensor:
    """Return R / (|g_n| + r / (|g_n| + r)), larger for small gradients than AUTO-S.

    Source: Xia et al. 2023, arXiv:2212.00328, per-sample adaptive clipping.
    """
    return bound / (norms + stability / (norms + stability))


FUNCTIONS: dict[Function, ClipFunction] = {
    "abadi": abadi,
    "global": global_,
    "autos": autos,
    "autov": autov,
    "psac": psac,
}
