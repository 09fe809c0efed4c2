"""Data sets that are named, not brought: digits, what torchvision knows, and random images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpexp.config import DatasetConfig
from dpexp.data.images import Source, StoredImages, first_line
from dpexp.data.public import FAKE_NUM_TRAIN
from dpexp.data.stratify import held_out
from dpexp.errors import DataError

FAKE_SIDE = 32  # pixels
FAKE_CLASSES = 10
DIGITS_TEST = 359  # a fifth of 1797

TORCHVISION_CLASSES = {
    "mnist": "MNIST",
    "fashionmnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "svhn": "SVHN",
}


def open_digits() -> Source:
    """Return scikit-learn's 1797 grey 8x8 handwritten digits, a fixed stratified fifth as test."""
    # Imported late: scikit-learn takes a second, and only this data set needs it.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    pixels = torch.from_numpy(bunch.images.astype(np.uint8))[:, None]
    is_test = held_out(labels, DIGITS_TEST)

    def part(mask: np.ndarray) -> StoredImages:
        rows = np.flatnonzero(mask)
        return StoredImages(
            pixels[rows],
            torch.from_numpy(labels[rows]),
            lambda row: f"scikit-learn's digits, row {rows[row]}",
            white=16,
        )

    return Source(part(~is_test), part(is_test), tuple(str(digit) for digit in range(10)))


@dataclass(frozen=True)
class FakeImages:
    """Random colour images, each drawn from its own row number, so that any number costs nothing.

    Attributes:
        labels: int64, shape (N,).
        part: Sets apart the images of the training and of the test part.
    """

    labels: Tensor
    part: int

    def place(self, row: int) -> str:
        """Return the name of a row."""
        return f"fake image {row}"

    def read(self, rows: Tensor, *, image_size: int, channels: int) -> Tensor:
        """Return images in [0, 1], shape (n, channels, image_size, image_size), float32."""
        pixels = torch.empty(len(rows), 3, FAKE_SIDE, FAKE_SIDE, dtype=torch.uint8)
        for i, row in enumerate(rows.tolist()):
            drawn = np.random.default_rng([self.part, row]).integers(
                256, size=pixels.shape[1:], dtype=np.uint8
            )
            pixels[i] = torch.from_numpy(drawn)
        stored = StoredImages(pixels, self.labels[rows], self.place)
        return stored.read(torch.arange(len(rows)), image_size=image_size, channels=channels)


def open_fake(config: DatasetConfig) -> Source:
    """Return random images with labels that have nothing to do with them."""
    num_train = FAKE_NUM_TRAIN if config.num_train is None else config.num_train
    num_classes = config.num_classes or FAKE_CLASSES

    def part(number: int, count: int) -> FakeImages:
        return FakeImages(torch.arange(count) % num_classes, number)

    names = tuple(str(label) for label in range(num_classes))
    note = "dataset fake: random images; accuracy beyond chance would be a fault"
    return Source(part(0, num_train), part(1, max(num_train // 5, 1)), names, (note,))


def open_torchvision(config: DatasetConfig, announce: Callable[[str], None]) -> Source:
    """Return a data set that torchvision knows, downloaded first if it is absent and allowed to be.

    Raises:
        DataError: If it is absent and may not or cannot be downloaded, or is corrupt.
    """
    root = Path(config.root or "data")
    # SVHN's loader needs scipy, and torchvision itself a second.
    from torchvision import datasets

    build = getattr(datasets, TORCHVISION_CLASSES[config.name])
    if config.name == "svhn":
        parts: list[dict[str, Any]] = [{"split": "train"}, {"split": "test"}]
    else:
        parts = [{"train": True}, {"train": False}]
    opened = [_open_part(build, root, arguments, config, announce) for arguments in parts]
    names = getattr(opened[0], "classes", [str(label) for label in range(10)])
    train, test = (_stored(part) for part in opened)
    return Source(train, test, tuple(names))


def _open_part(
    build: Callable[..., Any],
    root: Path,
    arguments: dict[str, Any],
    config: DatasetConfig,
    announce: Callable[[str], None],
) -> Any:
    """Return one part as torchvision's own object."""
    try:
        return build(root, download=False, **arguments)
    except RuntimeError as absent:
        if "not found" not in str(absent):
            raise _corrupt(root, config.name, absent) from absent
        if not config.download:
            raise DataError(
                f"{config.name} is not in {root.resolve()} ({first_line(absent)}); with "
                f"dataset.download=true it is fetched from the network, or copy torchvision's "
                f"folder there, or point dataset.root at one, or use dataset=parquet"
            ) from absent
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise _corrupt(root, config.name, error) from error
    announce(f"downloading {config.name} to {root.resolve()}, by torchvision")
    try:
        return build(root, download=True, **arguments)
    except (RuntimeError, OSError, ValueError, EOFError, KeyError) as error:
        raise DataError(
            f"{config.name} could not be downloaded to {root.resolve()} ({first_line(error)}); "
            f"connect to a network, or copy torchvision's folder there, or point dataset.root at "
            f"one, or use dataset=parquet or dataset=digits, which need no network"
        ) from error


def _corrupt(root: Path, name: str, error: BaseException) -> DataError:
    return DataError(
        f"{name} in {root.resolve()} cannot be read ({first_line(error)}), so the data would not "
        f"be what the run says; delete that folder and let dataset.download=true fetch it again"
    )


def _stored(part: Any) -> StoredImages:
    """Return torchvision's arrays, (N, h, w), (N, h, w, 3) or (N, 3, h, w), as stored images."""
    pixels = torch.as_tensor(part.data)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.shape[-1] == 3:
        pixels = pixels.permute(0, 3, 1, 2).contiguous()
    labels = part.labels if hasattr(part, "labels") else part.targets
    labels = torch.as_tensor(labels, dtype=torch.int64)
    return StoredImages(pixels, labels, lambda row: f"{part.root}, row {row}")
