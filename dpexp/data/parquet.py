"""Images in Parquet files, laid out as on the Hugging Face hub: a column of files, one of labels.

Encoded images are held in memory as they are in the files; Parquet cannot be read row by row.
"""

import bisect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pyarrow import compute
from pyarrow import parquet as pq

from dpexp.config import DatasetConfig
from dpexp.data.folders import LAYOUTS, TEST_NAMES, existing_root
from dpexp.data.images import EncodedImages, Images, Source, first_line, store_if_small
from dpexp.errors import DataError

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label")


@dataclass(frozen=True)
class Part:
    """The files of one part of a data set, in name order.

    Attributes:
        paths: One a file.
        starts: Row of the part that each file starts at; shape as `paths`.
        labels: int64, shape (N,).
    """

    paths: Sequence[Path]
    starts: Sequence[int]
    labels: np.ndarray

    def locate(self, row: int) -> tuple[int, int]:
        """Return the file's position in `paths` and the row within it, from a row of the part."""
        file = bisect.bisect_right(self.starts, row) - 1
        return file, row - self.starts[file]

    def place(self, row: int) -> str:
        """Return the name of the file and the row within it, counted from 0."""
        file, row_in_file = self.locate(row)
        return f"{self.paths[file]}, row {row_in_file}"


def parquet_classes(root: Path) -> tuple[str, ...]:
    """Return the class names of the training files: as their metadata says, else by counting.

    Raises:
        DataError: If the files are missing or corrupt.
    """
    paths = _paths(root, ("train",))
    named = _names_in_metadata(_read(paths[0], LABEL_COLUMNS).schema.metadata)
    if named:
        return named
    labels = _part(paths).labels
    return tuple(str(label) for label in range(int(labels.max()) + 1))


def open_parquet(config: DatasetConfig) -> Source:
    """Return the images of root/train*.parquet and root/test*.parquet.

    Raises:
        DataError: If a file is missing, truncated or corrupt, or a column missing, or a small
            image unreadable.
    """
    root = existing_root(config)
    names = parquet_classes(root)
    test_paths = _paths(root, TEST_NAMES)
    return Source(_images(_paths(root, ("train",))), _images(test_paths), names)


def _paths(root: Path, stems: Sequence[str]) -> list[Path]:
    """Return the files of the first of `stems` that has any, in `root` or in `root`/data."""
    for stem in stems:
        for folder in (root, root / "data"):
            if paths := sorted(folder.glob(f"{stem}*.parquet")):
                return paths
    raise DataError(
        f"{root}: no file {' or '.join(f'{stem}*.parquet' for stem in stems)} in it; the layout is "
        f"{LAYOUTS['parquet']}, several files a part are read in name order"
    )


def _read(path: Path, columns: Sequence[str]) -> pa.Table:
    """Return the one of `columns` that the file has, with the schema's metadata."""
    try:
        with pq.ParquetFile(path) as file:
            present = file.schema_arrow.names
            column = next((name for name in columns if name in present), None)
            table = None if column is None else file.read([column])
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: not a readable Parquet file ({first_line(error)}); it may be truncated, and "
            f"a run needs all of its data; fetch it again"
        ) from error
    if table is None:
        raise DataError(
            f"{path}: no column {' or '.join(columns)} in it, only {', '.join(present)}; the "
            f"layout is image={{bytes, path}} and an integer label; rename the column"
        )
    return table


def _names_in_metadata(metadata: dict[bytes, bytes] | None) -> tuple[str, ...]:
    """Return the label names that the Hugging Face writer leaves in the schema, if it did."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return ()
    for column in LABEL_COLUMNS:
        names = features.get(column, {}).get("names")
        if names:
            return tuple(str(name) for name in names)
    return ()


def _part(paths: Sequence[Path]) -> Part:
    """Return the labels of some files.

    Raises:
        DataError: If there are no rows, or a label is not an integer.
    """
    labels = [_labels(path, _read(path, LABEL_COLUMNS).column(0)) for path in paths]
    sizes = [len(part) for part in labels]
    if not sum(sizes):
        raise DataError(f"{paths[0]}: no rows in it, so there is nothing to learn or to measure")
    return Part(paths, [0, *accumulate(sizes)][:-1], np.concatenate(labels))


def _labels(path: Path, column: pa.ChunkedArray) -> np.ndarray:
    if not pa.types.is_integer(column.type):
        raise DataError(
            f"{path}: labels are of type {column.type}, and a class is an integer from 0; number "
            f"the classes and write them as int64"
        )
    if column.null_count:
        row = compute.index(compute.is_null(column), True).as_py()
        raise DataError(f"{path}, row {row}: no label; a sample cannot train without; remove it")
    return column.to_numpy().astype(np.int64)


def _images(paths: Sequence[Path]) -> Images:
    """Return the images of some files with their labels."""
    part = _part(paths)
    encoded = [_encoded(path, _read(path, IMAGE_COLUMNS).column(0)) for path in paths]

    def content(row: int) -> bytes | None:
        file, row_in_file = part.locate(row)
        return encoded[file][row_in_file].as_py()

    return store_if_small(EncodedImages(content, torch.from_numpy(part.labels), part.place))


def _encoded(path: Path, column: pa.ChunkedArray) -> pa.LargeBinaryArray:
    """Return the image files' content, one a row."""
    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = compute.struct_field(column, "bytes")
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise DataError(
            f"{path}: images are of type {column.type}; the layout is image={{bytes, path}}, bytes "
            f"being the content of an image file"
        )
    # 64-bit offsets: a file may hold more than 2 GiB of images.
    return column.cast(pa.large_binary()).combine_chunks()
