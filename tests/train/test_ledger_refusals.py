"""Runs that may not go on, and those that may though something about them is odd."""

import pytest
import torch
import yaml
from crashes import WORDS, charged, crash, state_of
from runs import document, is_same, train, weights

from dpexp.errors import (
    AccountingError,
    ConfigError,
    LedgerError,
    RunFailedError,
    RunFolderError,
)
from dpexp.train import account, deal, fit, run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"), *WORDS)


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [
        ("noise_multiplier", 1.1, "noise_multiplier"),
        ("batch", 65, "sampling_rate"),
        ("clipping.norm", 2.0, "clip_norm"),
        ("delta", 1e-6, "delta"),
        ("steps", 13, "num_steps"),
        ("noise.secure", True, "secure"),
        ("seed", 1, "config"),
        ("optimizer.lr", 0.5, "config"),
    ],
)
def test_a_changed_config_file_is_refused(tmp_path, key, value, name):
    folder = crash(tmp_path, 6)
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    *parents, last = key.split(".")
    target = config
    for parent in parents:
        target = target[parent]
    target[last] = value
    path.write_text(yaml.safe_dump(config))
    before = (folder / "ledger.jsonl").read_bytes()
    with pytest.raises(LedgerError, match=rf"\b{name} was .* and is "):
        run.resume(folder, {})
    assert (folder / "ledger.jsonl").read_bytes() == before
    assert document(folder, "status")["state"] == "running"


def test_changed_data_are_refused(tmp_path, monkeypatch):
    folder = crash(tmp_path, 6)
    monkeypatch.setattr(account, "fingerprint", lambda split: "of other data")
    with pytest.raises(LedgerError, match=r"unsafe/data was .* and is of other data"):
        run.resume(folder, {})


def test_a_missing_ledger_is_refused(tmp_path):
    folder = crash(tmp_path, 6)
    (folder / "ledger.jsonl").unlink()
    with pytest.raises(LedgerError, match="is missing, so it is not known what the run has spent"):
        run.resume(folder, {})
    assert not (folder / "ledger.jsonl").exists()


def test_a_ledger_cut_short_is_refused(tmp_path):
    folder = crash(tmp_path, 6)
    path = folder / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]))
    with pytest.raises(LedgerError, match="lines of it are lost"):
        run.resume(folder, {})


def test_a_ledger_that_cannot_be_written_stops_the_run_before_the_step(tmp_path, monkeypatch):
    take, taken = fit.train_step, []

    def counting(*args, **keys):
        taken.append(None)
        return take(*args, **keys)

    def full(self, step, until, step_seconds):
        if step == 6:
            raise LedgerError("no space left")
        return charge(self, step, step + 1, None)

    charge = account.Account.charge
    monkeypatch.setattr(fit, "train_step", counting)
    with monkeypatch.context() as patch:
        patch.setattr(account.Account, "charge", full)
        with pytest.raises(RunFailedError, match="LedgerError: no space left"):
            train(tmp_path, *WORDS)
    (folder,) = tmp_path.iterdir()
    assert (len(taken), charged(folder)) == (6, 6)
    assert document(folder, "status")["state"] == "failed"
    assert torch.load(folder / "checkpoints" / "state.pt", weights_only=True)["step"] == 4
    run.resume(folder, {})
    assert document(folder, "status")["state"] == "done"


def test_a_ledger_behind_the_record_is_refused(tmp_path):
    folder = crash(tmp_path, 6, "noise.secure=true")
    path = folder / "ledger.jsonl"
    digest = state_of(folder / "checkpoints" / "state.pt")["ledger"]
    lines = path.read_text().splitlines(keepends=True)
    kept = next(i for i, line in enumerate(lines) if digest in line) + 1
    path.write_text("".join(lines[:kept]))
    with pytest.raises(LedgerError, match=r"has charged 4 steps, but metrics.jsonl has 6"):
        run.resume(folder, {})


def test_a_run_does_not_go_on_with_noise_that_misses_the_target_today(tmp_path, monkeypatch):
    folder = crash(tmp_path, 6, "eps=8", "noise_multiplier=null")
    monkeypatch.setattr(deal.Deal, "epsilon_after", lambda self, num_steps: 8.5)
    with pytest.raises(AccountingError, match="the run was begun with noise_multiplier"):
        run.resume(folder, {})


@pytest.mark.parametrize("micro_batch", [0, -4])
def test_wrong_overrides_are_refused_before_anything_is_charged(tmp_path, micro_batch):
    folder = crash(tmp_path, 6)
    before = (folder / "ledger.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="micro_batch="):
        run.resume(folder, {"micro_batch": micro_batch})
    assert (folder / "ledger.jsonl").read_bytes() == before


def test_a_checkpoint_of_negative_steps_is_damaged(tmp_path):
    folder = crash(tmp_path, 6)
    path = folder / "checkpoints" / "state.pt"
    torch.save({**torch.load(path), "step": -3}, path)
    with pytest.raises(RunFolderError, match="is damaged"):
        run.resume(folder, {})


@pytest.mark.parametrize("text", ["{}", '{"state": "gone", "step": 1, "steps": 2}'])
def test_a_damaged_status_is_one_line(tmp_path, text):
    folder = crash(tmp_path, 2)
    (folder / "status.json").write_text(text)
    with pytest.raises(RunFolderError, match="does not say state, step and steps"):
        run.resume(folder, {})


def test_small_files_that_are_missing_or_odd_do_not_stop_a_run_from_going_on(tmp_path, whole):
    folder = crash(tmp_path, 6)
    (folder / "command.txt").unlink()
    (folder / "provenance.json").write_text('{"resumed": null}')
    (folder / ".status.json.12345").write_text("left by a process that was killed")
    run.resume(folder, {})
    assert is_same(weights(folder), weights(whole))
    assert not list(folder.glob(".status.json.*"))
