"""Per-sample gradients of one parameter, in whatever form is cheapest to hold.

A use of a parameter in an operation with input x and output gradient G determines the gradient g_n
of every sample n. What the engine asks of it is always one of three things,

    per_sample(rows)   g_n itself, for some samples: the definition;
    squared_norms()    |g_n|^2 for every sample;
    weighted_sum(C)    sum_n C_n g_n,

and the second and third need not form the first. Operations with a faster form bring their own
class (see `rules/`); the classes here hold gradients as they are, sum them, or pull them back
through an expression of the parameter.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Protocol, Self

import torch
from torch import Tensor

# Numbers that a pull-back may hold at once: 2^24 is 64 MiB of float32.
PULL_BACK_NUMBERS = 2**24
# Numbers that the gradients instantiated at once may take, with what their kernel takes beside.
INSTANTIATED = 2**20
SHORT_ROW = 1024  # numbers whose squares are summed one after another


class PerSampleGrad(Protocol):
    """The gradients g_n of n samples with respect to one tensor, all of the same shape."""

    @property
    def num_samples(self) -> int:
        """How many samples n there are."""
        ...

    @property
    def shape(self) -> torch.Size:
        """Shape of one g_n."""
        ...

    @property
    def num_held(self) -> int:
        """Numbers that this form keeps in memory."""
        ...

    def per_sample(self, rows: slice) -> Tensor:
        """Return g_n for the samples in `rows`, shape (len(rows), *shape)."""
        ...

    def compact(self) -> "PerSampleGrad":
        """Return the form to hold until the clip factors are known; never a larger one."""
        ...

    def squared_norms(self, workspace: int) -> Tensor:
        """Return |g_n|^2, shape (n,), holding about `workspace` numbers at once."""
        ...

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Return sum_n weights[n] g_n, of shape `shape`; `weights` has shape (n,)."""
        ...

    def zero_where(self, dropped: Tensor) -> Self:
        """Return the same gradients with those of `dropped` samples, shape (n,), exactly zero."""
        ...


