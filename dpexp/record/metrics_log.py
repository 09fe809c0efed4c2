"""metrics.jsonl: one object a line, one line a step."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpexp.errors import RunFolderError
from dpexp.record.strict_json import to_strict, to_text, write_text, writing


class MetricsLog:
    """Appends to metrics.jsonl, in increasing steps, each line handed to the system at once."""

    def __init__(self, path: Path) -> None:
        """Go on after the last step that `path` holds, if it exists.

        Raises:
            RunFolderError: If a line before the last is not a JSON object with a step.
        """
        self._path = path
        self._file: int | None = None
        rows = read_metrics(path) if path.exists() else []
        self._last_step = rows[-1]["step"] if rows else -1

    def append(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Write one line: `step` and `metrics`.

        Raises:
            RunFolderError: If `step` is not above the last one, or the line cannot be written.
        """
        if step <= self._last_step:
            raise RunFolderError(
                f"metrics of step {step} after those of step {self._last_step}: a step has one "
                f"line in {self._path.name}, or a plot over steps would double back; log all "
                f"metrics of a step in one call"
            )
        line = to_text({"step": int(step), **strict_metrics(metrics)}) + "\n"
        with writing(self._path):
            if self._file is None:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
                self._file = os.open(self._path, flags, 0o644)
            _write_all(self._file, line.encode())
        self._last_step = step

    def rewind(self, step: int) -> None:
        """Drop every line past `step`, and a last line that was cut off, in one move.

        Raises:
            RunFolderError: If the file is damaged or cannot be written.
        """
        self.close()
        rows = read_metrics(self._path) if self._path.exists() else []
        kept = [row for row in rows if row["step"] <= step]
        write_text(self._path, "".join(to_text(row) + "\n" for row in kept))
        self._last_step = kept[-1]["step"] if kept else -1

    def sync(self) -> None:
        """Have every line on the disk."""
        if self._file is not None:
            with writing(self._path):
                os.fsync(self._file)

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl, without a last one that was cut off.

    Raises:
        RunFolderError: If the file cannot be read, or another line is not an object with a step.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be read ({error.strerror}), so the run has no record; name a folder "
            f"that dpexp train made"
        ) from error
    rows = []
    for number, line in enumerate(lines, start=1):
        row = _parse(line)
        if row is not None:
            rows.append(row)
        elif number < len(lines):
            raise RunFolderError(
                f"{path}, line {number} is not a JSON object with a step, so the record is "
                f"damaged; restore the file, or remove that line"
            )
    return rows


def strict_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return `metrics` in strict JSON: what is not finite is null, but for `privacy/*`.

    An epsilon can be infinite and mean it, so there infinity stays, as the string "inf". A loss
    that is infinite is one that could not be measured.
    """
    strict = {}
    for key, value in metrics.items():
        plain = to_strict(value, key)
        is_infinite = isinstance(plain, str) and math.isinf(_as_float(plain))
        strict[key] = None if is_infinite and not key.startswith("privacy/") else plain
    return strict


def _as_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
