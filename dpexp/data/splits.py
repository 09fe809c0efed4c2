"""Load a data set and split it: training, validation, test; normalised images or rows by index."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dpexp.config import DatasetConfig
from dpexp.data.builtin import FAKE_CLASSES, open_digits, open_fake, open_torchvision
from dpexp.data.folders import existing_root, folder_classes, open_imagefolder
from dpexp.data.images import Images, Source
from dpexp.data.parquet import open_parquet, parquet_classes
from dpexp.data.public import KNOWN_SETS, check_name, num_held_out, public_num_train
from dpexp.data.stratify import held_out
from dpexp.data.tables import TABLES, Target
from dpexp.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Input:
    """What a network takes.

    Attributes:
        image_size: Pixels a side.
        channels: 1 or 3.
        mean: Subtracted from pixels in [0, 1]; one a channel, public.
        std: Divided by after; one a channel, public.
        target: The number that labels stand for; None where they are classes.
    """

    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    target: Target | None = None


@dataclass(frozen=True)
class Split:
    """Some samples of a data set, read as a network takes them.

    Attributes:
        images: Where the samples lie.
        rows: Which of them belong to the split; int64, shape (len(self),).
        form: How they are scaled and normalised.
    """

    images: Images
    rows: Tensor
    form: Input

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> Tensor:
        """Class of each sample, int64, or its scaled target, float32; shape (len(self),)."""
        return self.images.labels[self.rows]

    def batch(self, indices: Tensor | Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        """Return normalised images, float32, shape (n, c, s, s), and labels, shape (n,).

        The same indices give the same tensors, on any call. No indices give tensors of length 0.

        Args:
            indices: Positions within the split, shape (n,), in any order, repeated or not.

        Raises:
            DataError: If an image that is decoded only when read is unreadable.
        """
        rows = self.rows[torch.as_tensor(indices, dtype=torch.int64)]
        size, channels = self.form.image_size, self.form.channels
        pixels = self.images.read(rows, image_size=size, channels=channels)
        mean = pixels.new_tensor(self.form.mean).view(-1, 1, 1)
        std = pixels.new_tensor(self.form.std).view(-1, 1, 1)
        return (pixels - mean) / std, self.images.labels[rows]


@dataclass(frozen=True)
class Splits:
    """A data set, split.

    Attributes:
        train: The samples that the guarantee is about; len(train) is num_train.
        validation: Held out of training before N was counted; None if nothing was.
        test: Never chosen on.
        class_names: In label order; none where the target is a number.
        num_train: N, samples. A public constant, or counted and treated as public: see notes.
        notes: Lines to tell the user.
    """

    train: Split
    validation: Split | None
    test: Split
    class_names: tuple[str, ...]
    num_train: int
    notes: tuple[str, ...]


def num_outputs(config: DatasetConfig) -> int:
    """Return how many outputs a network has: one a class, and 1 where the target is a number.

    Raises:
        DataError: As for `num_classes`.
    """
    return 1 if config.name in TABLES else num_classes(config)


def num_classes(config: DatasetConfig) -> int:
    """Return how many classes a data set of images has, reading none.

    Raises:
        DataError: If the name is unknown, or the data are missing or corrupt.
    """
    check_name(config.name)
    if config.num_classes is not None:
        return config.num_classes
    if config.name in KNOWN_SETS and (known := KNOWN_SETS[config.name].num_classes):
        return known
    if config.name == "fake":
        return FAKE_CLASSES
    return len(_own_classes(config))


def _own_classes(config: DatasetConfig) -> tuple[str, ...]:
    root = existing_root(config)
    return folder_classes(root) if config.name == "imagefolder" else parquet_classes(root)


def load(
    config: DatasetConfig,
    *,
    image_size: int,
    channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    announce: Callable[[str], None] = logger.warning,
) -> Splits:
    """Open a data set, check it, and split it.

    Validation is held out of the training part by class (of a table, at random), the same samples
    in every run. The rest is N samples; where N is publicly known, a differing count is an error,
    because it enters the sampling rate and so the guarantee.

    Args:
        config: `mean` and `std` in it, if given, win over the arguments.
        image_size: Pixels a side of what `Split.batch` returns. A table has its own form, and this
            and what follows are not looked at.
        channels: 1 or 3, likewise.
        mean: Of pixels in [0, 1], one a channel; a public constant.
        std: Likewise.
        announce: Told of a download before it starts.

    Raises:
        DataError: If anything about the data is not as `config` says; names file and row.
    """
    check_name(config.name)
    table = TABLES.get(config.name)
    form = Input(image_size, channels, tuple(config.mean or mean), tuple(config.std or std))
    if table is not None:
        columns = (tuple(config.mean or table.mean), tuple(config.std or table.std))
        form = Input(1, len(table.mean), *columns, table.target)
    _check_form(form)
    source = _open(config, announce)
    _check_count(config, len(source.train.labels))
    names = _class_names(config, source) if table is None else ()

    labels = source.train.labels.numpy()
    if table is not None:
        labels = np.zeros(len(labels), dtype=np.int64)  # one stratum
    is_held_out = held_out(labels, num_held_out(config.validation, len(labels)))
    train = Split(source.train, torch.from_numpy(np.flatnonzero(~is_held_out)), form)
    validation = Split(source.train, torch.from_numpy(np.flatnonzero(is_held_out)), form)
    return Splits(
        train=train,
        validation=validation if len(validation) else None,
        test=Split(source.test, torch.arange(len(source.test.labels)), form),
        class_names=names,
        num_train=len(train),
        notes=(*source.notes, *_count_notes(config, len(train))),
    )


def _open(config: DatasetConfig, announce: Callable[[str], None]) -> Source:
    if config.name in TABLES:
        return TABLES[config.name].open(config, announce)
    match config.name:
        case "digits":
            return open_digits()
        case "fake":
            return open_fake(config)
        case "imagefolder":
            return open_imagefolder(config)
        case "parquet":
            return open_parquet(config)
        case _:
            return open_torchvision(config, announce)


def _check_form(form: Input) -> None:
    for key, values in (("mean", form.mean), ("std", form.std)):
        if len(values) != form.channels:
            raise DataError(
                f"dataset.{key}={list(values)} has {len(values)} value(s) and images have "
                f"{form.channels} channel(s); give one a channel"
            )
    if min(form.std) <= 0:
        raise DataError(f"dataset.std={list(form.std)}: pixels are divided by it; must be above 0")


def _check_count(config: DatasetConfig, counted: int) -> None:
    """Check the public size of the training part, before validation, against the data."""
    known = KNOWN_SETS[config.name].num_train if config.name in KNOWN_SETS else None
    expected = config.num_train if config.num_train is not None else known
    if expected is None or expected == counted:
        return
    key = "dataset.num_train" if config.num_train is not None else "the known number"
    raise DataError(
        f"{key} is {expected}, but the training part of {config.name} has {counted} samples "
        f"(before validation is held out); it sets the sampling rate, so epsilon would be false; "
        f"correct dataset.num_train or the data"
    )


def _count_notes(config: DatasetConfig, num_train: int) -> tuple[str, ...]:
    if public_num_train(config) is not None:
        return ()
    return (
        f"N = {num_train} was counted in the data and is treated as public; "
        f"set dataset.num_train to state it",
    )


def _class_names(config: DatasetConfig, source: Source) -> tuple[str, ...]:
    """Return one name a class, after checking that every label has one."""
    count = config.num_classes or len(source.class_names)
    parts = (("training", source.train), ("test", source.test))
    for part, images in parts:
        wrong = torch.nonzero((images.labels < 0) | (images.labels >= count))
        if len(wrong):
            row = int(wrong[0])
            raise DataError(
                f"{images.place(row)}: label {int(images.labels[row])} in the {part} images is "
                f"outside 0 to {count - 1}, so no output of the network stands for it; correct it, "
                f"or set dataset.num_classes"
            )
    extra = tuple(str(label) for label in range(len(source.class_names), count))
    return (*source.class_names[:count], *extra)
