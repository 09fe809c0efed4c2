"""Tables: what is read, how it is scaled and split, and what is refused."""

import random
import urllib.error

import joblib
import numpy as np
import pytest
import torch
from image_files import GREY, refusal
from sklearn.datasets import load_diabetes
from torch.testing import assert_close

from dpexp.config import DatasetConfig
from dpexp.data.fingerprint import fingerprint
from dpexp.data.public import KNOWN_SETS, public_num_train, table_problems
from dpexp.data.splits import load, num_outputs
from dpexp.data.tables import CALIFORNIA_FILE, TABLES


def load_table(**keys):
    return load(DatasetConfig(**keys), image_size=8, **GREY)


def rows_of(*splits):
    return torch.cat([torch.cat([b[0].flatten(1), b[1][:, None]], 1) for b in map(whole, splits)])


def whole(split):
    return split.batch(range(len(split)))


def test_diabetes_is_every_row_once_scaled_by_public_constants():
    splits = load_table(name="diabetes")
    values, target = load_diabetes(return_X_y=True)
    expected = np.column_stack([values / 0.05, (target - 150) / 75])
    got = rows_of(splits.train, splits.test).numpy()
    assert_close(np.sort(got, 0), np.sort(expected, 0).astype(np.float32))
    # Rows stay whole: columns and targets are not mixed between rows.
    nearest = np.abs(got[:, None] - expected[None]).max(2)
    assert sorted(nearest.argmin(1)) == list(range(442))
    assert nearest.min(1).max() < 1e-6


def test_the_scale_comes_from_no_sample():
    splits = load_table(name="diabetes")
    assert (splits.train.form.mean, splits.train.form.std) == ((0.0,) * 10, (0.05,) * 10)
    few = load_table(name="diabetes", validation=350)
    assert few.train.form == splits.train.form
    assert "trained on (y - 150) / 75, constants that are public" in splits.notes[0]


def test_a_form_of_ones_own_wins():
    split = load_table(name="diabetes", mean=[0.1] * 10, std=[2.0] * 10).train
    plain = load_table(name="diabetes").train
    assert_close(split.batch([0])[0], (plain.batch([0])[0] * 0.05 - 0.1) / 2)


def test_splits_are_fixed_and_apart():
    splits = load_table(name="diabetes", validation=73)
    assert (splits.num_train, len(splits.validation), len(splits.test)) == (280, 73, 89)
    assert splits.num_train == public_num_train(DatasetConfig(name="diabetes", validation=73))
    every = rows_of(splits.train, splits.validation, splits.test)
    assert len(torch.unique(every, dim=0)) == 442
    generator = random.Random(0)
    keys = [generator.random() for _ in range(442)]
    test = sorted(sorted(range(442), key=keys.__getitem__)[:89])
    places = [splits.test.images.place(row) for row in range(89)]
    assert places == [f"diabetes, row {row}" for row in test]
    held_out = sorted(sorted(range(353), key=keys.__getitem__)[:73])
    assert splits.validation.rows.tolist() == held_out


def test_a_row_is_an_image_of_one_pixel_and_its_label_a_number():
    images, labels = load_table(name="diabetes").train.batch([0, 1, 2])
    assert (images.shape, images.dtype) == ((3, 10, 1, 1), torch.float32)
    assert (labels.shape, labels.dtype) == ((3,), torch.float32)
    assert load_table(name="diabetes").train.batch([])[0].shape == (0, 10, 1, 1)


@pytest.mark.parametrize("name", TABLES)
def test_facts_that_are_stated_twice_agree(name):
    assert num_outputs(DatasetConfig(name=name)) == 1
    assert len(TABLES[name].mean) == len(TABLES[name].std) == KNOWN_SETS[name].num_columns
    assert num_outputs(DatasetConfig(name="cifar100")) == 100


@pytest.mark.parametrize("part", ["pixels", "labels"])
def test_any_number_moves_the_digest(part):
    split = load_table(name="diabetes").train
    before = fingerprint(split)
    getattr(split.images, part)[-1] += 1e-4
    assert fingerprint(split) != before


