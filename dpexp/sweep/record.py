"""sweep.json: what became of each point, one entry a point, whoever ran it."""

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpexp.errors import RunFolderError
from dpexp.record.strict_json import read_json, write_json
from dpexp.sweep.existing import STOPPED, found_in
from dpexp.sweep.point import Point
from dpexp.sweep.work import FAILED, Result, claimed

NAME = "sweep.json"
TO_DO = "to do"
_WAIT_SECONDS, _TRIES = 0.05, 600


def write_results(output: Path, results: Mapping[Point, Result | None]) -> None:
    """Write the entries of some points into sweep.json, and keep those of other sweeps there.

    Args:
        output: The folder of the sweep.
        results: None for a point that is to do.

    Raises:
        RunFolderError: If the file is damaged or cannot be written, or another sweep has it for
            half a minute.
    """
    for _ in range(_TRIES):
        with claimed(output, "record") as is_ours:
            if is_ours:
                entries = {entry["hash"]: entry for entry in read_entries(output)}
                entries |= {point.hash: _entry(point, res) for point, res in results.items()}
                write_json(output / NAME, {"points": list(entries.values())})
                return
        time.sleep(_WAIT_SECONDS)
    raise RunFolderError(
        f"{output / NAME} is being written by another sweep for half a minute, so what became of a "
        f"point cannot be recorded; stop that process, and give the same command again"
    )


def read_entries(output: Path) -> list[dict[str, Any]]:
    """Return the entries of sweep.json; none where there is no such file.

    Raises:
        RunFolderError: If it is damaged.
    """
    path = output / NAME
    if not path.exists():
        return []
    entries = read_json(path).get("points")
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and "hash" in entry for entry in entries
    ):
        raise RunFolderError(
            f"{path} holds no list of points, so it was not written by dpexp sweep; move it away "
            f"(the runs themselves are found without it)"
        )
    return entries


def retry_command(point: Point, result: Result, options: str = "") -> str:
    """Return the command that tries a point again by itself.

    Args:
        point: That failed.
        result: How.
        options: Words to add to a new run, such as --config-dir.
    """
    if result.folder is not None and result.state == FAILED and _can_go_on(Path(result.folder)):
        return f"dpexp train resume={shlex.quote(result.folder)}"
    return shlex.join(["dpexp", "train", *point.words]) + options


def _can_go_on(folder: Path) -> bool:
    found = found_in(folder)
    return found is not None and (found.state == STOPPED or found.has_checkpoint)


def _entry(point: Point, result: Result | None) -> dict[str, Any]:
    folder = result.folder if result else None
    return {
        "hash": point.hash,
        "overrides": list(point.words),
        "state": result.state if result else TO_DO,
        "folder": Path(folder).name if folder else None,
        "error": result.error if result else None,
        "seconds": result.seconds if result else None,
    }
