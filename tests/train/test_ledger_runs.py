"""Runs and their ledger: what is charged, what a crash costs, where the budget ends."""

from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from crashes import WORDS, Killed, charged, crash, dying_after, state_of, stop_after
from runs import document, is_same, metrics, train, weights

from dpexp.accounting.bounds import sound_epsilon
from dpexp.accounting.ledger_file import read_entries
from dpexp.accounting.stated import stated
from dpexp.train import account, checkpoint, deal, fit, run
from dpexp.train.account import arithmetic_of


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
    assert f"exp({stated(privacy['epsilon'], 7)})" in privacy["statement"]


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


def test_a_run_that_was_stopped_in_order_may_change_its_micro_batches(tmp_path, whole):
    stop_after(tmp_path, 6)
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


def test_a_run_goes_on_with_the_noise_that_it_was_begun_with(tmp_path, monkeypatch):
    words = ("eps=8", "noise_multiplier=null")
    folder = crash(tmp_path, 6, *words)
    sigma = read_entries(folder / "ledger.jsonl")[0]["terms"]["noise_multiplier"]
    found = deal.with_noise_for

    def other(*args):
        return replace(found(*args), noise_multiplier=1.01 * sigma)

    monkeypatch.setattr(deal, "with_noise_for", other)  # as another version might
    assert run.resume(folder, {})["privacy/noise_multiplier"] == sigma


def test_a_resumed_run_says_what_becomes_of_steps_that_are_in_no_checkpoint(tmp_path, capsys):
    folder = crash(tmp_path / "seeded", 6)
    charged_to = read_entries(folder / "ledger.jsonl")[-1]["to"]
    run.resume(folder, {})
    said = f"after step 4; steps up to {charged_to} were charged and may have been taken: "
    out = capsys.readouterr().out
    assert f"{said}they are repeated bit for bit, and cost nothing" in out
    folder = crash(tmp_path / "secure", 6, "noise.secure=true")
    run.resume(folder, {})
    assert "they are drawn afresh and charged again, so the run will end" in capsys.readouterr().out


def test_a_stopped_run_says_what_it_has_spent_and_what_going_on_makes_of_it(tmp_path, capsys):
    stop_after(tmp_path, 6)
    (folder,) = tmp_path.iterdir()
    spent = document(folder, "privacy")["epsilon"]
    whole_epsilon = metrics(train(tmp_path, *WORDS))[-1]["privacy/epsilon"]
    assert spent < whole_epsilon
    assert (
        f"epsilon <= {stated(spent)} so far; going on to the end makes it "
        f"{stated(whole_epsilon)} in all" in capsys.readouterr().out
    )


def test_names_of_a_checkpoint_are_on_the_disk_before_anything_else_is_written(
    tmp_path, monkeypatch
):
    synced = []
    sync = checkpoint.sync_folder

    def noting(folder):
        synced.append({path.name for path in folder.iterdir()})
        sync(folder)

    monkeypatch.setattr(checkpoint, "sync_folder", noting)
    train(tmp_path, *WORDS, "checkpoint_every=12")
    assert synced == [{"state.pt"}, {"state.pt", "model.pt"}]
