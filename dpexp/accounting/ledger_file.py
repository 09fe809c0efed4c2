"""The file of a ledger: lines that are on the disk when `append` returns, each with a digest."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dpexp.errors import LedgerError


class LedgerFile:
    """An append-only file of JSON objects.

    Attributes:
        entries: All lines, in order, each with its `digest`.
    """

    def __init__(self, path: Path) -> None:
        """Read `path`, if it is there, and cut off a last line that was never finished.

        Such a line was being written when the process died: `append` had not returned, so nothing
        was done that it would have accounted for.

        Raises:
            LedgerError: If a finished line is damaged, or the file cannot be read or cut.
        """
        self._path = path
        self._handle: int | None = None
        with _naming(path, "read"):
            content = path.read_bytes() if path.exists() else b""
            finished = content.rfind(b"\n") + 1
            if finished < len(content):
                os.truncate(path, finished)
            self._length = finished
        self.entries = _parse(path, content[:finished])

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add a line, and have it on the disk on return.

        Raises:
            LedgerError: If it cannot be written; the line is then not, or not wholly, there.
        """
        complete = {**entry, "digest": _digest(self._last_digest(), entry)}
        line = json.dumps(complete, allow_nan=False).encode() + b"\n"
        with _naming(self._path, "written"):
            if self._handle is None:
                self._handle = _open(self._path)
            self._length = _write_whole(self._handle, line, self._length)
        self.entries.append(complete)

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _last_digest(self) -> str:
        return self.entries[-1]["digest"] if self.entries else ""


def read_entries(path: Path) -> list[dict[str, Any]]:
    """Return the finished lines of a ledger that may belong to a running process.

    Raises:
        LedgerError: If it is damaged or cannot be read.
    """
    with _naming(path, "read"):
        content = path.read_bytes()
    return _parse(path, content[: content.rfind(b"\n") + 1])


def _parse(path: Path, content: bytes) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    digest = ""
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            entry = json.loads(line)
            digest = _digest(digest, {k: v for k, v in entry.items() if k != "digest"})
            is_right = entry["digest"] == digest
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            is_right = False
        if not is_right:
            raise LedgerError(
                f"{path}, line {number} does not agree with its digest: the file was damaged or "
                f"edited, so epsilon is not known; restore it, or start a new run"
            )
        entries.append(entry)
    return entries


def _digest(previous: str, entry: Mapping[str, Any]) -> str:
    text = previous + json.dumps(entry, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _open(path: Path) -> int:
    """Open for appending; a new file's name is on the disk, too."""
    is_new = not path.exists()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    if is_new:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return handle


def _write_whole(handle: int, line: bytes, length: int) -> int:
    """Write a line and have it on the disk, or leave the file as it was; return its length then.

    Args:
        handle: Of the file.
        line: What is appended.
        length: Of the file, as this process left it.
    """
    if os.fstat(handle).st_size != length:
        raise OSError("another process has written to it")
    try:
        if os.write(handle, line) != len(line):
            raise OSError("no space left for the whole line")
        _sync(handle)
    except OSError:
        with suppress(OSError):
            os.ftruncate(handle, length)
        raise
    return length + len(line)


def _sync(handle: int) -> None:
    # On macOS fsync leaves the data in the drive's own cache.
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is None:
        os.fsync(handle)
    else:
        fcntl.fcntl(handle, full)


@contextmanager
def _naming(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LedgerError(
            f"{path} cannot be {what} ({(error.strerror or str(error)).lower()}), and a step that "
            f"is not charged may not be taken; make room or give permission, then go on with "
            f"dpexp train resume={path.parent}"
        ) from error
