"""Runs and their ledger: what a crash costs, what cannot be changed, where the budget ends."""

from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest
import torch
import yaml
from runs import document, folders, is_same, metrics, train, weights

from dpexp.accounting.bounds import sound_epsilon
from dpexp.accounting.ledger_file import read_entries
from dpexp.errors import (
    AccountingError,
    ConfigError,
    LedgerError,
    RunFailedError,
    RunFolderError,
)
from dpexp.train import account, checkpoint, deal, fit, run
from dpexp.train.account import arithmetic_of

WORDS = ("steps=12", "checkpoint_every=4", "evaluate_every=12")


class Killed(BaseException):
    """Nothing in a run expects it, so nothing is written after it."""


@contextmanager
def dying_after(num_steps):
    """Within the block, the process dies in the step after `num_steps` others."""
    take, taken = fit.train_step, []

    def dying_step(*args, **keys):
        taken.append(None)
        if len(taken) > num_steps:
            raise Killed
        return take(*args, **keys)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "train_step", dying_step)
        yield


def crash(output, num_steps, *words):
    """Train `words` and die after `num_steps`; return the folder."""
    before = folders(output)
    with dying_after(num_steps), pytest.raises(Killed):
        train(output, *WORDS, *words)
    (made,) = folders(output) - before
    return made


def charged(folder):
    """Steps in the ledger, each attempt's counted apart."""
    total, first, to = 0, 0, 0
    for entry in read_entries(folder / "ledger.jsonl")[1:]:
        if entry["entry"] == "begin" and entry["step"] < to:
            total, first, to = total + to - first, entry["step"], entry["step"]
        elif entry["entry"] != "begin":
            to = entry["to"]
    return total + to - first


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"), *WORDS)


def test_every_step_is_charged_before_it_is_taken(tmp_path, monkeypatch):
    take, seen = fit.train_step, []

    def watching(*args, **keys):
        (folder,) = tmp_path.iterdir()
        seen.append(charged(folder))
        return take(*args, **keys)

    monkeypatch.setattr(fit, "train_step", watching)
    folder = train(tmp_path, *WORDS)
    assert len(seen) == 12
    assert all(done >= step for step, done in enumerate(seen, start=1))
    assert charged(folder) == 12


def test_epsilon_is_that_of_the_ledger(whole):
    privacy = document(whole, "privacy")
    assert (privacy["steps_charged"], privacy["steps_done"], privacy["attempts"]) == (12, 12, 1)
    q = privacy["sampling_rate"]
    assert privacy["epsilon"] == sound_epsilon(1.0, q, charged(whole), privacy["delta"])
    assert document(whole, "summary")["privacy/epsilon"] == privacy["epsilon"]
    assert f"exp({privacy['epsilon']:.6g})" in privacy["statement"]


@pytest.mark.parametrize("step", [0, 3, 4, 7, 11])
def test_a_seeded_run_repeats_its_steps_and_pays_once(tmp_path, whole, step):
    folder = crash(tmp_path, step)
    run.resume(folder, {})
    assert is_same(weights(folder), weights(whole))
    assert document(folder, "privacy") == document(whole, "privacy")
    assert [row["step"] for row in metrics(folder)] == list(range(1, 13))


def test_while_it_runs_and_after_a_kill_the_statement_bounds_the_whole_run(tmp_path, whole):
    folder = crash(tmp_path, 6)
    privacy = document(folder, "privacy")
    assert privacy["epsilon"] == document(whole, "privacy")["epsilon"]
    assert privacy["covers"].startswith("the whole planned run")


def test_secure_steps_redone_are_charged_again_and_the_budget_ends_the_run(tmp_path, whole, capsys):
    folder = crash(tmp_path, 6, "noise.secure=true")
    summary = run.resume(folder, {})
    # Steps 5 to 8 were charged, taken in part, and are lost: 4 and 8 make the twelve.
    assert charged(folder) == 12
    assert summary["steps"] == document(folder, "status")["step"] < 12
    assert summary["privacy/epsilon"] == document(whole, "privacy")["epsilon"]
    assert document(folder, "privacy")["attempts"] == 2
    assert document(folder, "status")["state"] == "done"
    assert "were charged twice" in capsys.readouterr().out
    state = torch.load(folder / "checkpoints" / "state.pt", weights_only=True)
    assert state["step"] == summary["steps"]
    assert summary["test/accuracy"] is not None


def test_a_secure_run_killed_again_and_again_never_passes_its_budget(tmp_path):
    folder = crash(tmp_path, 2, "noise.secure=true")
    for _ in range(9):
        with dying_after(2), suppress(Killed):
            run.resume(folder, {})
        assert charged(folder) <= 12
    run.resume(folder, {})
    assert document(folder, "status")["state"] == "done"
    assert charged(folder) == 12
    assert document(folder, "privacy")["steps_charged"] == 12


def test_steps_that_would_round_differently_use_other_noise_and_are_charged_again(
    tmp_path, monkeypatch, whole
):
    folder = crash(tmp_path, 6)
    seeds = []
    start = fit.Job.seed_noise

    def noting(self, step):
        seeds.append((step, self.seed))
        start(self, step)

    monkeypatch.setattr(fit.Job, "seed_noise", noting)
    run.resume(folder, {"micro_batch": 16})
    assert {seed for _, seed in seeds} != {0}
    assert len({seed for _, seed in seeds}) == 1
    assert document(folder, "privacy")["attempts"] == 2
    assert charged(folder) == 12
    assert not is_same(weights(folder), weights(whole))


