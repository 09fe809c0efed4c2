"""`dpexp report`: folders first, then where the report goes."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpexp.cli.overrides import raw, sort_words
from dpexp.errors import ConfigError

if TYPE_CHECKING:
    from dpexp.report.report import Request

KEYS: dict[str, Any] = {"output": str}
SOURCE = Path("outputs")  # where runs go unless told otherwise


def run(words: Sequence[str]) -> int:
    """Report on the folders that the words name and return 0, whatever the verdicts.

    Raises:
        ConfigError: If a word is wrong; one line a problem, all of them at once.
        RunFolderError: If the output cannot be written.
    """
    request = read(words)
    from dpexp.report import report

    report.run(request)
    return 0


def read(words: Sequence[str]) -> "Request":
    """Return what is asked for.

    Without an output, a folder of kept runs is its own, and anything else goes into outputs/report
    and is not kept.

    Raises:
        ConfigError: If a word is wrong, or there is nothing at a path; all problems at once.
    """
    places = list(takewhile(lambda word: "=" not in word and not word.startswith("-"), words))
    asked = sort_words(words[len(places) :], keys=KEYS, groups={}, command="report")
    paths = [Path(place) for place in places] or [SOURCE]
    problems = list(asked.problems)
    if not places and not SOURCE.is_dir():
        problems.append(
            "report: no folder is named and there is no outputs/ here, so there are no runs to "
            "report on; write dpexp report <folders>"
        )
    problems += [
        f"{path}: no such folder or file, so there are no runs to report on; give run folders, "
        f"folders of them, or a folder of results"
        for path in paths
        if places and not path.exists()
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    from dpexp.report.report import KEPT, Request

    given = raw(asked.values, KEYS).get("output")
    is_kept = len(paths) == 1 and (paths[0] / KEPT).is_dir()
    output = Path(given) if given else paths[0] if is_kept else SOURCE / "report"
    if given and (output / KEPT).is_dir() and output not in paths:
        paths.append(output)  # what was kept there before belongs to the report
    command = ["dpexp", "report", *words]
    return Request(
        paths=paths,
        output=output,
        keeps_runs=bool(given) or is_kept,
        command=f"dpexp report {_portable(output)}" if is_kept or given else " ".join(command),
    )


def _portable(output: Path) -> Path:
    """Return a folder as it is named from here, without what lies above."""
    path, here = output.absolute(), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else Path(path.name)
