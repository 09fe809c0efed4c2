"""The run folder: unique, whole, with one writer, and resumable."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

import dpexp
from dpexp.errors import RunFolderError
from dpexp.record.config_hash import changed_keys, config_hash
from dpexp.record.folder import RunFolder

CONFIG = {
    "eps": float("inf"),
    "delta": 1e-5,
    "device": "cpu",
    "model": {"name": "vit", "norm": None},
}
COMMAND = ["/home/somebody/venv/bin/dpexp", "train", "eps=inf", "dataset.root=my data"]


@pytest.fixture
def folder(tmp_path):
    with RunFolder.create(tmp_path / "outputs", CONFIG, COMMAND) as folder:
        yield folder


def test_new_folder_holds_what_repeats_the_run(folder):
    assert re.fullmatch(r"\d{8}-\d{6}-\d{6}-[0-9a-f]{8}", folder.path.name)
    assert folder.path.name.endswith(config_hash(CONFIG))
    assert folder.read_config() == CONFIG
    assert yaml.safe_load((folder.path / "config.yaml").read_text()) == CONFIG
    assert (folder.path / "command.txt").read_text() == (
        "dpexp train eps=inf 'dataset.root=my data'\n"
    )
    assert folder.model_checkpoint.parent.is_dir()
    assert folder.state_checkpoint.parent.is_dir()
    assert folder.reliability_figure.parent.is_dir()


def test_new_status_is_running_at_step_0(folder):
    status = folder.read_status()
    assert status.pop("started")
    assert status == {
        "schema": 1,
        "state": "running",
        "step": 0,
        "steps": None,
        "ended": None,
        "error": None,
    }


def test_folders_made_at_once_are_all_different(tmp_path):
    def make(_):
        with RunFolder.create(tmp_path, CONFIG, COMMAND) as folder:
            return folder.path

    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(make, range(24)))
    assert len(set(paths)) == 24


def test_a_taken_name_is_left_alone(tmp_path, monkeypatch):
    from dpexp.record import folder as module

    times = iter([module.datetime(2026, 1, 2, 3, 4, 5, 6), module.datetime(2026, 1, 2, 3, 4, 5, 7)])

    class Clock:
        @staticmethod
        def now():
            return next(times)

    taken = tmp_path / f"20260102-030405-000006-{config_hash(CONFIG)}"
    taken.mkdir()
    (taken / "config.yaml").write_text("precious")
    monkeypatch.setattr(module, "datetime", Clock)
    with RunFolder.create(tmp_path, CONFIG, COMMAND) as folder:
        assert folder.path.name.startswith("20260102-030405-000007-")
    assert (taken / "config.yaml").read_text() == "precious"


def test_provenance_names_versions_and_no_path(folder):
    text = (folder.path / "provenance.json").read_text()
    provenance = json.loads(text)
    assert provenance["packages"]["dpexp"] == dpexp.__version__
    assert provenance["packages"]["torch"].startswith("2.")
    assert set(provenance["git"] or {"commit", "dirty"}) == {"commit", "dirty"}
    for key in ("python", "platform", "cpu", "gpus", "started", "command"):
        assert key in provenance
    assert "/home/" not in text
    assert str(Path.home()) + "/" not in text
    assert sys.prefix not in text


def test_hash_ignores_what_changes_nothing_mathematical():
    same = CONFIG | {"device": "cuda", "output": "elsewhere", "wandb": {"mode": "online"}}
    assert config_hash(same) == config_hash(CONFIG)
    assert config_hash(dict(reversed(CONFIG.items()))) == config_hash(CONFIG)
    assert config_hash(CONFIG | {"delta": 1e-6}) != config_hash(CONFIG)
    nested = CONFIG | {"model": {"name": "vit", "norm": "keep"}}
    assert config_hash(nested) != config_hash(CONFIG)
    assert changed_keys(CONFIG, nested | {"device": "cuda"}) == ["model.norm"]
    assert changed_keys(CONFIG, CONFIG | {"extra": None}) == ["extra"]


def test_another_configuration_is_refused_by_its_keys(folder):
    folder.check_same_run(CONFIG | {"device": "cuda"})
    with pytest.raises(RunFolderError, match=r"delta, eps differ from .*free to change: device"):
        folder.check_same_run(CONFIG | {"eps": 1.0, "delta": 1e-6})


def test_metrics_are_one_strict_line_a_step(folder):
    folder.log_metrics(0, {"test/accuracy": 0.1})
    folder.log_metrics(
        5,
        {
            "unsafe/loss_nats": float("inf"),
            "test/ece": float("nan"),
            "privacy/epsilon": float("inf"),
            "note": "text",
        },
    )
    lines = (folder.path / "metrics.jsonl").read_text().splitlines()
    assert lines == [
        '{"step": 0, "test/accuracy": 0.1}',
        '{"step": 5, "unsafe/loss_nats": null, "test/ece": null, "privacy/epsilon": "inf",'
        ' "note": "text"}',
    ]
    assert folder.read_metrics() == [json.loads(line) for line in lines]


@pytest.mark.parametrize("step", [3, 2])
def test_a_step_is_logged_once(folder, step):
    folder.log_metrics(3, {"a": 1})
    with pytest.raises(RunFolderError, match=rf"step {step} after those of step 3.*one call"):
        folder.log_metrics(step, {"a": 2})


def test_resuming_drops_what_the_checkpoint_does_not_know(folder):
    for step in range(1, 6):
        folder.log_metrics(step, {"a": step})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "a"')  # killed while writing
    folder.set_status("interrupted", step=5, steps=9)
    started = folder.read_status()["started"]
    folder.close()

    with RunFolder.open(folder.path, write=True) as again:
        again.resume_from(3, ["dpexp", "train", "resume=x"])
        again.log_metrics(4, {"a": 40})
        assert [(row["step"], row["a"]) for row in again.read_metrics()] == [
            (1, 1),
            (2, 2),
            (3, 3),
            (4, 40),
        ]
        status = again.read_status()
        assert (status["state"], status["step"], status["steps"]) == ("running", 3, 9)
        assert (status["started"], status["ended"]) == (started, None)
        assert (again.path / "command.txt").read_text().splitlines()[1] == "dpexp train resume=x"
        (resumed,) = again.read_document("provenance.json")["resumed"]
        assert (resumed["step"], resumed["command"]) == (3, "dpexp train resume=x")


def test_done_run_is_not_resumed(folder):
    folder.log_metrics(1, {"a": 1})
    folder.set_status("done", step=1, steps=1)
    with pytest.raises(RunFolderError, match=r"is done, so there is nothing to go on with"):
        folder.resume_from(0, COMMAND)
    assert len(folder.read_metrics()) == 1


def test_damaged_line_in_the_middle_is_named(folder):
    (folder.path / "metrics.jsonl").write_text('{"step": 1}\nrubbish\n{"step": 3}\n')
    with pytest.raises(RunFolderError, match=r"line 2 is not a JSON object with a step"):
        folder.read_metrics()


@pytest.mark.parametrize("state", ["done", "failed", "interrupted", "diverged"])
def test_an_end_has_a_time(folder, state):
    folder.set_status(state, step=7, steps=9)
    status = folder.read_status()
    assert (status["state"], status["step"], status["steps"]) == (state, 7, 9)
    assert status["ended"] >= status["started"]


def test_unknown_state_is_refused_with_the_list(folder):
    with pytest.raises(RunFolderError, match=r"'finished': must be one of running, done, failed"):
        folder.set_status("finished")


def test_failure_leaves_its_traceback(folder):
    def deep():
        raise ZeroDivisionError("by zero\nsecond line")

    try:
        deep()
    except ZeroDivisionError as error:
        folder.fail(error)
    assert "in deep" in (folder.path / "error.txt").read_text()
    status = folder.read_status()
    assert (status["state"], status["error"]) == ("failed", "ZeroDivisionError: by zero")
    folder.resume_from(0, COMMAND)
    assert not (folder.path / "error.txt").exists()
    assert folder.read_status()["error"] is None


def test_summary_and_log(folder):
    folder.write_summary({"test/nll_nats": float("inf"), "privacy/epsilon": float("inf"), "n": 3})
    assert folder.read_document("summary.json") == {
        "schema": 1,
        "test/nll_nats": None,
        "privacy/epsilon": "inf",
        "n": 3,
    }
    folder.log("first")
    folder.log("second")
    lines = (folder.path / "train.log").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["first", "second"]


def test_second_writer_is_refused_and_a_reader_is_not(folder):
    with pytest.raises(RunFolderError, match=rf"is in use by process {os.getpid()} on .*wait"):
        RunFolder.open(folder.path, write=True)
    assert RunFolder.open(folder.path).read_status()["state"] == "running"
    folder.close()
    RunFolder.open(folder.path, write=True).close()


def test_lock_of_another_process_holds_and_dies_with_it(folder):
    folder.close()
    code = (
        "import sys, time\n"
        "from dpexp.record.folder import RunFolder\n"
        "folder = RunFolder.open(sys.argv[1], write=True)\n"
        "print('locked', flush=True)\n"
        "time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "locked\n"
        with pytest.raises(RunFolderError, match=rf"in use by process {child.pid}"):
            RunFolder.open(folder.path, write=True)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    RunFolder.open(folder.path, write=True).close()


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_of_something_else_is_refused(tmp_path, exists):
    path = tmp_path / "holiday"
    if exists:
        path.mkdir()
    with pytest.raises(RunFolderError, match=r"holiday .*so it is not a run's; name a folder"):
        RunFolder.open(path)


def test_output_that_cannot_be_a_folder_is_one_line(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(RunFolderError, match=r"cannot be written .*output=<folder>") as caught:
        RunFolder.create(file / "outputs", CONFIG, COMMAND)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunFolderError, match=r"permission denied"):
        RunFolder.create(tmp_path / "outputs", CONFIG, COMMAND)


def test_disk_that_fills_up_while_logging_is_one_line(folder, monkeypatch):
    from dpexp.record import metrics_log

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metrics_log.os, "write", full)
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl .*no space left on device"):
        folder.log_metrics(1, {"a": 1})


def test_a_killed_run_keeps_its_lines(tmp_path):
    code = (
        "import os, sys, signal\n"
        "from dpexp.record.folder import RunFolder\n"
        "folder = RunFolder.create(sys.argv[1], {}, ['dpexp'])\n"
        "folder.log_metrics(1, {'a': 1})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    (path,) = tmp_path.iterdir()
    assert RunFolder.open(path).read_metrics() == [{"step": 1, "a": 1}]


def test_logging_is_cheap(folder):
    start = time.perf_counter()
    for step in range(1000):
        folder.log_metrics(step, {"a": step, "b": 0.5})
    assert time.perf_counter() - start < 1  # 1 ms a step; measured 0.02


def test_record_imports_no_torch():
    code = (
        "import sys\n"
        "import dpexp.record.folder, dpexp.record.wandb_mirror\n"
        "assert not {'torch', 'wandb', 'yaml'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
