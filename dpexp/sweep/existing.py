"""Which of the wanted runs there are already, whoever made them: a folder is known by its hash."""

import errno
import fcntl
import itertools
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpexp.config import TrainConfig
from dpexp.errors import RunFolderError
from dpexp.record.config_hash import config_hash
from dpexp.record.folder import RunFolder
from dpexp.schema import from_dict, to_dict

DONE, DIVERGED, ELSEWHERE, STOPPED, FAILED = "done", "diverged", "elsewhere", "stopped", "failed"
OUTCOMES = (DONE, DIVERGED)

# Of several folders of one run, the first of these states is the one that counts.
_RANKS = (DONE, DIVERGED, ELSEWHERE, STOPPED, FAILED)


@dataclass(frozen=True)
class Found:
    """A run that there is.

    Attributes:
        path: Its folder.
        state: done, diverged, failed; elsewhere: another process has it now; stopped: interrupted
            or killed, and can be resumed.
        step: Steps that are in its checkpoint.
        steps: K; None if it did not get so far as to say.
        error: What ended it, if anything did.
    """

    path: Path
    state: str
    step: int
    steps: int | None
    error: str | None

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is anything to go on from."""
        return RunFolder(self.path, None).state_checkpoint.is_file()


class Runs:
    """The run folders below an output folder.

    A configuration is read once, as it never changes; a state is read each time.

    Attributes:
        unreadable: Folders of runs whose configuration is damaged or of another schema.
    """

    def __init__(self, output: str | Path) -> None:
        self._output = Path(output)
        self._seen: set[str] = set()
        self._folders: dict[str, list[Path]] = {}
        self.unreadable: list[Path] = []

    def of(self, digits: str) -> Found | None:
        """Return the run of this configuration hash that counts, or None if there is none."""
        self._look()
        found = [found_in(path) for path in self._folders.get(digits, [])]
        known = [run for run in found if run is not None]
        # The sort keeps the order of names, and so of time: the oldest of equals.
        return min(known, key=lambda run: _RANKS.index(run.state), default=None)

    def _look(self) -> None:
        if not self._output.is_dir():
            return
        for path in sorted(self._output.iterdir()):
            # Written first and last as a run begins: one without is not there yet, or never was.
            if path.name in self._seen or not (path / "status.json").is_file():
                continue
            self._seen.add(path.name)
            hashes = set(hashes_of(path))
            if not hashes:
                self.unreadable.append(path)
            for digits in hashes:
                self._folders.setdefault(digits, []).append(path)


def hashes_of(path: Path) -> Iterator[str]:
    """Yield the hashes of all configurations that a run folder may have been asked for with.

    Its config.yaml holds the mean and standard deviation of the images' normalisation: where the
    command gave none they are what the model brings, and the run was asked for without them.
    Keys that were added to the schema later take their defaults, as they do when it is resumed.
    """
    folder = RunFolder(path, None)
    try:
        values = folder.read_config()
        config, wrong = from_dict(TrainConfig, values)
    except (RunFolderError, TypeError, AttributeError):
        return
    if wrong:
        return
    given = _keys_of_command(folder)
    complete = to_dict(config)
    names = [name for name in ("mean", "std") if f"dataset.{name}" not in given]
    for left_out in itertools.product((False, True), repeat=len(names)):
        absent = {name: None for name, is_out in zip(names, left_out, strict=True) if is_out}
        yield config_hash(complete | {"dataset": complete["dataset"] | absent})


def found_in(path: Path) -> Found | None:
    """Return what there is in a run folder; None if it is no run, or its state cannot be read."""
    folder = RunFolder(path, None)
    try:
        status = folder.read_status()
    except RunFolderError:
        return None
    state = {"running": STOPPED, "interrupted": STOPPED}.get(status["state"], status["state"])
    # An evaluation leaves a folder that is done too, but has spent nothing.
    if state == DONE and not (path / "privacy.json").is_file():
        return None
    if state not in OUTCOMES and is_held(path):
        state = ELSEWHERE
    return Found(path, state, int(status["step"]), status["steps"], status.get("error"))


def is_held(path: Path) -> bool:
    """Return whether a process has the lock of a folder."""
    try:
        lock = os.open(path / ".lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        # Shared, so that two who look do not hold each other for a third who writes.
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno == errno.EWOULDBLOCK
    finally:
        os.close(lock)
    return False


def _keys_of_command(folder: RunFolder) -> set[str]:
    """Return the keys that the command of a run gave; none where it is not known."""
    try:
        provenance: dict[str, Any] = folder.read_document("provenance.json")
        words = shlex.split(str(provenance.get("command", "")))
    except (RunFolderError, ValueError):
        return set()
    return {word.partition("=")[0] for word in words if not word.endswith("=null")}
