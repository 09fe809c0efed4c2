"""Data sets that torchvision reads, and random images."""

import re
import urllib.error

import numpy as np
import pytest
import torch
from image_files import COLOR, GREY, refusal
from torch.testing import assert_close

from dpexp.config import DatasetConfig
from dpexp.data.splits import load


def test_fake_images_are_random_repeatable_and_differ_between_parts():
    splits = load(DatasetConfig(name="fake", num_train=50), image_size=32, **COLOR)
    again = load(DatasetConfig(name="fake", num_train=50), image_size=32, **COLOR)
    train, labels = splits.train.batch(range(10))
    assert_close(train, again.train.batch(range(10))[0], rtol=0, atol=0)
    assert labels.tolist() == list(range(10))
    test, _ = splits.test.batch(range(10))
    every = torch.cat([train, test]).flatten(1)
    assert torch.unique(every, dim=0).shape[0] == 20
    assert (len(splits.train), len(splits.test)) == (50, 10)


def write_mnist(root, num_train, num_test):
    """Write MNIST's own format: image i is filled with i mod 256 and labelled i mod 10."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem, count in (("train", num_train), ("t10k", num_test)):
        index = np.arange(count)
        images = np.repeat(index.astype(np.uint8), 28 * 28)
        header = np.array([2051, count, 28, 28], ">i4").tobytes()
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = np.array([2049, count], ">i4").tobytes()
        labels = (index % 10).astype(np.uint8).tobytes()
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(header + labels)


def test_torchvision_files_are_read(tmp_path):
    write_mnist(tmp_path, 60_000, 5)
    config = DatasetConfig(name="mnist", root=str(tmp_path), download=False, validation=0.5)
    splits = load(config, image_size=28, **GREY)
    assert splits.num_train == 30_000
    images, labels = splits.test.batch([3])
    assert labels.tolist() == [3]
    assert_close(images, torch.full((1, 1, 28, 28), (3 / 255 - 0.5) / 0.5))


def test_a_known_set_of_another_size_is_refused(tmp_path):
    write_mnist(tmp_path, 12, 5)
    config = DatasetConfig(name="mnist", root=str(tmp_path), download=False)
    assert "is 60000, but the training part of mnist has 12 samples" in refusal(config)


def test_corrupt_torchvision_files_are_refused(tmp_path):
    write_mnist(tmp_path, 12, 5)
    labels = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-3])
    message = refusal(DatasetConfig(name="mnist", root=str(tmp_path), download=False))
    assert str(tmp_path) in message
    assert "cannot be read" in message


@pytest.mark.parametrize("name", ["mnist", "fashionmnist", "cifar10", "cifar100", "svhn"])
def test_an_absent_set_that_may_not_be_downloaded_names_the_folder(name, tmp_path):
    message = refusal(DatasetConfig(name=name, root=str(tmp_path), download=False))
    assert f"{name} is not in {tmp_path}" in message
    assert "dataset.download=true" in message


def test_a_download_is_announced_first_and_its_failure_has_ways_on(tmp_path, monkeypatch):
    from torchvision import datasets

    events = []

    def no_network(_):
        events.append("download")
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(datasets.CIFAR10, "download", no_network)
    message = refusal(
        DatasetConfig(name="cifar10", root=str(tmp_path)),
        announce=lambda line: events.append(line),
    )
    assert events == [f"downloading cifar10 to {tmp_path}, by torchvision", "download"]
    assert re.search("could not be downloaded.*no network.*dataset=parquet", message)
