"""`dpexp eval <run> recalibration=...`, from its words to its folder."""

import json
import math
from io import BytesIO

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from dpexp.accounting import gaussian
from dpexp.accounting.composition import compose_with_gaussian
from dpexp.cli.compose import compose
from dpexp.cli.main import main
from dpexp.mechanism import Mechanism
from dpexp.recalibration.fit import fit_scaling
from dpexp.recalibration.scaling import Scaling
from dpexp.recalibration.statement import mechanism_of_run, recalibration_document
from dpexp.train import run
from dpexp.train.saved import load_saved

WORDS = ("steps=3", "batch=64", "noise_multiplier=1", "wandb.mode=disabled")

# A figure whose axes were squeezed out by a long caption only warns.
pytestmark = pytest.mark.filterwarnings("error")


def train(output, *words):
    run.run(compose([*WORDS, *words, f"output={output}"]))
    (folder,) = output.iterdir()
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("trained") / "out", "dataset.validation=0.2")


def document(folder, name):
    def refuse(text):
        raise AssertionError(f"{text} is not strict JSON")

    return json.loads((folder / f"{name}.json").read_text(), parse_constant=refuse)


def recalibrated(trained, output, *words):
    assert main(["eval", str(trained), *words, f"output={output}"]) == 0
    (folder,) = output.iterdir()
    return folder


def test_a_private_temperature_from_words_to_folder(trained, tmp_path, capsys):
    folder = recalibrated(
        trained, tmp_path / "out", "recalibration=temperature", "recalibration.eps=0.5"
    )
    shown = capsys.readouterr().out
    found, privacy = document(folder, "recalibration"), document(trained, "privacy")
    summary, before = document(folder, "summary"), document(trained, "summary")

    fit = found["fit"]
    assert (found["method"], fit["num_samples"], fit["guarantee"]) == ("temperature", 288, "seeded")
    assert 0.499 < fit["epsilon"] <= 0.5
    assert found["delta"] == fit["delta"] == privacy["delta"]
    mechanism = Mechanism(
        noise_multiplier=1.0,
        clip_norm=privacy["clip_norm"],
        sampling_rate=64 / 1150,
        num_steps=3,
        expected_batch_size=64,
    )
    mu = math.sqrt(fit["num_steps"]) / fit["noise_multiplier"]
    total = compose_with_gaussian(mechanism, 3, mu, privacy["delta"]).epsilon
    assert found["epsilon"] == summary["privacy/epsilon"] == total
    assert found["epsilon_as_split"] == max(privacy["epsilon"], fit["epsilon"]) < total
    assert total <= privacy["epsilon"] + fit["epsilon"]
    assert found["guarantee"] == summary["privacy/guarantee"] == "seeded"
    assert f"<= exp({total:g})" in found["statement"]
    assert f"epsilon <= {total:.10g} at delta 1e-05 for run and fit together" in shown

    assert summary["test/accuracy"] == summary["before/accuracy"] == before["test/accuracy"]
    assert summary["before/nll_nats"] == pytest.approx(before["test/nll_nats"], rel=1e-5)
    assert summary["test/nll_nats"] != summary["before/nll_nats"]
    measured = document(folder, "calibration")["measures"]
    assert measured["ece"]["value"] == summary["test/ece"]
    of_run = document(trained, "calibration")["measures"]
    for name, fields in document(folder, "calibration_before")["measures"].items():
        assert fields == pytest.approx(of_run[name], abs=1e-5)
    for name in ("reliability.png", "reliability_before.png"):
        assert (folder / "figures" / name).stat().st_size > 1000
    assert document(folder, "reliability") != document(folder, "reliability_before")
    assert document(folder, "status")["state"] == "done"


def test_the_parameters_in_the_folder_rescale_the_saved_weights(trained, tmp_path):
    folder = recalibrated(trained, tmp_path / "out", "recalibration=platt", "recalibration.eps=inf")
    found = document(folder, "recalibration")
    scaling = Scaling.from_dict(found["parameters"])
    saved = load_saved(trained, {})
    before = saved.measure(saved.test)
    nll = torch.nn.functional.cross_entropy(scaling.apply(before.logits), before.labels)
    assert document(folder, "summary")["test/nll_nats"] == pytest.approx(float(nll), rel=1e-6)
    assert (found["guarantee"], found["epsilon"]) == ("none", "inf")
    assert found["statement"] == f"No guarantee: {found['reason']}."
    assert found["reason"] == (
        "recalibration: the scaling was fitted to held-out private samples without noise"
    )


def test_the_fit_sees_the_validation_part_and_not_the_test_set(trained, tmp_path):
    folder = recalibrated(
        trained, tmp_path / "out", "recalibration=temperature", "recalibration.eps=inf"
    )
    saved = load_saved(trained, {})
    assert saved.splits.validation is not None
    held_out, test = saved.measure(saved.splits.validation), saved.measure(saved.test)
    found = document(folder, "recalibration")["parameters"]["temperature"]
    right, wrong = (
        fit_scaling("temperature", part.logits, part.labels, eps=math.inf).scaling.temperature
        for part in (held_out, test)
    )
    assert found == right != wrong


def refused(capsys, *words):
    assert main(["eval", *map(str, words)]) == 2
    return capsys.readouterr().err.splitlines()


TEMPERATURE = ("recalibration=temperature", "recalibration.eps=1")


def test_a_run_that_held_nothing_out_is_refused(tmp_path, capsys):
    (line,) = refused(capsys, train(tmp_path / "out"), *TEMPERATURE)
    assert "dataset.validation=0 held no sample out of training" in line
    assert "train with dataset.validation=0.2" in line
    assert len(list((tmp_path / "out").iterdir())) == 1


