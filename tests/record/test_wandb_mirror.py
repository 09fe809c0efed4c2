"""The W&B mirror: really offline, really silent, and never the end of a run."""

import json
import os
import subprocess
import sys

import pytest

from dpexp.record import wandb_mirror
from dpexp.record.wandb_mirror import WandbMirror

BINS = {
    "edges": [0.0, 0.5, 1.0],
    "count": [0, 3],
    "accuracy": [None, 0.5],
    "confidence": [None, 0.7],
}
PRIVACY = {"epsilon": float("inf"), "delta": 1e-5, "sigma": 0.0, "q": 0.1}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


class FakeRun:
    """Records what a W&B run is told; fails where it is told to."""

    def __init__(self, fails=""):
        self.rows, self.summary, self.ends, self.fails = [], {}, [], fails

    def log(self, row):
        if self.fails == "log":
            raise ConnectionError("server gone\nmore")
        self.rows.append(row)

    def finish(self, exit_code):
        self.ends.append(exit_code)
        if self.fails == "finish":
            raise TimeoutError("no answer")


@pytest.fixture
def started(monkeypatch):
    """The arguments and runs of every start, in place of W&B."""
    log = []

    def init(arguments):
        run = FakeRun()
        log.append((arguments, run))
        return run

    monkeypatch.setattr(wandb_mirror, "_init", init)
    return log


def start(tmp_path, warnings=None, **arguments):
    warn = pytest.fail if warnings is None else warnings.append
    given = {"mode": "offline", "project": "dpexp", "warn": warn} | arguments
    return WandbMirror.start(tmp_path, {"model": {"name": "vit"}}, PRIVACY, **given)


def test_offline_run_is_real_silent_and_inside_the_run_folder(tmp_path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from matplotlib.figure import Figure\n"
        "from dpexp.record.wandb_mirror import WandbMirror\n"
        "folder = Path(sys.argv[1])\n"
        "figure = folder / 'a.png'\n"
        "Figure().savefig(figure)\n"
        "mirror = WandbMirror.start(folder, {'eps': 1}, {'epsilon': 1.0}, mode='offline',\n"
        "                           project='dpexp', warn=print)\n"
        "with mirror:\n"
        "    mirror.log(1, {'test/accuracy': 0.5, 'test/ece': None})\n"
        f"    mirror.log_reliability(2, figure, {BINS!r})\n"
        "    mirror.summarize({'test/accuracy': 0.5})\n"
        "    assert mirror.is_on\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
    (run,) = tmp_path.glob("wandb/offline-run-*")
    assert len(list(run.glob("files/media/images/test/reliability_*.png"))) == 1
    (table,) = run.glob("files/media/table/test/reliability_bins_*.json")
    assert json.loads(table.read_text())["data"] == [
        [0.0, 0.5, 0, None, None],
        [0.5, 1.0, 3, 0.5, 0.7],
    ]
    (binary,) = run.glob("run-*.wandb")
    assert b"test/accuracy" in binary.read_bytes()


def test_online_without_a_key_asks_nothing_even_on_a_terminal(tmp_path):
    import pty

    code = (
        "import sys\n"
        "from dpexp.record.wandb_mirror import WandbMirror\n"
        "mirror = WandbMirror.start(sys.argv[1], {}, {}, mode='online', project='p', warn=print)\n"
        "assert not mirror.is_on\n"
        "print('went on')\n"
    )
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    ) as child:
        os.close(terminal)
        try:
            assert child.wait(timeout=30) == 0  # a question would wait for ever
        finally:
            child.kill()
        shown = os.read(controller, 10_000).decode()
        os.close(controller)
    assert "W&B could not start" in shown
    assert "went on" in shown
    assert shown.count("\n") == 2


def test_disabled_does_not_even_import(tmp_path, monkeypatch, started):
    for mode, variable in (("disabled", None), ("online", "disabled")):
        if variable:
            monkeypatch.setenv("WANDB_MODE", variable)
        mirror = start(tmp_path, mode=mode)
        mirror.log(1, {"a": 1})
        mirror.log_reliability(1, tmp_path / "none.png", BINS)
        mirror.summarize({})
        mirror.finish()
        assert not mirror.is_on
    assert started == []


def test_variable_wins_over_the_mode(tmp_path, monkeypatch, started):
    start(tmp_path, mode="online")
    monkeypatch.setenv("WANDB_MODE", "offline")
    start(tmp_path, mode="online")
    (without, _), (with_variable, _) = started
    assert without["mode"] == "online"
    assert "mode" not in with_variable


def test_each_resume_is_a_new_run_of_the_same_group(tmp_path, started):
    start(tmp_path)
    start(tmp_path)
    (first, _), (second, _) = started
    assert first["group"] == second["group"] == tmp_path.name
    assert not {"id", "resume"} & set(first)
    assert first["reinit"] == "finish_previous"
    assert first["dir"] == str(tmp_path)


def test_config_shows_privacy_at_the_top(tmp_path, started):
    start(tmp_path)
    ((arguments, _),) = started
    assert arguments["config"] == {
        "model": {"name": "vit"},
        "epsilon": "inf",
        "delta": 1e-5,
        "sigma": 0.0,
        "q": 0.1,
    }


def test_rows_carry_their_step_and_no_nulls(tmp_path, started):
    start(tmp_path).log(7, {"a": 1.0, "b": None, "c": float("nan")})
    assert started[0][1].rows == [{"step": 7, "a": 1.0}]


def test_missing_package_is_one_warning(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    warnings = []
    mirror = start(tmp_path, warnings)
    mirror.log(1, {"a": 1})
    mirror.finish()
    assert len(warnings) == 1
    assert "could not start (ModuleNotFoundError" in warnings[0]
    assert "\n" not in warnings[0]


def test_failure_on_the_way_is_one_warning(tmp_path, started):
    warnings = []
    mirror = start(tmp_path, warnings)
    started[0][1].fails = "log"
    mirror.log(1, {"a": 1})
    mirror.log(2, {"a": 1})
    mirror.summarize({"a": 1})
    assert warnings == [
        "W&B could not log (ConnectionError: server gone); the run goes on, and metrics.jsonl "
        "holds everything; wandb.mode=disabled turns the mirror off"
    ]
    assert not mirror.is_on


def test_failure_at_the_end_is_one_warning(tmp_path, started):
    warnings = []
    with start(tmp_path, warnings):
        started[0][1].fails = "finish"
    assert len(warnings) == 1


def test_the_end_says_how_it_went(tmp_path, started):
    with start(tmp_path):
        pass
    with pytest.raises(ZeroDivisionError), start(tmp_path):
        raise ZeroDivisionError
    mirror = start(tmp_path)
    mirror.finish(130)
    mirror.finish()
    assert [run.ends for _, run in started] == [[0], [1], [130]]


def test_interrupt_is_not_swallowed(tmp_path, started):
    mirror = start(tmp_path)

    def interrupt(_):
        raise KeyboardInterrupt

    started[0][1].log = interrupt
    with pytest.raises(KeyboardInterrupt):
        mirror.log(1, {"a": 1})
