"""Sweeps end to end: what is there is skipped, what stopped goes on, what fails stops nothing."""

import csv
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from tiny import TINY, entries_of, runs_in

from dpexp.cli import sweep as command
from dpexp.cli.main import main
from dpexp.record.lock import FolderLock
from dpexp.sweep.launchers import Settings
from dpexp.sweep.table import standard_deviation
from dpexp.train import fit

GRID = ["clipping.norm=0.1,1", "seed=0,1", *TINY]


def sweep(output, *words):
    return main(["sweep", *(words or GRID), f"output={output}"])


def weights_of(output):
    """Overrides' hash -> final weights, in one vector."""
    found = {}
    for entry in entries_of(output):
        path = output / entry["folder"] / "checkpoints" / "model.pt"
        state = torch.load(path, weights_only=True)
        found[entry["hash"]] = torch.cat([tensor.flatten() for tensor in state.values()])
    return found


def test_a_grid_is_shown_run_tabled_and_not_run_again(output, capsys):
    assert sweep(output, *GRID, "dry_run=true") == 0
    shown = capsys.readouterr().out
    assert f"sweep     4 points into {output}: 4 to begin" in shown
    assert "choosing the best of 4 such runs: eps " in shown
    assert not output.exists()
    assert sweep(output) == 0
    said = capsys.readouterr().out
    assert "choice    best val/accuracy: clipping.norm=" in said
    made = runs_in(output)
    assert [status["state"] for status in made.values()] == ["done"] * 4
    with (output / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["clipping.norm"], row["seed"]) for row in rows] == [
        ("0.1", "0"), ("0.1", "1"), ("1", "0"), ("1", "1"),
    ]  # fmt: skip
    assert sweep(output) == 0
    assert "4 done" in capsys.readouterr().out
    assert runs_in(output) == made
    told = (output / next(iter(made)) / "command.txt").read_text()
    assert told.startswith("dpexp train clipping.norm=0.1 seed=0 ")


def test_a_run_of_dpexp_train_counts_whatever_its_folder_is_called(output, capsys):
    assert main(["train", *TINY, "clipping.norm=0.1", "seed=0", f"output={output}"]) == 0
    (folder,) = output.iterdir()
    # As one that was made before a key was added to the schema.
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["dataset"]["mean"] is not None, "the folder's own hash is another one"
    del config["clipping"]["tail_norm"], config["sampling"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    capsys.readouterr()
    assert sweep(output, *GRID, "micro_batch=16") == 0
    assert "1 done, 3 to begin" in capsys.readouterr().out.replace("\n", " ")
    assert len(runs_in(output)) == 4


def test_another_mean_is_another_run(output, capsys):
    assert main(["train", *TINY, "dataset.mean=[0.4]", "dataset.std=[0.5]", "seed=0",
                 f"output={output}"]) == 0  # fmt: skip
    assert sweep(output, "seed=0,1", *TINY, "dry_run=true") == 0
    assert "2 to begin" in capsys.readouterr().out


def test_one_failure_stops_nothing_and_is_listed_with_its_retry(output, capsys, monkeypatch):
    take = fit.train_step

    def failing(model, optimizer, engine, *args, **keys):
        if engine.mechanism.clip_norm == 0.1:
            raise ValueError("planted")
        return take(model, optimizer, engine, *args, **keys)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "train_step", failing)
        assert sweep(output) == 1
    said = capsys.readouterr().out
    assert said.count("failed    clipping.norm=0.1 seed=") == 2
    assert "planted" in said
    assert "dpexp train clipping.norm=0.1 seed=1 " in said
    assert (
        sorted(entry["state"] for entry in entries_of(output)) == ["done", "done"] + ["failed"] * 2
    )
    assert sweep(output) == 0
    assert {entry["state"] for entry in entries_of(output)} == {"done"}


