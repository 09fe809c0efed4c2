"""Clipped sums by their definition, sample by sample and group by group, without dpexp."""

import math

import torch
from reference.gradients import Grads
from torch import Tensor


def factor(function: str, norm: float, bound: float, stability: float) -> float:
    """C_n of one norm, as the papers write it."""
    if function == "abadi":
        return 1.0 if norm <= bound else bound / norm
    if function == "global":
        return 1.0 if norm <= bound else 0.0
    if function == "autos":
        return bound / (norm + stability)
    if function == "autov":
        return bound / norm if norm else 0.0
    if function == "psac":
        return bound / (norm + stability / (norm + stability))
    raise AssertionError(function)


def clipped_sum(
    grads: Grads, groups: list[list[str]], bounds: list[float], function: str, stability: float
) -> dict[str, Tensor]:
    """sum_n C_n g_n, with one C_n for each group of parameters."""
    sums = {name: torch.zeros_like(g[0]) for name, g in grads.items()}
    num_samples = len(next(iter(grads.values())))
    for names, bound in zip(groups, bounds, strict=True):
        for n in range(num_samples):
            squares = [float(grads[name][n].square().sum()) for name in names]
            c = factor(function, math.sqrt(math.fsum(squares)), bound, stability)
            for name in names:
                sums[name] += c * grads[name][n]
    return sums
