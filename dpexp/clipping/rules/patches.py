"""What a convolution's kernel sees: patches, their Gram matrices, and sums over kernel offsets.

U(x) holds the patch under the kernel at every output position, shape (n, groups, D, T) here, with
D = channels of a group times kernel offsets. Three quantities of it are had without forming it:

    <U U^T, G G^T>   for a kernel that visits every pixel (stride 1), from the Gram matrix of
                     pixels: sum over kernel offsets of its shifted windows, one dimension at a time
    sum_n G_n^T U_n  as one matrix product for each kernel offset, of the pixels that it meets alone
    G_n^T U_n        for one channel a group, as a convolution of x with G for its kernel
"""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from dpexp.clipping.rules.geometry import Geometry, numbers_of, overlap
from dpexp.clipping.rules.gram import inner


def patches(
    x: Tensor, kernel: Sequence[int], geometry: Geometry, positions: Sequence[int]
) -> Tensor:
    """Return U(x), zero padding included, shape (n, groups, D, T)."""
    n, channels = x.shape[:2]
    num_patches, width = numbers_of(positions), channels // geometry.groups * numbers_of(kernel)
    if numbers_of(kernel) == 1 and set(geometry.stride) == {1} and not any(geometry.padding):
        return x.reshape(n, geometry.groups, width, num_patches)
    if any(geometry.padding):
        x = F.pad(x, [pad for padding in reversed(geometry.padding) for pad in (padding, padding)])
    space = x.stride()[2:]
    view = x.as_strided(
        (n, channels, *kernel, *positions),
        (
            *x.stride()[:2],
            *[s * step for s, step in zip(space, geometry.dilation, strict=True)],
            *[s * step for s, step in zip(space, geometry.stride, strict=True)],
        ),
        x.storage_offset(),
    )
    return view.reshape(n, geometry.groups, width, num_patches)


def pixel_gram_product(
    x: Tensor, grad_y: Tensor, kernel: Sequence[int], geometry: Geometry
) -> Tensor:
    """Return <U_n U_n^T, G_n G_n^T>, shape (n,), for a kernel that visits every pixel.

    With K the Gram matrix of pixels, U U^T at positions (s, t) is the sum over kernel offsets d of
    K[s + d, t + d]: D + p multiply-adds a pair of positions become c + p.
    """
    n, dims = x.shape[0], geometry.dims
    pixels, positions = x.shape[2:], grad_y.shape[2:]
    flat_x, flat_g = x.flatten(2), grad_y.flatten(2)
    gram = (flat_x.transpose(1, 2) @ flat_x).view(n, *pixels, *pixels)
    for axis in range(dims):
        shifts = geometry.shifts(kernel, axis)
        gram = _sum_of_windows(gram, 1 + axis, 1 + dims + axis, shifts, positions[axis])
    return inner(gram, flat_g.transpose(1, 2) @ flat_g)


def _sum_of_windows(gram: Tensor, a: int, b: int, shifts: list[int], places: int) -> Tensor:
    """Return sum over shifts d of gram[.., s + d, .., t + d, ..], with s on axis a and t on b."""
    size = gram.shape[a]
    if 0 in shifts and places == size:
        total = gram.clone() if len(shifts) > 1 else gram
        shifts = [shift for shift in shifts if shift]
    else:
        shape = [*gram.shape]
        shape[a] = shape[b] = places
        total = gram.new_zeros(shape)
    for shift in shifts:
        out, met = overlap(size, places, shift)
        length = out.stop - out.start
        if length:  # else this offset of the kernel meets padding alone
            window = gram.narrow(a, met.start, length).narrow(b, met.start, length)
            total.narrow(a, out.start, length).narrow(b, out.start, length).add_(window)
    return total


def sum_by_offsets(x: Tensor, grad_y: Tensor, kernel: Sequence[int], geometry: Geometry) -> Tensor:
    """Return sum_n dl_n/dW, shape (p, c, *kernel), for one group of channels.

    For each kernel offset, one matrix product over the positions at which it meets a pixel: where
    images are not much larger than the kernel, most offsets meet padding and are left out.
    """
    channels_last = [0, *range(2, x.ndim), 1]
    xs, gs = (t.permute(channels_last).contiguous() for t in (x, grad_y))
    total = x.new_empty(numbers_of(kernel), grad_y.shape[1], x.shape[1])
    for index, offset in enumerate(product(*(range(size) for size in kernel))):
        met = [
            overlap(
                x.shape[2 + axis],
                grad_y.shape[2 + axis],
                geometry.shifts(kernel, axis)[i],
                geometry.stride[axis],
            )
            for axis, i in enumerate(offset)
        ]
        if all(out.stop > out.start for out, _ in met):
            g = gs[(slice(None), *(out for out, _ in met))].reshape(-1, gs.shape[-1])
            seen = xs[(slice(None), *(pixels for _, pixels in met))].reshape(-1, xs.shape[-1])
            torch.mm(g.t(), seen, out=total[index])
        else:
            total[index] = 0
    return total.permute(1, 2, 0).reshape(grad_y.shape[1], x.shape[1], *kernel)


def gradients_by_correlation(
    x: Tensor, grad_y: Tensor, kernel: Sequence[int], geometry: Geometry
) -> Tensor:
    """Return dl_n/dW, shape (n, p, 1, *kernel), for one input channel a group.

    Along each dimension dl/dW[i] = sum_t G[t] x[t stride + i dilation - padding]: the convolution
    of x with G for its kernel, in which stride and dilation change places.
    """
    n, channels = x.shape[:2]
    swapped = Geometry(geometry.dilation, geometry.padding, geometry.stride, n * channels)
    images, kernels = x.reshape(1, n * channels, *x.shape[2:]), grad_y.flatten(0, 1).unsqueeze(1)
    found = swapped.apply(images, kernels, None)
    # Pixels past the last position of a strided kernel would give offsets that it does not have.
    for axis, size in enumerate(kernel):
        found = found.narrow(2 + axis, 0, size)
    return found.reshape(n, grad_y.shape[1], 1, *kernel)