def test_a_diverged_run_is_an_outcome_and_is_not_run_again(output, monkeypatch):
    plain = [word for word in TINY if "noise" not in word]
    words = ["optimizer.lr=1e38,1", "dp=off", "noise_multiplier=null", *plain]
    assert sweep(output, *words) == 0
    made = runs_in(output)
    assert sorted(status["state"] for status in made.values()) == ["diverged", "done"]
    assert sweep(output, *words) == 0
    assert runs_in(output) == made


def test_a_run_that_another_process_has_is_left_alone(output, capsys):
    assert sweep(output, "seed=0", *TINY) == 0
    (folder,) = (path.parent for path in output.glob("*/status.json"))
    status = (folder / "status.json").read_text()
    (folder / "status.json").write_text(status.replace('"done"', '"running"'))
    lock = FolderLock(folder)
    try:
        capsys.readouterr()
        assert sweep(output, "seed=0", *TINY) == 0
        assert "1 running in another process" in capsys.readouterr().out
    finally:
        lock.release()
    assert len(runs_in(output)) == 1


def test_killed_at_any_moment_it_goes_on_with_nothing_run_twice(output, tmp_path):
    words = [*GRID, "steps=60", "checkpoint_every=20"]
    words.remove("steps=2")
    again = [sys.executable, "-m", "dpexp.cli.main", "sweep", *words, f"output={output}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(again, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        first, *rest = [*runs_in(output).values(), None]
        if first and rest[0] and first["state"] == "done" and rest[0]["step"]:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = runs_in(output)
    assert [status["state"] for status in before.values()] == ["done", "running"]
    assert main(again[3:]) == 0
    after = runs_in(output)
    assert set(before) < set(after)
    assert [status["state"] for status in after.values()] == ["done"] * 4
    assert after[min(before)] == before[min(before)]
    undisturbed = tmp_path / "whole"
    assert sweep(undisturbed, *words) == 0
    found, expected = weights_of(output), weights_of(undisturbed)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[digits], expected[digits]) for digits in expected)


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_other_launchers_give_the_same_weights(output, tmp_path, launcher):
    if launcher == "submitit_local":
        pytest.importorskip("submitit", reason="submitit is an optional dependency")
    words = ["seed=0,1", *TINY]
    assert sweep(output, *words, f"launcher={launcher}", "jobs=2") == 0
    assert sweep(tmp_path / "here", *words) == 0
    found, expected = weights_of(output), weights_of(tmp_path / "here")
    assert found.keys() == expected.keys()
    for digits in expected:
        torch.testing.assert_close(found[digits], expected[digits], rtol=1e-5, atol=1e-6)


def test_a_list_that_is_no_product_runs_from_python(output):
    points = [["seed=0", "clipping.norm=1", *TINY], ["seed=1", "clipping.norm=0.1", *TINY]]
    rows = command.run_points(points, output=output, settings=Settings())
    assert [row.state for row in rows] == ["done", "done"]
    assert len(runs_in(output)) == 2


def test_ctrl_c_ends_the_sweep_and_the_same_command_goes_on(output, monkeypatch):
    take, taken = fit.train_step, []

    def stopping(*args, **keys):
        taken.append(None)
        if len(taken) == 3:
            signal.raise_signal(signal.SIGINT)
        return take(*args, **keys)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "train_step", stopping)
        assert sweep(output) == 130
    assert sorted(status["state"] for status in runs_in(output).values()) == ["done", "interrupted"]
    assert sweep(output) == 0
    assert [status["state"] for status in runs_in(output).values()] == ["done"] * 4


def test_an_infinite_epsilon_has_a_mean_and_no_spread(output):
    plain = [word for word in TINY if "noise" not in word]
    assert sweep(output, "seed=0,1", "noise_multiplier=0", *plain) == 0
    table = (output / "sweep.md").read_text()
    assert "| inf |" in table
    assert "nan" not in table
    assert standard_deviation([1.0, 3.0]) == pytest.approx(2**0.5)
    assert standard_deviation([1.0]) is None
    assert standard_deviation([math.inf, math.inf]) is None
