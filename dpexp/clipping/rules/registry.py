"""Which rule covers which function. What is not listed goes the general way."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dpexp.clipping.rules import decompose, recurrent
from dpexp.clipping.rules.broadcast import ELEMENTWISE, bind_broadcast
from dpexp.clipping.rules.concatenation import bind_concatenation
from dpexp.clipping.rules.convolution import bind_convolution, bind_transposed_convolution
from dpexp.clipping.rules.embedding import bind_embedding
from dpexp.clipping.rules.general import bind_general
from dpexp.clipping.rules.linear import bind_linear
from dpexp.clipping.rules.normalization import bind_group_norm, bind_layer_norm
from dpexp.clipping.rules.rule import Bind, Bound, Kind
from dpexp.errors import UncoveredParameterError

BINDS: dict[Callable, Bind] = {
    F.linear: bind_linear,
    F.layer_norm: bind_layer_norm,
    F.group_norm: bind_group_norm,
    F.embedding: bind_embedding,
    **dict.fromkeys([torch.cat, torch.concat, torch.concatenate], bind_concatenation),
    **dict.fromkeys([F.conv1d, F.conv2d, F.conv3d], bind_convolution),
    **dict.fromkeys(
        [F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d], bind_transposed_convolution
    ),
    **dict.fromkeys(ELEMENTWISE, bind_broadcast),
}

DECOMPOSITIONS: dict[Callable, Callable] = {
    F.scaled_dot_product_attention: decompose.attention,
    F.instance_norm: decompose.instance_norm,
    F.batch_norm: decompose.batch_norm,
    F.rms_norm: decompose.rms_norm,
}

MATRIX_PRODUCTS = {torch.matmul, Tensor.matmul, Tensor.__matmul__}

# Take the batch for its shape, type or device alone: the result is made of the parameter.
SHAPE_ONLY = {
    Tensor.expand_as,
    Tensor.view_as,
    Tensor.reshape_as,
    Tensor.type_as,
    Tensor.to,
    torch.zeros_like,
    torch.ones_like,
    torch.empty_like,
    torch.full_like,
    Tensor.new_zeros,
    Tensor.new_ones,
    Tensor.new_empty,
    Tensor.new_full,
    Tensor.new_tensor,
}

# The result is the parameter in another shape, its numbers in the same order.
RESHAPES = {
    Tensor.view, torch.reshape, Tensor.reshape, torch.flatten, Tensor.flatten,
    torch.unflatten, Tensor.unflatten, torch.unsqueeze, Tensor.unsqueeze,
    torch.squeeze, Tensor.squeeze, Tensor.contiguous, torch.clone, Tensor.clone,
}  # fmt: skip

# The result is the parameter with its numbers in any order: its gradient has the same norm.
PERMUTATIONS = RESHAPES | {
    torch.t, Tensor.t, torch.transpose, Tensor.transpose, torch.permute, Tensor.permute,
    torch.movedim, Tensor.movedim,
    Tensor.T.__get__, Tensor.mT.__get__,  # type: ignore[attr-defined]
}  # fmt: skip

# In-place functions with a pure twin that a rule covers.
PURE_TWINS: dict[Callable, Callable] = {
    Tensor.add_: Tensor.add,
    Tensor.__iadd__: Tensor.add,
    Tensor.sub_: Tensor.sub,
    Tensor.__isub__: Tensor.sub,
    Tensor.mul_: Tensor.mul,
    Tensor.__imul__: Tensor.mul,
    Tensor.div_: Tensor.div,
    Tensor.__itruediv__: Tensor.div,
}


def decomposition(func: Callable, args: tuple, kind: Callable[[Any], Kind]) -> Callable | None:
    """Return the function that computes the same in several watched steps, if there is one."""
    if func in MATRIX_PRODUCTS:
        return decompose.matrix_product if decompose.is_linear_map(args, kind) else None
    name = getattr(func, "__name__", "")
    if name in recurrent.STEPS and not recurrent.is_packed(args):
        return recurrent.recurrence(name)
    return DECOMPOSITIONS.get(func)


def bind(func: Callable, args: tuple, kwargs: dict, kind: Callable[[Any], Kind]) -> Bound:
    """Take a call of the batch and parameters apart, by its own rule or the general one."""
    if getattr(func, "__name__", "") in recurrent.STEPS:
        raise UncoveredParameterError(
            f"{func.__name__!r} of packed sequences lays the samples out by time steps, so its "
            f"parameters' per-sample gradients are not known. Give it padded sequences (not "
            f"pack_padded_sequence), or freeze the layer"
        )
    bound = BINDS[func](func, args, kwargs, kind) if func in BINDS else None
    return bound or bind_general(func, args, kwargs, kind)


def is_in_place(func: Callable) -> bool:
    """Return whether a function changes its first argument."""
    name = getattr(func, "__name__", "")
    is_dunder = name.startswith("__") and name.endswith("__")
    if is_dunder:
        return name == "__setitem__" or (name.startswith("__i") and func in PURE_TWINS)
    return name.endswith("_") and not name.startswith("_")


def pure(func: Callable) -> Callable:
    """Return a function that gives what in-place `func` would leave in its first argument."""
    if func in PURE_TWINS:
        return PURE_TWINS[func]

    def on_a_copy(target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        target = target.clone()
        func(target, *args, **kwargs)
        return target

    on_a_copy.__name__ = getattr(func, "__name__", "in-place")
    return on_a_copy
