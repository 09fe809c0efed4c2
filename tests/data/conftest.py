"""Small data sets on disk."""

import pytest
from image_files import png, random_pixels, write_parquet


@pytest.fixture
def parquet_root(tmp_path):
    """Two training files of 4 and 2 images of 6x6, one test file of 3; labels 0, 1, 2."""
    pixels = [random_pixels(i, 6, 6, 3) for i in range(9)]
    encoded = [png(p) for p in pixels]
    write_parquet(tmp_path / "train-00000-of-00002.parquet", encoded[:4], [0, 1, 2, 0])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", encoded[4:6], [1, 2])
    write_parquet(tmp_path / "test.parquet", encoded[6:], [2, 1, 0])
    return tmp_path


@pytest.fixture
def image_root(tmp_path):
    """Training images cat a, cat b and dog a of 6x6, test image dog z."""
    for i, name in enumerate(["train/cat/a", "train/cat/b", "train/dog/a", "test/dog/z"]):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(random_pixels(i, 6, 6, 3)))
    (tmp_path / "test" / "cat").mkdir()
    (tmp_path / "train" / "notes.txt").write_text("not an image")
    return tmp_path
