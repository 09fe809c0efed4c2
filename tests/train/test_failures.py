"""Runs that fail: one line, the right exit code, and a folder only where a run began."""

import errno
import os
import sys

import pytest
from runs import SHORT, config_of, document, folders, metrics, train

from dpexp.cli.compose import compose
from dpexp.cli.main import main
from dpexp.errors import ConfigError, RunFailedError, RunFolderError
from dpexp.train import fit, run
from dpexp.train.console import say


def fails(capsys, output, *words, code=2):
    """Run the command line; return the one line it wrote to stderr."""
    assert main(["train", *SHORT, f"output={output}", *words]) == code
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, lines
    assert "Traceback" not in captured.out
    return lines[0]


@pytest.fixture
def unusable(tmp_path):
    """Folders of images that no run can start from."""
    (tmp_path / "empty" / "train").mkdir(parents=True)
    (tmp_path / "cut").mkdir()
    for name in ("train", "test"):
        (tmp_path / "cut" / f"{name}.parquet").write_bytes(b"PAR1" + bytes(range(200)))
    return tmp_path


REFUSED = {
    "no folder": (["dataset.root=/nowhere"], "dataset.root=/nowhere with dataset=digits"),
    "nothing there": (["dataset=parquet", "dataset.root=/nowhere"], "/nowhere does not exist"),
    "no classes": (["dataset=imagefolder", "dataset.root={root}/empty"], "no class folders"),
    "cut off": (["dataset=parquet", "dataset.root={root}/cut"], "not a readable Parquet file"),
    "another N": (["dataset.num_train=1400"], "has 1438 samples"),
    "delta": (["delta=0.1"], "delta=0.1"),
    "batch": (["batch=2000"], "batch=2000"),
    "betas": (["optimizer=adam", "optimizer.betas=[0.9]"], "optimizer.betas=[0.9]: must be two"),
    "endless": (["steps=null", "epochs=inf"], "epochs=inf: must be finite"),
    "compiled": (["compile=true"], "compile=true"),
    "no device": (["device=cuda:99"], "device=cuda:99"),
    "mixed samples": (
        ["model.name=test_resnet", "model.norm=keep", "model.image_size=64"],
        "model.norm=groupnorm",
    ),
}


@pytest.mark.parametrize(("words", "part"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_start_leaves_nothing(unusable, tmp_path, capsys, words, part):
    words = [word.format(root=unusable) for word in words]
    assert part in fails(capsys, tmp_path / "outputs", *words)
    assert not (tmp_path / "outputs").exists()


def test_an_output_that_is_no_folder_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in fails(capsys, tmp_path / "file")


def test_a_failing_step_leaves_its_reason_in_the_folder(tmp_path, capsys, monkeypatch):
    step, taken = fit.train_step, []

    def failing_step(*args, **keys):
        taken.append(None)
        if len(taken) == 2:
            raise RuntimeError("out of luck\nand more")
        return step(*args, **keys)

    monkeypatch.setattr(fit, "train_step", failing_step)
    line = fails(capsys, tmp_path, code=1)
    (folder,) = folders(tmp_path)
    assert "the run failed (RuntimeError: out of luck)" in line
    assert str(folder / "error.txt") in line
    assert "in failing_step" in (folder / "error.txt").read_text()
    status = document(folder, "status")
    assert (status["state"], status["error"]) == ("failed", "RuntimeError: out of luck")
    assert [row["step"] for row in metrics(folder)] == [1]
    monkeypatch.undo()
    run.resume(folder, {})
    assert document(folder, "status")["state"] == "done"
    assert not (folder / "error.txt").exists()


@pytest.mark.parametrize("watch", ["evaluate_every=1", "evaluate_every=3"])
def test_a_diverged_run_says_so_in_strict_json(tmp_path, capsys, watch):
    words = ("dp=off", "noise_multiplier=null", "optimizer.lr=1e38", watch)
    line = fails(capsys, tmp_path, *words, code=1)
    assert "the model diverged" in line
    assert "Lower optimizer.lr (now 1e+38)" in line
    (folder,) = folders(tmp_path)
    assert document(folder, "status")["state"] == "diverged"
    assert metrics(folder)
    summary = document(folder, "summary")
    assert summary["test/nll_nats"] is None
    assert summary["test/num_nonfinite"] > 0
    assert main(["train", f"resume={folder}"]) == 2
    assert "diverged" in capsys.readouterr().err


def test_python_callers_get_the_cause(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "train_step", lambda *args, **keys: 1 / 0)
    with pytest.raises(RunFailedError) as failure:
        run.run(config_of(tmp_path))
    assert isinstance(failure.value.__cause__, ZeroDivisionError)
    assert failure.value.exit_code == 1


def test_a_reader_that_leaves_does_not_end_the_run(tmp_path, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        say("nobody hears this")
        folder = train(tmp_path)
        monkeypatch.undo()
    assert document(folder, "status")["state"] == "done"


def test_a_disk_that_is_full_is_what_a_run_failed_of(tmp_path, capsys, monkeypatch):
    write = os.write

    def write_until_full(file, data):
        if b'"step": 2' in data:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data)

    def no_room(*args):
        raise RunFolderError("error.txt cannot be written")

    monkeypatch.setattr(os, "write", write_until_full)
    monkeypatch.setattr("dpexp.record.folder.traceback.format_exception", no_room)
    line = fails(capsys, tmp_path, code=1)
    (folder,) = folders(tmp_path)
    assert "metrics.jsonl cannot be written (no space left on device)" in line
    assert document(folder, "status")["state"] == "failed"


@pytest.mark.parametrize("algorithm", ["mixed_ghost", "ghost", "fastgradclip"])
def test_a_bound_that_a_second_pass_in_bfloat16_would_pass_is_refused(algorithm, tmp_path):
    words = [f"clipping.algorithm={algorithm}", "precision=bf16", f"output={tmp_path}"]
    with pytest.raises(
        ConfigError, match=r"can pass R by a bfloat16 rounding.*use clipping.algorithm=auto"
    ):
        run.run(compose(words))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["eps=inf"], ["eps=null", "noise_multiplier=0"], ["dp=off"]])
def test_without_an_epsilon_a_second_pass_may_round(words, tmp_path):
    two_passes = ["clipping.algorithm=mixed_ghost", "precision=bf16", "steps=1", "epochs=null"]
    run.run(compose([*words, *two_passes, "wandb.mode=disabled", f"output={tmp_path}"]))
    (folder,) = tmp_path.iterdir()
    assert document(folder, "status")["state"] == "done"