def test_a_run_that_was_stopped_in_order_may_change_its_micro_batches(tmp_path, monkeypatch, whole):
    take, taken = fit.train_step, []

    def stopping(*args, **keys):
        taken.append(None)
        if len(taken) == 6:
            fit.signal.raise_signal(fit.signal.SIGINT)
        return take(*args, **keys)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "train_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, *WORDS)
    (folder,) = tmp_path.iterdir()
    assert charged(folder) == 6
    run.resume(folder, {"micro_batch": 16})
    privacy = document(folder, "privacy")
    assert privacy == document(whole, "privacy")  # the same steps, paid once


def test_arithmetic_is_not_repeatable_with_secure_noise_or_on_a_gpu(tmp_path, monkeypatch):
    seen = []
    opened = account.open_account

    def noting(job, folder, **keys):
        seen.append(job)
        return opened(job, folder, **keys)

    monkeypatch.setattr(run, "open_account", noting)
    train(tmp_path)
    (job,) = seen
    here = arithmetic_of(job)
    assert here
    assert arithmetic_of(fit.Job(**{**vars(job), "device": torch.device("cuda")})) is None
    assert arithmetic_of(fit.Job(**{**vars(job), "micro_batch": 3})) != here
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert arithmetic_of(job) != here


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


@pytest.mark.parametrize("words", [("dp=off",), ("eps=inf", "noise_multiplier=null")], ids=str)
def test_without_noise_there_is_no_ledger_and_no_epsilon(tmp_path, words):
    folder = train(tmp_path, *words)
    assert not (folder / "ledger.jsonl").exists()
    assert document(folder, "privacy")["epsilon"] == "inf"
    assert document(folder, "privacy")["statement"].startswith("No guarantee")


def test_writing_the_ledger_takes_under_a_hundredth_of_the_steps(tmp_path):
    folder = train(tmp_path, "steps=200", "batch=512", "evaluate_every=200", "checkpoint_every=200")
    summary = document(folder, "summary")
    steps = sum(row["time/step_seconds"] for row in metrics(folder))
    # The first line is written before the time of a step is known.
    assert summary["time/ledger_seconds"] < 0.01 * steps + 0.02
    assert len(read_entries(folder / "ledger.jsonl")) < 40


def test_the_plan_is_kept_before_anything_of_a_step_is_seen(tmp_path):
    folder = crash(tmp_path, 1)
    assert len(metrics(folder)) == 1
    assert document(folder, "plan")["uses"]
    (folder / "plan.json").unlink()  # another plan may round differently: another attempt
    run.resume(folder, {})
    assert document(folder, "privacy")["attempts"] == 2


def test_a_checkpoint_says_which_ledger_it_goes_with(whole):
    state = torch.load(whole / "checkpoints" / "state.pt", weights_only=True)
    digests = [entry["digest"] for entry in read_entries(whole / "ledger.jsonl")]
    assert state["ledger"] in digests


def test_a_run_killed_between_the_files_of_its_last_checkpoint_has_the_right_weights(
    tmp_path, whole
):
    save = checkpoint._save
    with pytest.MonkeyPatch.context() as patch:

        def dying(path, content):
            if path.name == "model.pt" and state_of(path)["step"] == 12:
                raise Killed
            save(path, content)

        patch.setattr(checkpoint, "_save", dying)
        with pytest.raises(Killed):
            train(tmp_path, *WORDS)
    (folder,) = tmp_path.iterdir()
    assert not is_same(weights(folder), weights(whole))
    run.resume(folder, {})
    assert is_same(weights(folder), weights(whole))
    # Also the last step's line, which waits for the last evaluation, and the plan, though no step
    # was left to make it anew.
    assert untimed(metrics(folder)) == untimed(metrics(whole))
    assert document(folder, "plan") == document(whole, "plan")


def state_of(path):
    return torch.load(path.with_name("state.pt"), weights_only=True)


def untimed(rows):
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def test_other_initial_weights_are_not_met_with_the_same_noise(tmp_path):
    initial = tmp_path / "initial.pt"
    donor = train(tmp_path / "donor")
    torch.save(weights(donor), initial)
    folder = crash(tmp_path / "runs", 3, f"model.checkpoint={initial}")
    torch.save({name: 1.5 * w for name, w in weights(donor).items()}, initial)
    run.resume(folder, {})
    privacy = document(folder, "privacy")
    assert privacy["attempts"] == 2
    assert privacy["steps_charged"] == 12


def test_a_ledger_behind_the_record_is_refused(tmp_path):
    folder = crash(tmp_path, 6, "noise.secure=true")
    path = folder / "ledger.jsonl"
    digest = state_of(folder / "checkpoints" / "state.pt")["ledger"]
    lines = path.read_text().splitlines(keepends=True)
    kept = next(i for i, line in enumerate(lines) if digest in line) + 1
    path.write_text("".join(lines[:kept]))
    with pytest.raises(LedgerError, match=r"has charged 4 steps, but metrics.jsonl has 6"):
        run.resume(folder, {})


def test_a_run_goes_on_with_the_noise_that_it_was_begun_with(tmp_path, monkeypatch):
    words = ("eps=8", "noise_multiplier=null")
    folder = crash(tmp_path, 6, *words)
    sigma = read_entries(folder / "ledger.jsonl")[0]["terms"]["noise_multiplier"]
    found = deal.with_noise_for

    def other(*args):
        return replace(found(*args), noise_multiplier=1.01 * sigma)

    monkeypatch.setattr(deal, "with_noise_for", other)  # as another version might
    assert run.resume(folder, {})["privacy/noise_multiplier"] == sigma


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
