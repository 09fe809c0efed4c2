"""Whole runs: what they leave behind, what changes them, and what does not."""

import pytest
import timm
import torch
from runs import config_of, document, is_same, metrics, train, weights
from torch import nn
from torch.testing import assert_close

from dpexp.cli.compose import compose
from dpexp.train import run

MEASURES = {
    "accuracy", "ece", "mce", "nll_nats", "brier", "adaptive_ece", "classwise_ece",
    "overconfidence", "underconfidence", "ks_error", "num_nonfinite", "num_samples",
}  # fmt: skip
SUMMARY = {
    "schema", "privacy/epsilon", "privacy/delta", "privacy/noise_multiplier", "privacy/guarantee",
    "steps", "time/total_seconds", "time/step_seconds", "memory/peak_gib", "model/num_params",
    "model/num_trainable", "time/ledger_seconds",
}  # fmt: skip
STEP = {
    "step", "lr", "privacy/epsilon", "time/step_seconds", "unsafe/batch_size", "unsafe/loss_nats",
    "unsafe/grad_norm_median", "unsafe/clipped_fraction", "unsafe/nonfinite_samples",
}  # fmt: skip
FILES = {
    "config.yaml", "command.txt", "provenance.json", "metrics.jsonl", "summary.json",
    "privacy.json", "status.json", "train.log", "plan.json", "reliability.json",
    "figures/reliability.png", "checkpoints/model.pt", "checkpoints/state.pt", ".lock",
    "ledger.jsonl", "calibration.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    return train(tmp_path_factory.mktemp("short"))


def test_a_run_leaves_the_files_it_promises_and_no_others(short):
    found = {str(path.relative_to(short)) for path in short.rglob("*") if path.is_file()}
    assert found == FILES


def test_every_document_has_its_keys(short):
    assert set(document(short, "summary")) == SUMMARY | {f"test/{name}" for name in MEASURES}
    status = document(short, "status")
    assert set(status) == {"schema", "state", "step", "steps", "started", "ended", "error"}
    assert (status["state"], status["step"], status["steps"]) == ("done", 3, 3)
    bins = document(short, "reliability")
    assert {"edges", "count", "accuracy", "confidence"} <= set(bins)
    assert sum(bins["count"]) == document(short, "summary")["test/num_samples"]
    assert document(short, "plan")["uses"]
    calibration, summary = document(short, "calibration"), document(short, "summary")
    assert {
        name: summary[f"test/{name}"] for name in MEASURES - {"num_nonfinite", "num_samples"}
    } == {name: fields["value"] for name, fields in calibration["measures"].items()}
    assert {
        "guarantee", "reason", "epsilon_target", "epsilon", "delta", "steps_done", "steps_planned",
        "sampling_rate", "expected_batch_size", "num_train", "protocol", "sampler",
        "noise_multiplier", "clip_norm", "adjacency", "unit", "accountants", "not_covered",
        "statement", "covers", "steps_charged", "attempts", "accountant", "batch_limit",
    } <= set(document(short, "privacy"))  # fmt: skip


def test_the_record_has_one_line_a_step_with_training_statistics_apart(short):
    rows = metrics(short)
    assert [row["step"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert {key for key in row if not key.startswith("test/")} == STEP
    assert {key for row in rows for key in row} - STEP <= {f"test/{name}" for name in MEASURES}


def test_epsilon_rises_to_what_the_run_ends_with(short):
    spent = [row["privacy/epsilon"] for row in metrics(short)]
    assert spent == sorted(spent)
    assert 0 < spent[0] < spent[-1]
    assert spent[-1] == document(short, "privacy")["epsilon"]
    assert spent[-1] == document(short, "summary")["privacy/epsilon"]


def test_the_saved_configuration_runs_again_to_the_same_weights(short, tmp_path):
    again = compose([f"config={short}", f"output={tmp_path}"])
    run.run(again)
    assert is_same(weights(short), weights(next(tmp_path.iterdir())))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(short, tmp_path):
    assert is_same(weights(short), weights(train(tmp_path)))
    other = weights(train(tmp_path, "seed=1"))
    assert not torch.equal(other["head.weight"], weights(short)["head.weight"])


@pytest.mark.parametrize("size", [7, 64])
def test_micro_batches_change_nothing_beyond_rounding(short, tmp_path, size):
    split = weights(train(tmp_path, f"micro_batch={size}"))
    assert_close(split, weights(short), rtol=1e-4, atol=1e-6)


def test_watching_a_run_changes_nothing(short, tmp_path):
    watched = train(tmp_path, "evaluate_every=1", "checkpoint_every=1")
    assert [row["step"] for row in metrics(watched) if "test/accuracy" in row] == [1, 2, 3]
    last, summary = metrics(watched)[-1], document(watched, "summary")
    assert last["test/nll_nats"] == summary["test/nll_nats"]
    assert is_same(weights(watched), weights(short))


def test_validation_is_watched_in_place_of_the_test_set(tmp_path):
    ordinary = ("dp=off", "noise_multiplier=null")  # nothing to account for another N with
    folder = train(tmp_path, "evaluate_every=1", "dataset.validation=0.5", *ordinary)
    assert document(folder, "privacy")["num_train"] == 719
    assert document(folder, "summary")["val/num_samples"] == 719
    *watched, last = metrics(folder)
    keys = {key for row in watched for key in row}
    assert "val/accuracy" in keys
    assert "test/accuracy" not in keys
    assert {"val/accuracy", "test/accuracy"} <= last.keys()


@pytest.mark.parametrize(
    "words",
    [
        ["optimizer.momentum=0.9", "schedule.warmup_steps=2"],
        ["optimizer=adam", "optimizer.lr=0.01", "schedule=cosine"],
        ["optimizer=adamw", "optimizer.lr=0.01", "schedule=cosine", "schedule.warmup_steps=1"],
        ["clipping.style=layerwise", "clipping.split=per_group", "clipping.function=autos"],
        ["clipping.style=blockwise", "clipping.function=psac"],
        ["clipping.style=paramwise", "clipping.function=autov"],
        ["clipping.algorithm=mixed_ghost", "clipping.function=global"],
        ["precision=bf16", "model.trainable=head"],
    ],
    ids=" ".join,
)
def test_every_way_to_train_ends_well(short, tmp_path, words):
    folder = train(tmp_path, *words)
    assert document(folder, "status")["state"] == "done"
    assert all(value.isfinite().all() for value in weights(folder).values())
    assert not is_same(weights(folder), weights(short))


def test_bounds_of_groups_add_up_to_the_sensitivity_that_the_noise_covers(tmp_path):
    shared = train(tmp_path, "clipping.style=paramwise", "clipping.norm=0.5")
    each = train(
        tmp_path, "clipping.style=paramwise", "clipping.norm=0.5", "clipping.split=per_group"
    )
    assert document(shared, "privacy")["clip_norm"] == 0.5
    assert document(each, "privacy")["clip_norm"] == pytest.approx(0.5 * 4**0.5)  # four parameters


def test_weights_load_into_the_plain_network(short):
    plain = nn.Sequential()
    plain.add_module("conv", nn.Conv2d(1, 16, 3, padding=1))
    plain.add_module("head", nn.Linear(256, 10))
    plain.load_state_dict(weights(short))


def test_weights_of_a_timm_network_load_into_timm(tmp_path):
    words = ("model.name=test_vit", "model.image_size=64", "steps=1", "batch=2")
    folder = train(tmp_path, *words, "dp=off", "noise_multiplier=null")
    timm.create_model("test_vit", num_classes=10, img_size=64).load_state_dict(weights(folder))


def test_state_holds_nothing_but_tensors_numbers_and_text(short):
    state = torch.load(short / "checkpoints" / "state.pt", weights_only=True)
    assert set(state) == {"step", "ledger", "row", "model", "optimizer"}
    assert state["step"] == 3
    assert is_same(state["model"], weights(short))


def test_a_run_says_its_deal_its_outcome_and_the_next_command(tmp_path, capsys):
    folder = train(tmp_path)
    out = capsys.readouterr().out
    for part in (
        "2,730 parameters, 2,730 trainable (100%), 0 frozen; weights: random, seed 0",
        "N = 1,438 training, 359 test images",
        "K = 3 of expected batch B = 64",
        "sigma = 1.0000; poisson batches; add or remove one sample",
        "guarantee: seeded",
        f"dpexp eval {folder}",
    ):
        assert part in out
    assert "\x1b" not in out  # no bar, no colour: this is not a terminal
    assert "epsilon <= " in (folder / "train.log").read_text()


def test_running_leaves_the_callers_configuration_as_it_was(tmp_path):
    config = config_of(tmp_path)
    run.run(config)
    assert config == config_of(tmp_path)


def test_wandb_mirrors_the_run_inside_its_folder(tmp_path):
    folder = train(tmp_path, "wandb.mode=offline")
    assert list((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert document(folder, "status")["state"] == "done"
