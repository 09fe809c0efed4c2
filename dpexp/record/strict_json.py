"""Strict JSON, written so that a reader sees the old file or the new one, never half of either.

JSON has neither NaN nor infinity, and a file with them cannot be read by most other programs. NaN
becomes null; an infinity becomes the string "inf" or "-inf", which `float` reads back.
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dpexp.errors import RunFolderError

SCHEMA = 1  # of every JSON document in a run folder; raised when a key changes its meaning


def to_strict(value: Any, place: str = "value") -> Any:
    """Return `value` as plain dicts, lists, strings, numbers, booleans and None.

    Dataclasses become dicts; NumPy and torch arrays become lists, their scalars numbers.

    Args:
        value: What to convert.
        place: What `value` is called in an error.

    Raises:
        RunFolderError: If a part has no JSON form, by its place.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _strict_float(float(value))
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_strict(part, f"{place}.{key}") for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_strict(part, f"{place}[{i}]") for i, part in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return to_strict(parts, place)
    if callable(getattr(value, "tolist", None)):
        return to_strict(value.tolist(), place)
    raise RunFolderError(
        f"{place} is a {type(value).__name__}, which has no form in JSON, so it cannot be "
        f"recorded; pass numbers, text, lists or dicts"
    )


def to_text(value: Any, *, indent: int | None = None) -> str:
    """Return `value` as strict JSON."""
    return json.dumps(to_strict(value), allow_nan=False, indent=indent, ensure_ascii=False)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write `document` with its schema version, in one move, and have it on the disk on return.

    Raises:
        RunFolderError: If a part has no JSON form, or the file cannot be written.
    """
    write_text(path, to_text({"schema": SCHEMA, **document}, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Return the document at `path`.

    Raises:
        RunFolderError: If it cannot be read, or is not one JSON object.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(
            f"{path} cannot be read ({_reason(error)}), so this is not a run folder or a damaged "
            f"one; name a folder that dpexp train made"
        ) from error
    if not isinstance(document, dict):
        raise RunFolderError(f"{path} holds no JSON object, so it was not written by dpexp")
    return document


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` by `text`, in one move, and have it on the disk on return.

    Raises:
        RunFolderError: If the file cannot be written; then the old one is as it was.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        try:
            with unfinished.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
            sync_folder(path.parent)
        finally:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` on the disk: a rename alone may be lost with the power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure of the file system into one line that says what to do.

    Raises:
        RunFolderError: If the block raises an OSError.
    """
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be written ({_reason(error)}), so the run would leave no complete "
            f"record; make room there, or choose another place with output=<folder>"
        ) from error


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


def _strict_float(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value
