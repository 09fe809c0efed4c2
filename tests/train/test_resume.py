"""Runs that were stopped: what they leave, and that going on makes them whole."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from runs import document, is_same, metrics, train, weights

from dpexp.cli.main import main
from dpexp.clipping.engine import PrivacyEngine
from dpexp.errors import RunFolderError
from dpexp.record.folder import RunFolder
from dpexp.train import fit, run
from dpexp.train.fit import StopRequest

ROOT = Path(__file__).parents[2]
WORDS = ("steps=20", "checkpoint_every=4", "optimizer.momentum=0.9", "schedule=cosine")
# A run slow enough to be stopped in its course; nothing else about it is changed.
SLOW = """
import sys, time
from dpexp.cli.main import main
from dpexp.clipping.engine import PrivacyEngine
from dpexp.train import fit
step = fit.train_step
def slow_step(*args, **keys):
    time.sleep(0.1)
    return step(*args, **keys)
fit.train_step = slow_step
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody stopped."""
    return train(tmp_path_factory.mktemp("whole"), *WORDS)


def stop(output, number):
    """Send a signal to a run after its sixth step; return its folder and what it said."""
    words = ("train", *WORDS, "batch=64", "noise_multiplier=1", "wandb.mode=disabled")
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *words, f"output={output}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    lines = 0
    while lines < 6 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
        record = next(output.glob("*/metrics.jsonl"), None)
        lines = len(record.read_text().splitlines()) if record else 0
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return next(output.iterdir()), process.returncode, out, err


def check_whole(folder, whole):
    assert is_same(weights(folder), weights(whole))
    assert [row["step"] for row in metrics(folder)] == list(range(1, 21))
    assert document(folder, "status")["state"] == "done"
    ours, theirs = document(folder, "summary"), document(whole, "summary")
    same = [key for key in theirs if not key.startswith(("time/", "memory/"))]
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}
    assert document(folder, "privacy") == document(whole, "privacy")


def test_ctrl_c_leaves_a_run_that_goes_on_to_the_same_end(tmp_path, whole, capsys):
    folder, code, out, err = stop(tmp_path / "runs", signal.SIGINT)
    assert code == 130
    assert "Traceback" not in err
    assert "stopping after this step" in err
    status = document(folder, "status")
    assert status["state"] == "interrupted"
    assert 6 <= status["step"] < 20
    assert status["step"] == metrics(folder)[-1]["step"]
    assert f"dpexp train resume={folder}" in out
    assert document(folder, "privacy")["steps_done"] == status["step"]
    assert not (folder / "summary.json").exists()

    assert main(["train", f"resume={folder}", "micro_batch=512"]) == 0
    assert f"resuming  {folder} after step {status['step']}" in capsys.readouterr().out
    check_whole(folder, whole)
    assert len((folder / "command.txt").read_text().splitlines()) == 2


def test_a_killed_run_goes_on_from_its_checkpoint_to_the_same_end(tmp_path, whole, capsys):
    folder, code, _, _ = stop(tmp_path / "runs", signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert document(folder, "status")["state"] == "running"
    assert main(["train", f"resume={folder}"]) == 0
    assert f"resuming  {folder} after step 4" in capsys.readouterr().out
    check_whole(folder, whole)


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A run whose fourth step asked it to stop, in this process."""
    step = fit.train_step
    taken = []

    def stopping_step(*args, **keys):
        taken.append(None)
        if len(taken) == 3:
            signal.raise_signal(signal.SIGINT)
        return step(*args, **keys)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "train_step", stopping_step)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, "steps=6")
    (folder,) = tmp_path.iterdir()
    return folder


def one_line(capsys, *words, code=2):
    assert main(list(words)) == code
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    return line


def test_a_run_stopped_before_its_first_checkpoint_starts_over(stopped, tmp_path):
    assert document(stopped, "status")["step"] == 3
    (stopped / "checkpoints" / "state.pt").unlink()
    run.resume(stopped, {})
    assert is_same(weights(stopped), weights(train(tmp_path / "whole", "steps=6")))
    assert [row["step"] for row in metrics(stopped)] == [1, 2, 3, 4, 5, 6]


def test_a_run_stopped_after_its_last_step_is_only_measured(stopped, monkeypatch):
    run.resume(stopped, {})
    done = weights(stopped)
    folder = RunFolder.open(stopped)
    folder.set_status("interrupted")
    (stopped / "summary.json").unlink()
    monkeypatch.setattr(fit, "train_step", None)  # no step is left to take
    assert run.resume(stopped, {})["steps"] == 6
    assert is_same(weights(stopped), done)
    assert document(stopped, "status")["state"] == "done"


@pytest.mark.parametrize("word", ["eps=2", "optimizer.lr=2", "seed=1", "batch=32", "model=vit"])
def test_what_would_change_the_run_may_not_change(stopped, capsys, word):
    line = one_line(capsys, "train", f"resume={stopped}", word)
    assert f"{word}: would change what the run computes" in line
    assert document(stopped, "status")["state"] == "interrupted"


def test_a_done_run_says_so(tmp_path, capsys):
    folder = train(tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.suffix == ".json"}
    assert main(["train", f"resume={folder}"]) == 0
    assert "is done; nothing to resume" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in before}


def test_a_folder_in_use_is_refused(stopped, capsys):
    with RunFolder.open(stopped, write=True):
        assert "is in use by process" in one_line(capsys, "train", f"resume={stopped}")


DAMAGE = {
    "cut off": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "text": lambda content: b"step: 3",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_named(stopped, capsys, damage):
    path = stopped / "checkpoints" / "state.pt"
    path.write_bytes(damage(path.read_bytes()))
    before = (stopped / "metrics.jsonl").read_bytes()
    assert f"{path} is damaged" in one_line(capsys, "train", f"resume={stopped}")
    assert (stopped / "metrics.jsonl").read_bytes() == before


def test_a_checkpoint_of_something_else_is_named(stopped):
    torch.save({"step": 3}, stopped / "checkpoints" / "state.pt")
    with pytest.raises(RunFolderError, match="is damaged"):
        run.resume(stopped, {})


def test_a_folder_that_is_no_runs_is_refused(tmp_path, capsys):
    assert "no such folder" in one_line(capsys, "train", f"resume={tmp_path / 'nowhere'}")
    assert "not a run's" in one_line(capsys, "train", f"resume={tmp_path}")


def test_the_second_ctrl_c_does_not_wait():
    before = signal.getsignal(signal.SIGINT)
    with StopRequest().listening() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_plan_of_the_run_that_stopped_is_taken_up(stopped, monkeypatch):
    plan = document(stopped, "plan")
    assert plan["uses"]
    taken = []
    load_plan = PrivacyEngine.load_plan

    def loading(self, rows):
        taken.append(rows)
        load_plan(self, rows)

    monkeypatch.setattr(PrivacyEngine, "load_plan", loading)
    run.resume(stopped, {})
    assert taken == [plan["uses"]]
    assert document(stopped, "plan") == plan


@pytest.mark.parametrize("damage", [{}, {"uses": []}, {"micro_batch": 8, "uses": [{}]}], ids=str)
def test_a_damaged_plan_is_one_line(stopped, damage, capsys):
    (stopped / "plan.json").write_text(json.dumps(damage))
    line = one_line(capsys, "train", f"resume={stopped}")
    assert "damaged, or of another version" in line
    assert document(stopped, "status")["step"] == 3
