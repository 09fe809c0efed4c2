"""What each split holds, its public size, and what the configuration may ask of it."""

import numpy as np
import pytest
import torch
from image_files import COLOR, GREY, refusal
from torch.testing import assert_close

from dpexp.config import DatasetConfig
from dpexp.data.public import num_held_out, public_num_train
from dpexp.data.splits import load, num_classes
from dpexp.data.stratify import held_out
from dpexp.errors import DataError


@pytest.fixture(scope="module")
def digits():
    return load(DatasetConfig(name="digits", validation=0.1), image_size=8, **GREY)


def test_digits_have_their_known_sizes(digits):
    assert (len(digits.train), len(digits.validation), len(digits.test)) == (1294, 144, 359)
    assert digits.num_train == 1294
    assert digits.class_names == tuple("0123456789")
    assert digits.notes == ()


def test_digits_are_all_of_the_real_images_once(digits):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    expected = sorted(
        (int(label), *image.flatten().astype(int).tolist())
        for label, image in zip(bunch.target, bunch.images, strict=True)
    )
    found = []
    for split in (digits.train, digits.validation, digits.test):
        images, labels = split.batch(range(len(split)))
        pixels = ((images * 0.5 + 0.5) * 16).round().int()
        found += [(int(y), *x.flatten().tolist()) for x, y in zip(pixels, labels, strict=True)]
    assert sorted(found) == expected


def test_every_split_holds_the_classes_in_proportion(digits):
    for split in (digits.train, digits.validation, digits.test):
        shares = torch.bincount(split.labels, minlength=10) / len(split)
        assert shares.min() > 0.08
        assert shares.max() < 0.12


def test_loading_twice_gives_the_same_batches(digits):
    again = load(DatasetConfig(name="digits", validation=0.1), image_size=8, **GREY)
    for one, other in ((digits.train, again.train), (digits.validation, again.validation)):
        assert_close(one.batch([5, 0, 99]), other.batch([5, 0, 99]), rtol=0, atol=0)


def test_held_out_classes_are_in_proportion_and_sum_to_the_count():
    labels = np.repeat([0, 1, 2], [50, 30, 21])
    mask = held_out(labels, 10)
    assert mask.sum() == 10
    # 10 * (50, 30, 21) / 101 = 4.95, 2.97, 2.08
    assert np.bincount(labels[mask]).tolist() == [5, 3, 2]


def test_the_split_is_the_same_for_good():
    # The smallest of the first 20 numbers of Python's generator with seed 0: .25, .26, .28, .30
    assert np.flatnonzero(held_out(np.zeros(20, dtype=int), 4)).tolist() == [3, 7, 12, 15]
    assert np.flatnonzero(held_out(np.arange(20) % 2, 6)).tolist() == [2, 3, 7, 8, 12, 15]


@pytest.mark.parametrize(("validation", "count"), [(0, 0), (0.1, 10), (0.25, 25), (1, 1), (40, 40)])
def test_validation_is_a_fraction_below_one_and_a_count_from_one(validation, count):
    assert num_held_out(validation, 100) == count


@pytest.mark.parametrize(
    ("validation", "problem"), [(100, "none would be left"), (2.5, "must be whole")]
)
def test_an_impossible_validation_part_is_refused(validation, problem):
    with pytest.raises(DataError, match=problem):
        num_held_out(validation, 100)


def test_validation_comes_out_of_training_and_leaves_the_test_part_alone(parquet_root):
    config = DatasetConfig(name="parquet", root=str(parquet_root), validation=3)
    splits = load(config, image_size=6, **COLOR)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (3, 3, 3)
    assert splits.validation.labels.tolist() == [0, 1, 2]
    rows = torch.cat([splits.train.rows, splits.validation.rows])
    assert sorted(rows.tolist()) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (DatasetConfig(name="digits"), 1438),
        (DatasetConfig(name="cifar10", validation=0.1), 45_000),
        (DatasetConfig(name="svhn"), 73_257),
        (DatasetConfig(name="parquet"), None),
        (DatasetConfig(name="parquet", num_train=100, validation=20), 80),
        (DatasetConfig(name="fake", num_train=7), 7),
    ],
)
def test_public_number_of_samples(config, expected):
    assert public_num_train(config) == expected


def test_a_count_that_is_not_the_stated_one_is_refused(parquet_root):
    config = DatasetConfig(name="parquet", root=str(parquet_root), num_train=7)
    message = refusal(config)
    assert "dataset.num_train is 7, but the training part of parquet has 6 samples" in message
    assert "epsilon would be false" in message
    assert "is 1500, but" in refusal(DatasetConfig(name="digits", num_train=1500))


def test_counted_samples_are_said_to_be_treated_as_public(parquet_root):
    counted = load(DatasetConfig(name="parquet", root=str(parquet_root)), image_size=6, **COLOR)
    (note,) = counted.notes
    assert "N = 6 was counted in the data and is treated as public" in note
    config = DatasetConfig(name="parquet", root=str(parquet_root), num_train=6)
    assert load(config, image_size=6, **COLOR).notes == ()


def test_an_unknown_name_gives_the_nearest():
    message = refusal(DatasetConfig(name="cifar"))
    assert "did you mean cifar10?" in message
    assert "imagefolder" in message


def test_constants_from_the_configuration_win():
    config = DatasetConfig(name="digits", mean=[0.0], std=[2.0])
    images, _ = load(config, image_size=8, **GREY).train.batch([0])
    neutral, _ = load(DatasetConfig(name="digits"), image_size=8, **GREY).train.batch([0])
    assert_close(images * 2, neutral * 0.5 + 0.5)


@pytest.mark.parametrize(
    ("mean", "std", "problem"),
    [
        ([0.5, 0.5], None, "has 2 value(s) and images have 3 channel(s)"),
        (None, [0.5, 0.0, 0.5], "must be above 0"),
    ],
)
def test_constants_that_do_not_fit_are_refused(mean, std, problem):
    assert problem in refusal(DatasetConfig(name="digits", mean=mean, std=std))


def test_number_of_classes_before_any_image_is_read(parquet_root, image_root):
    assert num_classes(DatasetConfig(name="cifar100")) == 100
    assert num_classes(DatasetConfig(name="fake", num_classes=4)) == 4
    assert num_classes(DatasetConfig(name="fake")) == 10
    (image_root / "train" / "fox").mkdir()
    assert num_classes(DatasetConfig(name="imagefolder", root=str(image_root))) == 3
    assert num_classes(DatasetConfig(name="parquet", root=str(parquet_root))) == 3


@pytest.mark.parametrize("name", ["parquet", "imagefolder"])
def test_a_root_that_is_absent_is_refused(name, tmp_path):
    assert "dataset.root is not given" in refusal(DatasetConfig(name=name))
    message = refusal(DatasetConfig(name=name, root="/nowhere"))
    assert message.startswith("dataset.root=/nowhere does not exist")
    file = tmp_path / "file"
    file.touch()
    assert "is a file, not a folder" in refusal(DatasetConfig(name=name, root=str(file)))
    with pytest.raises(DataError, match="does not exist"):
        num_classes(DatasetConfig(name=name, root="/nowhere"))
