"""What is public about a data set before it is opened: name, classes, size. No torch.

The number N of training samples enters q = batch / N and so the guarantee. Under add-or-remove-one
adjacency it must not be computed from private data, so it is a constant of each known set.
"""

import difflib
from dataclasses import dataclass

from dpexp.config import DatasetConfig
from dpexp.errors import DataError


@dataclass(frozen=True)
class PublicFacts:
    """Constants of a published data set.

    Attributes:
        num_train: Samples in its training part, before any are held out for validation.
        num_classes: Labels are the integers below it; None where the target is a number.
        num_columns: Of a table; None for images.
    """

    num_train: int
    num_classes: int | None
    num_columns: int | None = None


KNOWN_SETS = {
    "digits": PublicFacts(num_train=1438, num_classes=10),  # 1797 images less a test fifth
    "mnist": PublicFacts(num_train=60_000, num_classes=10),
    "fashionmnist": PublicFacts(num_train=60_000, num_classes=10),
    "cifar10": PublicFacts(num_train=50_000, num_classes=10),
    "cifar100": PublicFacts(num_train=50_000, num_classes=100),
    "svhn": PublicFacts(num_train=73_257, num_classes=10),
    # 442 and 20,640 rows less a test fifth
    "diabetes": PublicFacts(num_train=353, num_classes=None, num_columns=10),
    "california": PublicFacts(num_train=16_512, num_classes=None, num_columns=8),
}
TABLE_NETWORKS = ("mlp",)
OWN_SETS = ("imagefolder", "parquet", "fake")
FAKE_NUM_TRAIN = 1024


def check_name(name: str) -> None:
    """Check that `name` is a data set.

    Raises:
        DataError: If not; names the nearest and all of them.
    """
    names = (*KNOWN_SETS, *OWN_SETS)
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise DataError(f"dataset.name={name}: no such data set; {hint}There are: {', '.join(names)}")


def num_columns(name: str) -> int | None:
    """Return the columns of a table, each a number that a network takes; None for images."""
    return KNOWN_SETS[name].num_columns if name in KNOWN_SETS else None


def table_problems(config: DatasetConfig, network: str) -> list[str]:
    """Return why a network cannot take a table, or a key says nothing about one; [] for images."""
    if num_columns(config.name) is None:
        return []
    problems = []
    if network not in TABLE_NETWORKS:
        problems.append(
            f"dataset={config.name} with model.name={network}: its samples are rows of "
            f"{num_columns(config.name)} numbers, and that network takes images; use model="
            f"{' or model='.join(TABLE_NETWORKS)}"
        )
    keys = ("image_size", "channels", "num_classes")
    given = [f"dataset.{key}={value}" for key in keys if (value := getattr(config, key))]
    if given:
        problems.append(
            f"{', '.join(given)} with dataset={config.name}: a table has columns and a number to "
            f"predict, no pixels and no classes; leave it out"
        )
    return problems


def public_num_train(config: DatasetConfig) -> int | None:
    """Return N, the public number of samples that train, or None if only the data could tell.

    N is `dataset.num_train` (else the known size of the set) less what validation holds out.

    Raises:
        DataError: If validation leaves nothing to train on, or N is not the known one.
    """
    num_train = config.num_train
    known = KNOWN_SETS[config.name].num_train if config.name in KNOWN_SETS else None
    if None not in (num_train, known) and num_train != known:
        raise DataError(
            f"dataset.num_train={num_train}, but the training part of {config.name} has {known} "
            f"samples (before validation is held out); it sets the sampling rate, so epsilon "
            f"would be false; leave it out"
        )
    num_train = num_train or known
    if num_train is None and config.name == "fake":
        num_train = FAKE_NUM_TRAIN
    if num_train is None:
        return None
    return num_train - num_held_out(config.validation, num_train)


def num_held_out(validation: float, num_train: int) -> int:
    """Return how many of `num_train` samples validation takes.

    Args:
        validation: A fraction if below 1, else a count of samples.
        num_train: Samples in the whole training part.

    Raises:
        DataError: If the count is not whole, or leaves nothing to train on.
    """
    if validation >= 1 and validation != int(validation):
        raise DataError(
            f"dataset.validation={validation}: from 1 up it is a count of samples and must be "
            f"whole; below 1 it is a fraction of the training part"
        )
    count = round(validation * num_train) if validation < 1 else int(validation)
    if count >= num_train:
        raise DataError(
            f"dataset.validation={validation} holds out {count} of {num_train} training samples, "
            f"so none would be left to train on; give a smaller fraction or count"
        )
    return count