def raw_california(count=20_640):
    """Numbers in the layout of scikit-learn's file: target first, households where occupants go."""
    generator = np.random.default_rng(0)
    raw = generator.uniform(1, 9, (count, 9))
    raw[:, 0] *= 1e5
    raw[0] = [3e5, 7.0, 20.0, 60.0, 12.0, 30.0, 2.0, 37.0, -121.0]
    raw[1] = [3e5, 7.0, 20.0, 6000.0, 1200.0, 300_000.0, 2.0, 37.0, -121.0]
    return raw


def write(folder, raw):
    joblib.dump(raw, folder / CALIFORNIA_FILE)
    return {"name": "california", "root": str(folder), "download": False}


def test_california_is_read_in_the_layout_of_scikit_learn(tmp_path):
    splits = load_table(**write(tmp_path, raw_california()))
    assert (splits.num_train, len(splits.test)) == (16_512, 4128)
    every = {
        images.place(row): (images.pixels[row].flatten(), images.labels[row])
        for images in (splits.train.images, splits.test.images)
        for row in range(len(images.labels))
    }
    # Income, age, then rooms, bedrooms and occupants a household: 60 / 2, 12 / 2, 30 / 2.
    plain = torch.tensor([7.0, 20.0, 20.0, 5.0, 30.0, 10.0, 37.0, -121.0])
    values, label = every["california, row 0"]
    assert_close(values, plain)
    assert float(label) == 1.0  # (3 - 2) / 1, in 100,000 dollars
    plain[4] = 10_000.0  # held below the public bound, as rooms, bedrooms and occupants are
    assert_close(every["california, row 1"][0], plain)


def test_another_number_of_rows_is_refused(tmp_path):
    message = refusal(DatasetConfig(**write(tmp_path, raw_california(5000))))
    assert "is 16512, but the training part of california has 872 samples" in message


def test_a_number_that_is_missing_is_refused(tmp_path):
    raw = raw_california()
    raw[7, 2] = np.nan
    message = refusal(DatasetConfig(**write(tmp_path, raw)))
    assert "california, row 7: a number that is missing or infinite" in message


def test_a_corrupt_file_is_refused_by_its_path(tmp_path):
    keys = write(tmp_path, raw_california(10))
    (tmp_path / CALIFORNIA_FILE).write_bytes(b"not a file of joblib")
    message = refusal(DatasetConfig(**keys))
    assert f"{tmp_path / CALIFORNIA_FILE} cannot be read" in message
    assert "\n" not in message


def test_an_absent_file_that_may_not_be_downloaded_is_one_line_with_ways_on(tmp_path):
    message = refusal(DatasetConfig(name="california", root=str(tmp_path), download=False))
    assert f"california is not in {tmp_path} (no cal_housing_py3.pkz)" in message
    assert "dataset.download=true" in message
    assert "use dataset=diabetes" in message
    assert "\n" not in message


def test_a_download_is_announced_first_and_its_failure_has_ways_on(tmp_path, monkeypatch):
    from sklearn.datasets import _california_housing

    events = []

    def no_network(*args, **kwargs):
        events.append("download")
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(_california_housing, "_fetch_remote", no_network)
    config = DatasetConfig(name="california", root=str(tmp_path))
    message = refusal(config, announce=events.append)
    assert events == [f"downloading california to {tmp_path}, by scikit-learn", "download"]
    assert "could not be downloaded" in message
    assert "no network" in message
    assert "use dataset=diabetes, which needs no network" in message


def test_a_network_for_images_and_keys_of_images_are_refused_by_name():
    config = DatasetConfig(name="diabetes", channels=3, num_classes=2)
    network, keys = table_problems(config, "digits_cnn")
    assert network == (
        "dataset=diabetes with model.name=digits_cnn: its samples are rows of 10 numbers, and "
        "that network takes images; use model=mlp"
    )
    assert keys.startswith("dataset.channels=3, dataset.num_classes=2 with dataset=diabetes: ")
    assert "leave it out" in keys
    assert table_problems(DatasetConfig(name="diabetes"), "mlp") == []
    assert table_problems(DatasetConfig(name="digits", channels=3), "digits_cnn") == []
