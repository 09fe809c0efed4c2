"""Operations that are several operations in one, taken apart so that the rules cover each.

Every function here computes the same as the one it stands for. It runs where calls are watched, so
that the sums, products and matrix products inside meet their own rules.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dpexp.clipping.rules.rule import Kind
from dpexp.errors import CrossSampleError


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return scaled-dot-product attention in the open, for a trainable additive mask.

    The fused kernels give no gradient of the mask, in ordinary training either.
    """
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    scores = query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    scores = scores @ key.transpose(-2, -1)
    if is_causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, -math.inf)
    if attn_mask is None or attn_mask.dtype != torch.bool:
        scores = scores if attn_mask is None else scores + attn_mask
        return F.dropout(scores.softmax(-1), dropout_p) @ value
    scores = scores.masked_fill(~attn_mask, -math.inf)
    # Where nothing may be looked at, torch's kernels give zero, and a softmax nan.
    is_blind = scores.isneginf().all(-1, keepdim=True)
    weights = F.dropout(scores.masked_fill(is_blind, 0.0).softmax(-1), dropout_p)
    return (weights @ value).masked_fill(is_blind, 0.0)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return instance normalisation as the normalisation, a product and a sum."""
    normalised = F.instance_norm(
        input, running_mean, running_var, None, None, use_input_stats, momentum, eps
    )
    return _scale_and_shift(normalised, weight, bias)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return batch normalisation by fixed statistics as the normalisation, a product and a sum."""
    if training:
        raise CrossSampleError(
            "batch normalisation takes its mean and variance over the batch, so one sample's "
            "gradient depends on the others and cannot be clipped alone. Put GroupNorm in its "
            "place (model.norm=groupnorm on the command line), or keep the layer in eval mode"
        )
    normalised = F.batch_norm(input, running_mean, running_var, None, None, False, momentum, eps)
    return _scale_and_shift(normalised, weight, bias)


def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Return root-mean-square normalisation as the normalisation and a product."""
    normalised = F.rms_norm(input, list(normalized_shape), None, eps)
    return normalised if weight is None else normalised * weight


def _scale_and_shift(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return x w + b with w and b along the channels, axis 1."""
    channels = (-1, *[1] * (x.ndim - 2))
    if weight is not None:
        x = x * weight.view(channels)
    return x if bias is None else x + bias.view(channels)


def matrix_product(left: Tensor, right: Tensor) -> Tensor:
    """Return x W for a two-dimensional parameter W, as the linear map with weight W^T."""
    return F.linear(left, right.t())


def is_linear_map(args: tuple, kind: Callable[[Any], Kind]) -> bool:
    """Return whether a matrix product is of the batch with a two-dimensional parameter."""
    if len(args) != 2:
        return False
    left, right = args
    return kind(left) == "batch" and kind(right) == "param" and right.ndim == 2 <= left.ndim
