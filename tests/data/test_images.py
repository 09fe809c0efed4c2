"""How images are read: pixels, channels, scaling, normalisation."""

import numpy as np
import pytest
import torch
from image_files import COLOR, GREY, png, random_pixels, write_parquet
from torch.testing import assert_close

from dpexp.config import DatasetConfig
from dpexp.data.images import decode_image
from dpexp.data.splits import load


def test_a_batch_is_normalised_pixels_in_the_order_asked(parquet_root):
    splits = load(DatasetConfig(name="parquet", root=str(parquet_root)), image_size=6, **COLOR)
    images, labels = splits.train.batch(torch.tensor([5, 0, 5]))
    assert labels.tolist() == [2, 0, 2]
    assert images.dtype == torch.float32
    for image, seed in zip(images, (5, 0, 5), strict=True):
        pixels = random_pixels(seed, 6, 6, 3) / 255
        expected = (pixels - [0.5, 0.4, 0.3]) / [0.5, 0.25, 0.125]
        assert_close(image.double(), torch.tensor(expected).permute(2, 0, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", [6, 100], ids=["stored", "decoded per batch"])
def test_an_empty_poisson_batch_has_no_images(tmp_path, side):
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}.parquet", [png(random_pixels(0, side, side, 3))], [0])
    splits = load(DatasetConfig(name="parquet", root=str(tmp_path)), image_size=12, **COLOR)
    images, labels = splits.train.batch([])
    assert (images.shape, labels.shape) == ((0, 3, 12, 12), (0,))


def test_grey_is_repeated_and_color_becomes_luminance():
    fake = DatasetConfig(name="fake", num_train=3)
    config = DatasetConfig(name="digits")
    grey, _ = load(config, image_size=8, **GREY).train.batch([3])
    form = {"channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3}
    color, _ = load(config, image_size=8, **form).train.batch([3])
    assert_close(color, grey.expand(-1, 3, -1, -1))

    color, _ = load(fake, image_size=32, channels=3, mean=[0.0] * 3, std=[1.0] * 3).train.batch([0])
    grey, _ = load(fake, image_size=32, channels=1, mean=[0.0], std=[1.0]).train.batch([0])
    expected = 0.299 * color[:, 0] + 0.587 * color[:, 1] + 0.114 * color[:, 2]
    assert_close(grey[:, 0], expected)


def test_the_longer_side_is_cropped_about_the_centre(tmp_path):
    wide = np.zeros((4, 8, 3), dtype=np.uint8)
    wide[:, 2:6] = 200  # the middle square
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}.parquet", [png(wide)], [0])
    form = {"channels": 3, "mean": [0.0] * 3, "std": [1.0] * 3}
    splits = load(DatasetConfig(name="parquet", root=str(tmp_path)), image_size=4, **form)
    images, _ = splits.train.batch([0])
    assert_close(images, torch.full((1, 3, 4, 4), 200 / 255))


def test_scaling_keeps_a_constant_image_constant():
    splits = load(DatasetConfig(name="digits"), image_size=32, **GREY)
    small, _ = load(DatasetConfig(name="digits"), image_size=8, **GREY).train.batch([0])
    large, _ = splits.train.batch([0])
    assert large.shape == (1, 1, 32, 32)
    assert_close(large.mean(), small.mean(), rtol=0, atol=0.05)


def test_large_images_are_decoded_per_batch_to_the_same_pixels(tmp_path):
    pixels = [random_pixels(i, 80, 80, 3) for i in range(3)]
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}.parquet", [png(p) for p in pixels], [0, 1, 0])
    splits = load(DatasetConfig(name="parquet", root=str(tmp_path)), image_size=80, **COLOR)
    images, labels = splits.train.batch([2, 1])
    assert labels.tolist() == [0, 1]
    restored = images * torch.tensor(COLOR["std"]).view(3, 1, 1)
    restored = (restored + torch.tensor(COLOR["mean"]).view(3, 1, 1)) * 255
    expected = torch.from_numpy(np.stack([pixels[2], pixels[1]])).permute(0, 3, 1, 2)
    assert torch.equal(restored.round().to(torch.uint8), expected)


@pytest.mark.parametrize(
    ("pixels", "channels"),
    [
        (random_pixels(0, 5, 4), 1),
        (random_pixels(0, 5, 4, 3), 3),
        (random_pixels(0, 5, 4, 4), 3),  # transparency is dropped
    ],
)
def test_pixels_of_a_file(pixels, channels):
    decoded = decode_image(png(pixels), "here")
    expected = pixels[None] if pixels.ndim == 2 else pixels[..., :3].transpose(2, 0, 1)
    assert decoded.shape == (channels, 5, 4)
    assert torch.equal(decoded, torch.from_numpy(expected.copy()))


def test_sixteen_bit_pixels_keep_their_upper_byte():
    pixels = (random_pixels(0, 5, 4).astype(np.uint16) << 8) + 77
    decoded = decode_image(png(pixels), "here")
    assert torch.equal(decoded[0], torch.from_numpy(random_pixels(0, 5, 4)))
