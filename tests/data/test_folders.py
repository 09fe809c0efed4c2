"""A user's own images in folders, and every way in which they can be wrong."""

import torch
from image_files import COLOR, random_pixels, refusal
from torch.testing import assert_close

from dpexp.config import DatasetConfig
from dpexp.data.splits import load


def test_an_image_folder_is_labelled_by_its_folders(image_root):
    splits = load(DatasetConfig(name="imagefolder", root=str(image_root)), image_size=6, **COLOR)
    assert splits.class_names == ("cat", "dog")
    assert splits.train.labels.tolist() == [0, 0, 1]
    assert splits.test.labels.tolist() == [1]
    image, _ = splits.test.batch([0])
    pixels = (random_pixels(3, 6, 6, 3) / 255 - [0.5, 0.4, 0.3]) / [0.5, 0.25, 0.125]
    assert_close(image[0].double(), torch.tensor(pixels).permute(2, 0, 1), rtol=0, atol=1e-5)


def test_val_stands_in_for_test_and_is_said_to(image_root):
    (image_root / "test").rename(image_root / "val")
    splits = load(DatasetConfig(name="imagefolder", root=str(image_root)), image_size=6, **COLOR)
    assert len(splits.test) == 1
    assert f"test images are those of {image_root / 'val'}" in splits.notes


def test_wrong_image_folders_are_refused_by_name(image_root):
    config = DatasetConfig(name="imagefolder", root=str(image_root))
    (image_root / "test" / "fox").mkdir()
    assert f"{image_root / 'test' / 'fox'}: no class of that name" in refusal(config)
    (image_root / "test" / "fox").rmdir()

    broken = image_root / "train" / "cat" / "b.png"
    broken.write_bytes(broken.read_bytes()[:50])
    assert f"{broken}: not a readable image" in refusal(config)

    broken.unlink()
    (image_root / "train" / "dog" / "a.png").unlink()
    assert f"{image_root / 'train' / 'dog'}: no images in it" in refusal(config)
    (image_root / "test" / "dog" / "z.png").unlink()
    (image_root / "train" / "dog").rmdir()
    (image_root / "test" / "dog").rmdir()
    assert f"{image_root / 'test'}: no images in it" in refusal(config)


def test_one_level_of_folders_is_refused_with_the_layout(image_root, tmp_path_factory):
    config = DatasetConfig(name="imagefolder", root=str(image_root / "train"))
    message = refusal(config)
    assert "no folder train in it" in message
    assert "train/<class>/<image>" in message

    empty = tmp_path_factory.mktemp("empty")
    assert "no folder train" in refusal(DatasetConfig(name="imagefolder", root=str(empty)))
    (empty / "train").mkdir()
    assert "no class folders" in refusal(DatasetConfig(name="imagefolder", root=str(empty)))
    (image_root / "test").rename(image_root / "elsewhere")
    config = DatasetConfig(name="imagefolder", root=str(image_root))
    assert "none of the folders test, validation, val, valid" in refusal(config)
