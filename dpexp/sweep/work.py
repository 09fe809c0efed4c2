"""One point, in whatever process: go on with it, begin it, or leave it to whoever has it."""

import contextlib
import io
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dpexp.config import TrainConfig
from dpexp.errors import DpexpError, RunFolderError
from dpexp.record.folder import RunFolder
from dpexp.record.lock import FolderLock
from dpexp.record.strict_json import writing
from dpexp.sweep.existing import (
    DIVERGED,
    ELSEWHERE,
    FAILED,
    OUTCOMES,
    STOPPED,
    Found,
    Runs,
    is_held,
)

INTERRUPTED = "interrupted"
DIED = "its process died without a word, as one does that is out of memory or was killed"
OWN_FOLDER = ".sweep"  # what a sweep keeps for itself, below its output folder


@dataclass(frozen=True)
class Task:
    """What a process needs to know to run one point.

    Attributes:
        config: Of the run; its output is where its folder goes.
        words: The overrides that describe it, for command.txt.
        hash: Of the configuration.
        threads: Of torch; None leaves them as they are.
    """

    config: TrainConfig
    words: tuple[str, ...]
    hash: str
    threads: int | None = None


@dataclass(frozen=True)
class Result:
    """How a point ended.

    Attributes:
        state: done, diverged, failed, interrupted, or elsewhere: another process has it.
        folder: Its run folder; None if it failed before it had one.
        error: What went wrong, or which job has it, in one line.
        seconds: Spent on it now; 0 for one that was there.
    """

    state: str
    folder: str | None
    error: str | None = None
    seconds: float = 0.0


Ended = Iterator[tuple[int, Result]]  # the place of each task, and its result


def run_point(task: Task) -> Result:
    """Bring one point to its end, and return how it ended; raises nothing that a run may raise.

    Two processes never work on one point: each holds the point's lock while it looks for its
    folder, begins it and runs it.
    """
    output = Path(task.config.output)
    with claimed(output, task.hash) as is_ours:
        found = Runs(output).of(task.hash)
        if found is not None and found.state in OUTCOMES:
            return result_of(found)
        if not is_ours or (found is not None and found.state == ELSEWHERE):
            return Result(ELSEWHERE, str(found.path) if found else None)
        began = time.perf_counter()
        error = _carry_out(task, found)
        return _judge(task, error, time.perf_counter() - began)


@contextlib.contextmanager
def claimed(output: Path, name: str) -> Iterator[bool]:
    """Hold a lock of the sweeps into `output` within the block; yield False if another has it."""
    folder = output / OWN_FOLDER / name
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FolderLock(folder)
    except RunFolderError:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def holder_of(output: Path, name: str) -> int | None:
    """Return the process of this machine that has a lock of `claimed` now, or None."""
    folder = output / OWN_FOLDER / name
    if not is_held(folder):
        return None
    words = (folder / ".lock").read_text(encoding="utf-8", errors="replace").split()
    is_here = len(words) == 4 and words[1].isdigit() and words[3] == socket.gethostname()
    return int(words[1]) if is_here else None


def result_of(found: Found) -> Result:
    """Return the result that a run which is there stands for."""
    return Result(found.state, str(found.path), found.error)


def result_of_dead(task: Task, state: str, error: str) -> Result:
    """Return the result of a task whose process said nothing of it: by its folder, if it has one.

    Args:
        task: That was begun.
        state: Of a run that has no outcome.
        error: What became of its process.
    """
    found = Runs(task.config.output).of(task.hash)
    if found is not None and found.state in OUTCOMES:
        return result_of(found)
    return Result(state, None if found is None else str(found.path), error)


def _carry_out(task: Task, found: Found | None) -> BaseException | None:
    """Begin or resume a run, its lines kept off the terminal; return what ended it early."""
    # Imported late: planning a sweep needs no torch.
    import torch

    from dpexp.train import run

    if task.threads is not None:
        torch.set_num_threads(task.threads)
    lines = io.StringIO()
    try:
        with contextlib.redirect_stdout(lines), contextlib.redirect_stderr(lines):
            if found is not None and (found.state == STOPPED or found.has_checkpoint):
                _patiently(found.path, lambda path: run.resume(path, _changes(task.config)))
            else:
                run.run(task.config, command=["dpexp", "train", *task.words])
    except KeyboardInterrupt as error:
        return error
    except Exception as error:  # noqa: BLE001  one point's failure, whatever it is, stops no other
        return error
    finally:
        _keep(task, lines.getvalue())
    return None


def _patiently(path: Path, resume: Callable[[Path], object]) -> None:
    """Resume a run, once more if all that hindered it was somebody looking at its lock."""
    for is_last in (False, False, True):
        try:
            resume(path)
            return
        except RunFolderError as error:
            if is_last or " is in use by " not in str(error) or is_held(path):
                raise


def _changes(config: TrainConfig) -> dict[str, object]:
    """Return what may differ between two halves of a run: where it runs."""
    free: dict[str, object] = {"device": config.device}
    return free if config.micro_batch is None else free | {"micro_batch": config.micro_batch}


def _judge(task: Task, error: BaseException | None, seconds: float) -> Result:
    """Return how a point ended, by its folder and by what was raised."""
    found = Runs(task.config.output).of(task.hash)
    folder = str(found.path) if found else None
    if error is None:
        assert found is not None
        return Result(found.state, folder, found.error, seconds)
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    if isinstance(error, KeyboardInterrupt):
        return Result(INTERRUPTED, folder, None, seconds)
    if found is not None and found.state in (DIVERGED, ELSEWHERE):
        return Result(found.state, folder, found.error, seconds)
    if not isinstance(error, DpexpError):
        line = f"{type(error).__name__}: {line}"
    return Result(FAILED, folder, line, seconds)


def _keep(task: Task, text: str) -> None:
    """Add to the run's log what it printed and did not log itself."""
    found = Runs(task.config.output).of(task.hash)
    if found is None:
        return
    folder = RunFolder(found.path, None)
    with contextlib.suppress(OSError, DpexpError):
        log = found.path / "train.log"
        logged = log.read_text(encoding="utf-8") if log.exists() else ""
        for line in dict.fromkeys(filter(str.strip, text.splitlines())):
            if line not in logged:
                folder.log(line)