def write_pictures(folder, order):
    """Write 60 noisy 8x8 pictures of three classes as Parquet files, in an order."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(256, size=(60, 8, 8), dtype=np.uint8)
    rows = []
    for picture in pixels:
        buffer = BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        rows.append({"bytes": buffer.getvalue(), "path": None})
    for part in ("train", "test"):
        table = pa.table({"image": [rows[i] for i in order], "label": [i % 3 for i in order]})
        parquet.write_table(table, folder / f"{part}.parquet")


def test_data_in_another_order_are_refused(tmp_path, capsys):
    write_pictures(tmp_path / "data", list(range(60)))
    write_pictures(tmp_path / "moved", list(range(59, -1, -1)))
    words = ["dataset=parquet", "dataset.num_train=60", "dataset.num_classes=3"]
    words += ["dataset.channels=1", "dataset.mean=[0.5]", "dataset.std=[0.5]"]
    words += ["dataset.validation=0.5", "model=digits_cnn"]
    trained = train(tmp_path / "out", *words, f"dataset.root={tmp_path / 'data'}", "batch=8")
    (line,) = refused(capsys, trained, *TEMPERATURE, f"dataset.root={tmp_path / 'moved'}")
    assert "gives other training data than the run had, or the same in another order" in line
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    root = f"dataset.root={tmp_path / 'elsewhere'}"
    assert document(recalibrated(trained, tmp_path / "again", *TEMPERATURE, root), "summary")


@pytest.mark.parametrize("key", ["dataset.validation=0.5", "dataset=fake", "model=cifar_cnn"])
def test_another_split_or_network_than_the_runs_is_refused(trained, capsys, key):
    (line,) = refused(capsys, trained, *TEMPERATURE, key)
    assert "could fit the scaling to samples that it was trained on" in line


def test_weights_alone_and_a_run_that_goes_on_are_refused(trained, tmp_path, capsys):
    (line,) = refused(capsys, trained / "checkpoints" / "model.pt", *TEMPERATURE)
    assert "has no privacy.json, so it is not known what its weights have cost" in line
    status = trained / "status.json"
    kept = status.read_text()
    try:
        status.write_text(kept.replace('"done"', '"interrupted"'))
        (line,) = refused(capsys, trained, *TEMPERATURE)
    finally:
        status.write_text(kept)
    assert "is interrupted: going on would spend more" in line


def test_wrong_words_come_at_once_and_name_what_is_known(trained, capsys):
    words = ("recalibration=temperatur", "recalibration.eps=abc", "esp=1", "seed=3")
    lines = refused(capsys, trained, *words)
    assert len(lines) == 4
    assert any("recalibration=temperatur: must be one of temperature, platt" in x for x in lines)
    assert any("recalibration.eps=abc: must be a number" in line for line in lines)
    assert any("seed=3: changes nothing about measuring saved weights" in line for line in lines)
    (line,) = refused(capsys, trained, "recalibration.epsilon=1")
    assert "did you mean recalibration.eps=1?" in line


def test_a_fit_has_no_default_epsilon(trained, capsys):
    (line,) = refused(capsys, trained, "recalibration=platt")
    assert "spends an epsilon of its own, which has no default" in line
    (line,) = refused(capsys, trained, "recalibration.eps=1")
    assert "give recalibration=temperature or recalibration=platt too" in line
    (line,) = refused(capsys, trained, "recalibration=platt", "recalibration.eps=0")
    assert "recalibration.eps=0.0: epsilon bounds the privacy loss and must be above 0" in line


PRIVACY = {
    "guarantee": "valid", "reason": "noise from the system", "epsilon": 2.0, "delta": 1e-5,
    "steps_charged": 40, "steps_planned": 30, "noise_multiplier": 20.0, "clip_norm": 1.0,
    "sampling_rate": 1.0, "expected_batch_size": 100, "sampler": "poisson", "batch_limit": None,
    "num_train": 100,
}  # fmt: skip


def fitted(**asked):
    return fit_scaling("temperature", torch.eye(4), torch.arange(4), **asked)


def test_the_total_is_of_the_steps_charged_but_of_no_more_than_were_planned():
    fit = fitted(eps=0.5, delta=1e-5, seed=0)
    for charged, counted in ((40, 30), (20, 20)):
        found = recalibration_document(fit, PRIVACY | {"steps_charged": charged}, "run")
        exact = gaussian.epsilon_of(math.sqrt(counted / 20.0**2 + fit.mu**2), 1e-5)
        assert exact <= found["epsilon"] <= exact + 1.01e-4


@pytest.mark.parametrize(
    ("of_run", "seed", "expected"),
    [("valid", None, "valid"), ("valid", 0, "seeded"), ("seeded", None, "seeded"),
     ("none", None, "none")],
)  # fmt: skip
def test_the_weaker_guarantee_is_that_of_both(of_run, seed, expected):
    fit = fitted(eps=0.5, delta=1e-5, seed=seed)
    found = recalibration_document(fit, PRIVACY | {"guarantee": of_run}, "run")
    assert found["guarantee"] == expected
    assert math.isinf(found["epsilon"]) == (expected == "none")
    if expected == "none":
        assert found["reason"] == "training: noise from the system"
    assert ("does not know the seed" in found["statement"]) == (expected == "seeded")


def test_the_mechanism_of_a_run_is_read_from_its_statement():
    limited = {"sampler": "truncated_poisson", "batch_limit": 7, "sampling_rate": 0.04}
    found = mechanism_of_run(PRIVACY | limited)
    assert (found.sampler, found.batch_limit, found.num_train) == ("truncated_poisson", 7, 100)
    assert (found.noise_multiplier, found.sampling_rate) == (20.0, 0.04)
    assert mechanism_of_run(PRIVACY).num_train is None
