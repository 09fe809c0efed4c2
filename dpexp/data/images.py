"""Images by index: decoded once into memory where that is small, else decoded per batch.

Pixels are bytes until they are read; what `read` returns is in [0, 1], not yet normalised.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from dpexp.errors import DataError

LUMINANCE = (0.299, 0.587, 0.114)  # red, green, blue; ITU-R BT.601
SMALL_SIDE = 64  # pixels
SMALL_BYTES = 2**29

# What Pillow raises on files that are truncated, corrupt, no image, or too large to be one.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


class Images(Protocol):
    """Labelled images of one part of a data set.

    Attributes:
        labels: Class of each image, int64, shape (N,); of a table's rows, a number each, float32.
        place: From a row to where it came from, for errors.
    """

    @property
    def labels(self) -> Tensor: ...

    @property
    def place(self) -> Callable[[int], str]: ...

    def read(self, rows: Tensor, *, image_size: int, channels: int) -> Tensor:
        """Return images in [0, 1], shape (n, channels, image_size, image_size), float32."""
        ...


@dataclass(frozen=True)
class StoredImages:
    """Images of one size, held decoded.

    Attributes:
        pixels: uint8, shape (N, c, h, w); c is 1 or 3. Of a table float32, shape (N, c, 1, 1), with
            a column in each of the c channels and 1 as white.
        labels: int64, shape (N,); of a table float32.
        place: From a row to where it came from, for errors.
        white: The largest value that a pixel can have.
    """

    pixels: Tensor
    labels: Tensor
    place: Callable[[int], str]
    white: int = 255

    def read(self, rows: Tensor, *, image_size: int, channels: int) -> Tensor:
        """Return images in [0, 1], shape (n, channels, image_size, image_size), float32."""
        return _fit(self.pixels[rows].float() / self.white, image_size, channels)


@dataclass(frozen=True)
class EncodedImages:
    """Images of any size, decoded whenever they are read.

    Attributes:
        encoded: From a row to the path of its file, or to the content.
        labels: int64, shape (N,).
        place: From a row to where it came from, for errors.
    """

    encoded: Callable[[int], Path | bytes | None]
    labels: Tensor
    place: Callable[[int], str]

    def decode(self, row: int) -> Tensor:
        """Return the pixels of one image, uint8, shape (c, h, w).

        Raises:
            DataError: If it is absent or unreadable.
        """
        encoded = self.encoded(row)
        if encoded is None:
            raise DataError(
                f"{self.place(row)}: no image bytes, so there is nothing to decode; write the "
                f"content of the image file into the row (paths to files are not followed)"
            )
        return decode_image(encoded, self.place(row))

    def read(self, rows: Tensor, *, image_size: int, channels: int) -> Tensor:
        """Return images in [0, 1], shape (n, channels, image_size, image_size), float32.

        Raises:
            DataError: If one cannot be decoded.
        """

        def read_row(row: int) -> Tensor:
            return _fit(self.decode(row)[None].float() / 255, image_size, channels)

        if not len(rows):
            return torch.zeros(0, channels, image_size, image_size)
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            return torch.cat(list(pool.map(read_row, rows.tolist())))


@dataclass(frozen=True)
class Source:
    """A data set as it lies on disk, before it is split and normalised.

    Attributes:
        train: The training part, validation not yet held out.
        test: The test part.
        class_names: One a label, in label order.
        notes: Lines to tell the user.
    """

    train: Images
    test: Images
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def store_if_small(images: EncodedImages) -> Images:
    """Return `images` decoded into memory if they are small and of one shape, else as they are.

    Raises:
        DataError: If the images are small and one of them cannot be decoded.
    """
    num_images = len(images.labels)
    first = images.decode(0)
    if max(first.shape[1:]) > SMALL_SIDE or first.numel() * num_images > SMALL_BYTES:
        return images
    pixels = torch.empty(num_images, *first.shape, dtype=torch.uint8)
    for row in range(num_images):
        decoded = images.decode(row)
        if decoded.shape != first.shape:
            return images
        pixels[row] = decoded
    return StoredImages(pixels, images.labels, images.place)


def decode_image(encoded: bytes | Path, place: str) -> Tensor:
    """Return an image file's pixels, uint8, shape (c, h, w); c is 1 if it is grey, else 3.

    Args:
        encoded: A path, or the bytes of an image file.
        place: How to name it in an error.

    Raises:
        DataError: If it is missing, truncated or no image.
    """
    try:
        with Image.open(BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
            if image.mode.startswith("I;16"):
                return torch.from_numpy((np.asarray(image) >> 8).astype(np.uint8))[None]
            is_grey = image.mode in ("1", "L", "LA")
            array = np.array(image.convert("L" if is_grey else "RGB"))
    except UNREADABLE as error:
        raise DataError(
            f"{place}: not a readable image ({first_line(error)}); a run needs every image of its "
            f"data set; repair or remove it"
        ) from error
    return torch.from_numpy(array)[None] if is_grey else torch.from_numpy(array).permute(2, 0, 1)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its name if it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]


def _fit(images: Tensor, image_size: int, channels: int) -> Tensor:
    """Return `images`, shape (n, c, h, w), with the channels asked for, as centred squares.

    The shorter side is scaled to `image_size` (bilinear, antialiased) and the longer one cropped.
    Grey becomes colour by repetition; colour becomes grey by luminance.
    """
    if images.shape[1] == 3 and channels == 1:
        images = (images * images.new_tensor(LUMINANCE).view(3, 1, 1)).sum(1, keepdim=True)
    height, width = images.shape[2:]
    if (height, width) != (image_size, image_size):
        scale = image_size / min(height, width)
        size = (round(height * scale), round(width * scale))
        images = _resize(images, size)
        top, left = (size[0] - image_size) // 2, (size[1] - image_size) // 2
        images = images[:, :, top : top + image_size, left : left + image_size]
    return images.expand(-1, channels, -1, -1) if images.shape[1] != channels else images


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    if not len(images):
        return images.new_zeros(0, images.shape[1], *size)
    return functional.interpolate(images, size, mode="bilinear", antialias=True)
