"""Results of accounting on disk: calibrating takes seconds, and the same few numbers recur.

One JSON file a result, under $XDG_CACHE_HOME/dpexp or ~/.cache/dpexp. Its name is a hash of every
input and of the versions that could change the result. A cache that cannot be read or written is
as good as none: it is never an error.
"""

import functools
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

SCHEMA = 2  # raise it when the same inputs should give another result, or another form of it
PACKAGES = ("dp-accounting", "prv-accountant", "numpy", "scipy")

T = TypeVar("T")


def cached(
    name: str,
    inputs: Mapping[str, float | str | None],
    compute: Callable[[], T],
    decode: Callable[[dict[str, Any]], T],
    is_final: Callable[[T], bool] = lambda _: True,
) -> T:
    """Return the stored result of these inputs, else compute and store it.

    Args:
        name: The computation, first part of the file name.
        inputs: Everything the result depends on, apart from package versions.
        compute: Returns a dataclass; infinite floats in it survive, NaN must not occur.
        decode: Builds that dataclass from its `asdict`; a KeyError, TypeError or ValueError is a
            corrupt file, hence a miss.
        is_final: False for a result that another try may better (a timeout); it is not stored.
    """
    key = _key(name, inputs)
    path = folder() / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    with suppress(OSError, KeyError, TypeError, ValueError, AttributeError):
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["key"] == key:
            return decode(_map_floats(stored["result"], _from_json))
    result = compute()
    if is_final(result):
        form = {"key": key, "result": _map_floats(asdict(result), _to_json)}  # type: ignore[call-overload]
        with suppress(OSError):
            write(path, json.dumps(form, allow_nan=False, indent=1))
    return result


def folder(room: str = "accounting") -> Path:
    """Return the folder of a room's results; it may not exist."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    # Without a home directory "~" stays as it is; the file then lands nowhere, which is allowed.
    with suppress(RuntimeError):
        return Path(root).expanduser() / "dpexp" / room
    return Path(os.devnull) / "dpexp"


def _key(name: str, inputs: Mapping[str, float | str | None]) -> str:
    plain = {key: _to_json(value) for key, value in inputs.items()}
    versions = {package: _version(package) for package in PACKAGES}
    return json.dumps([name, SCHEMA, plain, versions], sort_keys=True, allow_nan=False)


@functools.cache  # a millisecond each, and a process asks for them again and again
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write(path: Path, text: str) -> None:
    """Write a file in one piece or not at all, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def _map_floats(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _map_floats(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_floats(item, change) for item in value]
    return change(value)


def _to_json(value: Any) -> Any:
    return "inf" if isinstance(value, float) and math.isinf(value) else value


def _from_json(value: Any) -> Any:
    return math.inf if value == "inf" else value
