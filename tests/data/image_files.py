"""Small data sets written for the tests, and how a refusal is looked at."""

import json
from io import BytesIO

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet as pq

from dpexp.config import DatasetConfig
from dpexp.data.splits import load
from dpexp.errors import DataError

GREY = {"channels": 1, "mean": [0.5], "std": [0.5]}
COLOR = {"channels": 3, "mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 0.125]}


def png(pixels: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def random_pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def write_parquet(path, images, labels, *, columns=("image", "label"), names=None):
    rows = [{"bytes": image, "path": None} for image in images]
    table = pa.table({columns[0]: rows, columns[1]: labels})
    if names:
        features = {columns[1]: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
    pq.write_table(table, path)


def refusal(config: DatasetConfig, **form) -> str:
    """The message with which `load` refuses a data set; always one line, for exit code 2."""
    with pytest.raises(DataError) as caught:
        load(config, **{"image_size": 6, **COLOR, **form})
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message
