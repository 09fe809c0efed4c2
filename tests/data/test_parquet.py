"""Parquet files in the Hugging Face layout, and every way in which they can be wrong."""

import pyarrow as pa
import pytest
from image_files import COLOR, png, random_pixels, refusal, write_parquet
from pyarrow import parquet as pq

from dpexp.config import DatasetConfig
from dpexp.data.splits import load, num_classes
from dpexp.errors import DataError


def test_class_names_come_from_the_metadata(tmp_path):
    image = [png(random_pixels(0, 6, 6))]
    for part in ("train", "test"):
        path = tmp_path / f"{part}.parquet"
        write_parquet(path, image, [1], columns=("img", "fine_label"), names=["cat", "dog"])
    config = DatasetConfig(name="parquet", root=str(tmp_path))
    assert load(config, image_size=6, **COLOR).class_names == ("cat", "dog")
    assert num_classes(config) == 2


def spoil(name, root):
    """Make one thing wrong with the data under `root`; return the words the message must have."""
    image = png(random_pixels(0, 6, 6, 3))
    test, second = root / "test.parquet", root / "train-00001-of-00002.parquet"
    match name:
        case "empty folder":
            for path in root.iterdir():
                path.unlink()
            return [str(root), "no file train*.parquet"]
        case "no test part":
            test.unlink()
            return [str(root), "no file test*.parquet or validation*.parquet"]
        case "truncated":
            second.write_bytes(second.read_bytes()[:-20])
            return [str(second), "not a readable Parquet file", "truncated"]
        case "not parquet":
            second.write_bytes(b"")
            return [str(second), "not a readable Parquet file"]
        case "damaged pages":
            content = bytearray(second.read_bytes())
            content[4:200] = bytes(196)
            second.write_bytes(bytes(content))
            return [str(second)]
        case "no image column":
            write_parquet(second, [image], [0], columns=("picture", "label"))
            return [str(second), "no column image or img", "only picture, label"]
        case "no label column":
            write_parquet(second, [image], [0], columns=("image", "target"))
            return [str(second), "no column label or fine_label", "only image, target"]
        case "text label":
            write_parquet(second, [image], ["cat"])
            return [str(second), "labels are of type string", "integer"]
        case "missing label":
            write_parquet(second, [image] * 2, [0, None])
            return [f"{second}, row 1", "no label"]
        case "negative label":
            write_parquet(second, [image] * 2, [0, -1])
            return [f"{second}, row 1", "label -1", "outside 0 to 2"]
        case "unknown test label":
            write_parquet(test, [image] * 2, [2, 3])
            return [f"{test}, row 1", "label 3", "outside 0 to 2"]
        case "unreadable image":
            write_parquet(second, [image, image[:60], image], [0, 1, 2])
            return [f"{second}, row 1", "not a readable image"]
        case "no image":
            write_parquet(second, [image, b"", image], [0, 1, 2])
            return [f"{second}, row 1", "not a readable image"]
        case "no bytes":
            write_parquet(second, [image, None], [0, 1])
            return [f"{second}, row 1", "no image bytes"]
        case "images are numbers":
            pq.write_table(pa.table({"image": [1, 2], "label": [0, 1]}), second)
            return [str(second), "images are of type int64"]
        case "no rows":
            write_parquet(test, [], pa.array([], pa.int64()))
            return [str(test), "no rows"]
    raise AssertionError(name)


@pytest.mark.parametrize(
    "fault",
    [
        "empty folder",
        "no test part",
        "truncated",
        "not parquet",
        "damaged pages",
        "no image column",
        "no label column",
        "text label",
        "missing label",
        "negative label",
        "unknown test label",
        "unreadable image",
        "no image",
        "no bytes",
        "images are numbers",
        "no rows",
    ],
)
def test_wrong_parquet_files_are_refused_by_name(parquet_root, fault):
    words = spoil(fault, parquet_root)
    message = refusal(DatasetConfig(name="parquet", root=str(parquet_root)))
    for word in words:
        assert word in message


def test_more_classes_than_labels_can_be_stated(parquet_root):
    config = DatasetConfig(name="parquet", root=str(parquet_root), num_classes=5)
    assert load(config, image_size=6, **COLOR).class_names == ("0", "1", "2", "3", "4")
    config = DatasetConfig(name="parquet", root=str(parquet_root), num_classes=2)
    assert "label 2" in refusal(config)


def test_a_large_unreadable_image_is_named_when_it_is_read(tmp_path):
    image = png(random_pixels(0, 100, 100, 3))
    write_parquet(tmp_path / "train.parquet", [image, image[:200]], [0, 1])
    write_parquet(tmp_path / "test.parquet", [image], [0])
    splits = load(DatasetConfig(name="parquet", root=str(tmp_path)), image_size=6, **COLOR)
    splits.train.batch([0])
    with pytest.raises(DataError, match=r"train.parquet, row 1: not a readable image"):
        splits.train.batch([0, 1])
