"""The folder of one run: a unique place, one writer, and files that are whole at every moment."""

import traceback
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

from dpexp.errors import RunFolderError
from dpexp.record.config_hash import FREE_KEYS, changed_keys, config_hash
from dpexp.record.lock import FolderLock
from dpexp.record.metrics_log import MetricsLog, read_metrics, strict_metrics
from dpexp.record.provenance import describe_provenance, shorten_command, timestamp
from dpexp.record.strict_json import read_json, sync_folder, write_json, write_text, writing

State = Literal["running", "done", "failed", "interrupted", "diverged"]


class RunFolder:
    """One run on disk. Made by `create`, or by `open` for one that there is.

    Writing needs the folder's lock, which `create` and `open(..., write=True)` take and `close`
    gives back; as a context manager it closes itself.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path, lock: FolderLock | None) -> None:
        self.path = path
        self._lock = lock
        self._metrics: MetricsLog | None = None

    @classmethod
    def create(
        cls, output_root: str | Path, config: Mapping[str, Any], command: Sequence[str]
    ) -> Self:
        """Make a new folder under `output_root`, with configuration, command and provenance.

        Its name is date and time to the microsecond and the hash of `config`; a folder that there
        is already is never taken. The state is running, at step 0.

        Args:
            output_root: Where run folders go; made if need be.
            config: The resolved configuration as plain dicts, lists and numbers.
            command: The words of the command line, the program first.

        Raises:
            RunFolderError: If the folder cannot be written.
        """
        path = _make_unique(Path(output_root), config_hash(config))
        folder = cls(path, FolderLock(path))
        with writing(path):
            for name in ("checkpoints", "figures"):
                (path / name).mkdir()
        write_text(path / "config.yaml", _to_yaml(config))
        write_text(path / "command.txt", shorten_command(command) + "\n")
        provenance = describe_provenance(command)
        write_json(path / "provenance.json", provenance)
        status = {"state": "running", "step": 0, "steps": None, "started": provenance["started"]}
        folder.write_document("status.json", status | {"ended": None, "error": None})
        return folder

    @classmethod
    def open(cls, path: str | Path, *, write: bool = False) -> Self:
        """Return the folder of an earlier run, to read it or, with its lock, to go on with it.

        Raises:
            RunFolderError: If it is not a run folder, or `write` and another process has it.
        """
        path = Path(path)
        if not (path / "status.json").is_file():
            found = "has no status.json" if path.is_dir() else "is not a folder"
            raise RunFolderError(
                f"{path} {found}, so it is not a run's; name a folder that dpexp train made, such "
                f"as outputs/<date-time>-<hash>"
            )
        folder = cls(path, FolderLock(path) if write else None)
        if write:
            for unfinished in path.glob(".*.json.*"):  # of a process that was killed amid it
                unfinished.unlink(missing_ok=True)
        return folder

    @property
    def model_checkpoint(self) -> Path:
        """The model's state dict, in timm's names."""
        return self.path / "checkpoints" / "model.pt"

    @property
    def state_checkpoint(self) -> Path:
        """What else resuming needs: optimizer, step, position in the ledger."""
        return self.path / "checkpoints" / "state.pt"

    @property
    def ledger(self) -> Path:
        """The privacy ledger: which steps were charged."""
        return self.path / "ledger.jsonl"

    @property
    def reliability_figure(self) -> Path:
        """The reliability diagram."""
        return self.path / "figures" / "reliability.png"

    def read_config(self) -> dict[str, Any]:
        """Return what config.yaml holds.

        Raises:
            RunFolderError: If it cannot be read.
        """
        import yaml

        path = self.path / "config.yaml"
        try:
            return dict(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
            raise RunFolderError(
                f"{path} cannot be read as a configuration, so the run cannot be repeated or "
                f"resumed; restore the file"
            ) from error

    def check_same_run(
        self, config: Mapping[str, Any], old: Mapping[str, Any] | None = None
    ) -> None:
        """Check that `config` describes this run, but for keys that change nothing mathematical.

        Args:
            config: What the run would go on with.
            old: What config.yaml stands for, keys that it is older than at their defaults; None
                reads it as it is.

        Raises:
            RunFolderError: If another key differs; names each with both values.
        """
        changed = changed_keys(self.read_config() if old is None else old, config)
        if changed:
            raise RunFolderError(
                f"{', '.join(changed)} differ from {self.path / 'config.yaml'}: a run that goes on "
                f"with other values is another run, and its epsilon would be wrong; resume without "
                f"them (free to change: {', '.join(FREE_KEYS[:-1])}), or start a new run"
            )

    def read_status(self) -> dict[str, Any]:
        """Return what status.json holds.

        Raises:
            RunFolderError: If it is missing or damaged.
        """
        status = self.read_document("status.json")
        if not {"state", "step", "steps"} <= set(status) or status["state"] not in get_args(State):
            raise RunFolderError(
                f"{self.path / 'status.json'} does not say state, step and steps: it is damaged, "
                f"and where the run stopped is not known; restore the file, or start a new run"
            )
        return status

    def set_status(
        self,
        state: State,
        *,
        step: int | None = None,
        steps: int | None = None,
        error: str | None = None,
    ) -> None:
        """Write the state of the run; None leaves `step` and `steps` as they were.

        Raises:
            RunFolderError: If there is no such state, or the file cannot be written.
        """
        if state not in get_args(State):
            raise RunFolderError(f"state {state!r}: must be one of {', '.join(get_args(State))}")
        if self._metrics:
            self._metrics.sync()
        status = self.read_status()
        status["step"] = status["step"] if step is None else int(step)
        status["steps"] = status["steps"] if steps is None else int(steps)
        ended = None if state == "running" else timestamp()
        status |= {"state": state, "ended": ended, "error": error}
        self.write_document("status.json", status)

    def fail(self, error: BaseException, state: State = "failed") -> None:
        """Write error.txt with the traceback of `error`, and the state with its first line.

        Raises:
            RunFolderError: If a file cannot be written.
        """
        line = next(iter(str(error).splitlines()), "")
        # First, because it is small: the error may be that the disk is full.
        self.set_status(state, error=f"{type(error).__name__}: {line}")
        write_text(self.path / "error.txt", "".join(traceback.format_exception(error)))

    def resume_from(self, step: int, command: Sequence[str]) -> None:
        """Go on after `step`, that of the checkpoint: later metrics are dropped, state is running.

        Raises:
            RunFolderError: If the run is done, or a file cannot be read or written.
        """
        if self.read_status()["state"] == "done":
            raise RunFolderError(
                f"{self.path} is done, so there is nothing to go on with; start a new run"
            )
        self._log().rewind(step)
        (self.path / "error.txt").unlink(missing_ok=True)
        provenance = self.read_document("provenance.json")
        now = {"step": int(step), **describe_provenance(command)}
        provenance["resumed"] = [*(provenance.get("resumed") or []), now]
        self.write_document("provenance.json", provenance)
        path = self.path / "command.txt"
        earlier = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        write_text(path, earlier + shorten_command(command) + "\n")
        self.set_status("running", step=step)

    def log_metrics(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Append the one line of `step` to metrics.jsonl; what is not finite becomes null.

        Raises:
            RunFolderError: If the step has a line already, or the line cannot be written.
        """
        self._log().append(step, metrics)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl; none if nothing was logged."""
        path = self.path / "metrics.jsonl"
        return read_metrics(path) if path.exists() else []

    def log(self, message: str) -> None:
        """Append a line with the time to train.log.

        Raises:
            RunFolderError: If it cannot be written.
        """
        path = self.path / "train.log"
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(f"{timestamp()} {message}\n")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json; a measure that is not finite becomes null, as in metrics.jsonl."""
        self.write_document("summary.json", strict_metrics(summary))

    def write_document(self, name: str, document: Mapping[str, Any]) -> None:
        """Write a JSON document such as privacy.json, with its schema version, in one move.

        Raises:
            RunFolderError: If a part has no JSON form, or the file cannot be written.
        """
        write_json(self.path / name, {k: v for k, v in document.items() if k != "schema"})

    def read_document(self, name: str) -> dict[str, Any]:
        """Return a JSON document of the folder.

        Raises:
            RunFolderError: If it is missing or damaged.
        """
        return read_json(self.path / name)

    def close(self) -> None:
        """Let another process write to the folder."""
        if self._metrics:
            self._metrics.sync()
            self._metrics.close()
        if self._lock:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _log(self) -> MetricsLog:
        if self._metrics is None:
            self._metrics = MetricsLog(self.path / "metrics.jsonl")
        return self._metrics


def _make_unique(root: Path, digits: str) -> Path:
    """Make and return the folder `root`/<date-time>-<digits>, at a time that nobody else took."""
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        while True:
            path = root / f"{datetime.now().strftime('%Y%m%d-%H%M%S-%f')}-{digits}"
            try:
                path.mkdir()  # fails if it exists, and so decides between two processes
            except FileExistsError:
                continue
            sync_folder(root)
            return path


def _to_yaml(config: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
