"""Tables: rows of numbers, with a number to be predicted from each.

A row is held as an image of one pixel with a channel for each column, so all that reads images
(loader, engine, checks, digest) reads tables as well. Columns and target are scaled by the
constants below, which are known without the data; nothing is computed from private rows.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dpexp.config import DatasetConfig
from dpexp.data.images import Source, StoredImages, first_line
from dpexp.data.stratify import held_out
from dpexp.errors import DataError

DIABETES_TEST = 89  # a fifth of 442
CALIFORNIA_TEST = 4128  # a fifth of 20,640
CALIFORNIA_FILE = "cal_housing_py3.pkz"  # as scikit-learn names it

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Target:
    """The number that is predicted, and how it is scaled: trained on is (y - center) / spread.

    Attributes:
        words: What it is, and in which unit.
        center: In that unit; public.
        spread: In that unit; public.
    """

    words: str
    center: float
    spread: float


@dataclass(frozen=True)
class Table:
    """A data set of rows.

    Attributes:
        open: Reads it; labels of the source are scaled targets, float32.
        mean: Subtracted from each column; public.
        std: What is left is divided by it; public.
        target: What is predicted.
    """

    open: Callable[[DatasetConfig, Announce], Source]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    target: Target


def open_diabetes(config: DatasetConfig, announce: Announce) -> Source:
    """Return scikit-learn's 442 diabetes patients, a fixed random fifth as test.

    Ten columns, and the progression of the disease a year later. The columns come centred, each
    with a sum of squares of 1 over all 442 rows: its authors did that before they published it,
    and the guarantee is about rows as published.

    Source: Efron, Hastie, Johnstone & Tibshirani 2004, Annals of Statistics 32(2).
    """
    # Imported late: scikit-learn takes a second.
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes()
    notes = ("columns come standardised by the authors of the data, over all 442 rows",)
    return _source("diabetes", bunch.data, bunch.target, DIABETES_TEST, notes)


def open_california(config: DatasetConfig, announce: Announce) -> Source:
    """Return the 20,640 districts of California Housing, a fixed random fifth as test.

    Eight columns, and the median value of a house. A few districts have hundreds of rooms or
    occupants a household; each value is held below a public bound (`_CALIFORNIA_MOST`).

    Source: Pace & Barry 1997, Statistics & Probability Letters 33(3); read by scikit-learn.

    Raises:
        DataError: If it is absent and may not or cannot be downloaded, or is corrupt.
    """
    root = Path(config.root or "data")
    file = root.resolve() / CALIFORNIA_FILE
    if not file.exists():
        if not config.download:
            raise DataError(
                f"california is not in {root.resolve()} (no {CALIFORNIA_FILE}); with "
                f"dataset.download=true scikit-learn fetches it from the network, or copy that "
                f"file there, or point dataset.root at its folder, or use dataset=diabetes"
            )
        announce(f"downloading california to {root.resolve()}, by scikit-learn")
    values, targets = _fetch(root, file)
    return _source("california", np.minimum(values, _CALIFORNIA_MOST), targets, CALIFORNIA_TEST)


def _fetch(root: Path, file: Path) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import fetch_california_housing

    is_there = file.exists()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Retry downloading")  # the error below says it all
            values, targets = fetch_california_housing(
                data_home=root, download_if_missing=not is_there, return_X_y=True, n_retries=1
            )
    # What joblib and scikit-learn raise on a file that is cut off or something else.
    except (OSError, ValueError, EOFError, LookupError, TypeError) as error:
        if is_there:
            raise DataError(
                f"{file} cannot be read ({first_line(error)}), so the data would not be what the "
                f"run says; delete it and let dataset.download=true fetch it again"
            ) from error
        raise DataError(
            f"california could not be downloaded to {root.resolve()} ({first_line(error)}); "
            f"connect to a network, or copy scikit-learn's {CALIFORNIA_FILE} there, or use "
            f"dataset=diabetes, which needs no network"
        ) from error
    return values, targets


def _source(
    name: str, values: np.ndarray, targets: np.ndarray, num_test: int, notes: tuple[str, ...] = ()
) -> Source:
    """Return rows and scaled targets, split once and for all.

    Raises:
        DataError: If a number is not finite.
    """
    target = TABLES[name].target
    broken = np.flatnonzero(~(np.isfinite(values).all(1) & np.isfinite(targets)))
    if len(broken):
        raise DataError(
            f"{name}, row {broken[0]}: a number that is missing or infinite, so the row has no "
            f"loss; correct the file, or delete it and let dataset.download=true fetch it again"
        )
    labels = torch.from_numpy((targets - target.center) / target.spread).float()
    pixels = torch.from_numpy(values).float()[:, :, None, None]
    is_test = held_out(np.zeros(len(targets), dtype=np.int64), num_test)

    def part(mask: np.ndarray) -> StoredImages:
        rows = np.flatnonzero(mask)
        return StoredImages(
            pixels[rows], labels[rows], lambda row: f"{name}, row {rows[row]}", white=1
        )

    scaled = (
        f"target: {target.words}; trained on (y - {target.center:g}) / {target.spread:g}, "
        f"constants that are public"
    )
    return Source(part(~is_test), part(is_test), (), (scaled, *notes))


# Income, age of houses, rooms, bedrooms, population, occupants, latitude, longitude: rounded values
# that anybody who knows the state and its census could give.
_CALIFORNIA_MOST = np.array([15.0, 52.0, 20.0, 5.0, 10_000.0, 10.0, 42.0, -114.0])

TABLES = {
    "diabetes": Table(
        open_diabetes,
        mean=(0.0,) * 10,
        std=(0.05,) * 10,  # 1 / sqrt(442), rounded
        target=Target("disease progression, an index from 25 to 346", 150.0, 75.0),
    ),
    "california": Table(
        open_california,
        mean=(4.0, 30.0, 5.0, 1.0, 1400.0, 3.0, 36.0, -120.0),
        std=(2.0, 12.0, 2.0, 0.5, 1000.0, 1.0, 2.0, 2.0),
        target=Target("median house value, 100,000 dollars", 2.0, 1.0),
    ),
}