def accumulation_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the dtype for norms and sums: float32, or float64 if any tensor is."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def chunks(num_samples: int, numbers_each: int, workspace: int) -> Iterator[slice]:
    """Yield slices of samples whose working memory stays within `workspace` numbers."""
    step = max(1, workspace // max(1, numbers_each))
    for start in range(0, num_samples, step):
        yield slice(start, min(start + step, num_samples))


def tiled(workspace: int, numbers: int) -> int:
    """Return the numbers to work on at once; all of them for the paper's untiled algorithms."""
    return workspace if workspace > 2**40 else min(workspace, numbers)


def zero_rows(tensor: Tensor, dropped: Tensor) -> Tensor:
    """Return `tensor` with the rows of `dropped` samples exactly zero, whatever they held.

    Not a product with 0: 0 * inf and 0 * nan are nan.
    """
    return tensor.masked_fill(dropped.view(-1, *[1] * (tensor.ndim - 1)), 0)


def squared_norms_by_rows(grad: PerSampleGrad, workspace: int) -> Tensor:
    """Return |g_n|^2 from the definition, a few samples at a time."""
    every = chunks(grad.num_samples, prod(grad.shape), workspace)
    return torch.cat([squared_norms_of(grad.per_sample(rows)) for rows in every])


def squared_norms_of(grads: Tensor) -> Tensor:
    """Return |g_n|^2 of gradients as they are, shape (n,), in float32 or wider."""
    # Not flatten(1): the gradients of a number have shape (n,).
    flat = grads.reshape(grads.shape[0], grads[0].numel())
    flat = flat.to(accumulation_dtype(flat))
    size = flat.shape[1] // SHORT_ROW * SHORT_ROW
    # Nothing of the gradients' size is written; rows that are short lose no digits in a plain sum.
    rows = flat[:, :size].unflatten(1, (-1, SHORT_ROW))
    squares = torch.linalg.vector_norm(rows, dim=2).square().sum(1)
    return squares + flat[:, size:].square().sum(1) if size < flat.shape[1] else squares


@dataclass(frozen=True)
class Dense:
    """Gradients held as they are.

    Attributes:
        grads: g_n, shape (n, *shape).
    """

    grads: Tensor

    @property
    def num_samples(self) -> int:
        return self.grads.shape[0]

    @property
    def shape(self) -> torch.Size:
        return self.grads.shape[1:]

    @property
    def num_held(self) -> int:
        return self.grads.numel()

    def per_sample(self, rows: slice) -> Tensor:
        return self.grads[rows]

    def compact(self) -> PerSampleGrad:
        return self

    def squared_norms(self, workspace: int) -> Tensor:
        return squared_norms_by_rows(self, workspace)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        flat = self.grads.reshape(self.num_samples, self.shape.numel()).to(weights.dtype)
        return (weights @ flat).view(self.shape)

    def zero_where(self, dropped: Tensor) -> Self:
        return replace(self, grads=zero_rows(self.grads, dropped))


def instantiated(grad: PerSampleGrad, num_working: int) -> Dense:
    """Return the gradients themselves, whatever form they came in, made a few samples at a time.

    Args:
        grad: The gradients.
        num_working: Numbers that making one sample's holds at once.
    """
    parts = chunks(grad.num_samples, num_working, INSTANTIATED)
    first = grad.per_sample(next(parts))
    if len(first) == grad.num_samples:
        return Dense(first)
    grads = first.new_empty(grad.num_samples, *grad.shape)
    grads[: len(first)] = first
    for rows in parts:
        grads[rows] = grad.per_sample(rows)
    return Dense(grads)


@dataclass(frozen=True)
class Summed:
    """The sum of several uses of one parameter: the norm is that of the sum.

    Attributes:
        terms: One per use, over the same samples and of the same shape.
    """

    terms: tuple[PerSampleGrad, ...]

    @property
    def num_samples(self) -> int:
        return self.terms[0].num_samples

    @property
    def shape(self) -> torch.Size:
        return self.terms[0].shape

    @property
    def num_held(self) -> int:
        return sum(term.num_held for term in self.terms)

    def per_sample(self, rows: slice) -> Tensor:
        return sum_tensors([term.per_sample(rows) for term in self.terms])

    def compact(self) -> PerSampleGrad:
        return self

    def squared_norms(self, workspace: int) -> Tensor:
        return squared_norms_by_rows(self, workspace // 2)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        return sum_tensors([term.weighted_sum(weights) for term in self.terms])

    def zero_where(self, dropped: Tensor) -> Self:
        return replace(self, terms=tuple(term.zero_where(dropped) for term in self.terms))


def sum_tensors(tensors: list[Tensor]) -> Tensor:
    """Return the sum of tensors of one shape, in the widest of their dtypes."""
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


# Maps gradients of an expression E(p), shape (m, *E.shape), to gradients of p, (m, *p.shape).
PullBack = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PulledBack:
    """Gradients of a parameter p that the batch meets as an expression E(p).

    The chain rule through E is linear and the same for every sample:
    dl_n/dp = J^T dl_n/dE, and sum_n C_n dl_n/dp = J^T sum_n C_n dl_n/dE.

    Attributes:
        grad: dl_n/dE.
        pull_back: v -> J^T v, for a leading axis of several v.
        shape: Shape of p.
        is_isometric: Whether |J^T v| = |v|, as for a transposed or reshaped parameter.
    """

    grad: PerSampleGrad
    pull_back: PullBack
    shape: torch.Size
    is_isometric: bool

    @property
    def num_samples(self) -> int:
        return self.grad.num_samples

    @property
    def num_held(self) -> int:
        return self.grad.num_held

    def per_sample(self, rows: slice) -> Tensor:
        return self.pull_back(self.grad.per_sample(rows))

    def compact(self) -> PerSampleGrad:
        grad = self.grad.compact()
        is_smaller = self.num_samples * self.shape.numel() <= grad.num_held
        if isinstance(grad, Dense | Aligned) and is_smaller:
            every = chunks(self.num_samples, prod(grad.shape), PULL_BACK_NUMBERS)
            return Dense(torch.cat([self.pull_back(grad.per_sample(rows)) for rows in every]))
        return replace(self, grad=grad)

    def squared_norms(self, workspace: int) -> Tensor:
        if self.is_isometric:
            return self.grad.squared_norms(workspace)
        every = chunks(self.num_samples, prod(self.grad.shape) + prod(self.shape), workspace)
        return torch.cat([squared_norms_of(self.per_sample(rows)) for rows in every])

    def weighted_sum(self, weights: Tensor) -> Tensor:
        return self.pull_back(self.grad.weighted_sum(weights)[None])[0]

    def zero_where(self, dropped: Tensor) -> Self:
        return replace(self, grad=self.grad.zero_where(dropped))


@dataclass(frozen=True)
class Aligned:
    """Gradients of an expression that was spread over the batch, such as `token.expand(n, 1, d)`.

    Sample n uses rows n k to (n + 1) k of the expression and no others, so its gradient is zero
    everywhere else.

    Attributes:
        rows_of: dl_n / d(rows of sample n), shape (n, k, *E.shape[1:]).
    """

    rows_of: Tensor

    @property
    def num_samples(self) -> int:
        return self.rows_of.shape[0]

    @property
    def shape(self) -> torch.Size:
        n, k, *rest = self.rows_of.shape
        return torch.Size((n * k, *rest))

    @property
    def num_held(self) -> int:
        return self.rows_of.numel()

    def per_sample(self, rows: slice) -> Tensor:
        taken = self.rows_of[rows]
        wide = taken.new_zeros(taken.shape[0], *self.rows_of.shape)
        index = torch.arange(taken.shape[0], device=taken.device)
        wide[index, index + rows.start] = taken
        return wide.flatten(1, 2)

    def compact(self) -> PerSampleGrad:
        return self

    def squared_norms(self, workspace: int) -> Tensor:
        return Dense(self.rows_of).squared_norms(workspace)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        n = self.num_samples
        weighted = self.rows_of.to(weights.dtype) * weights.view(n, *[1] * (self.rows_of.ndim - 1))
        return weighted.flatten(0, 1)

    def zero_where(self, dropped: Tensor) -> Self:
        return replace(self, rows_of=zero_rows(self.rows_of, dropped))
