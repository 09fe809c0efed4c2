"""What a sweep shows while it runs: a table on a terminal, one line a finished point elsewhere."""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dpexp.errors import RunFolderError
from dpexp.record.folder import RunFolder
from dpexp.record.metrics_log import read_metrics
from dpexp.sweep.existing import hashes_of
from dpexp.sweep.point import Point
from dpexp.sweep.record import TO_DO
from dpexp.sweep.table import CHOOSES_BY, Row, number, row_of
from dpexp.sweep.work import OWN_FOLDER, Result

if TYPE_CHECKING:
    from rich.table import Table

_WATCHED = (*CHOOSES_BY, "test/accuracy", "test/r2")
_OTHER_LINES = 6  # of the table and around it
_HEADER = ("state", "step", "epsilon", "measure", "seconds")
_TICK_SECONDS = 0.02  # by which the time of a file may lag the clock: a tick of the kernel
RUNNING = "running"


class View(Protocol):
    """Told of each point that ends."""

    def ended(self, point: Point, result: Result) -> None: ...


def say(line: str = "") -> None:
    """Write a line to standard output, at once; a sweep does not end because its reader left."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # For good: the interpreter flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Lines:
    """One line a point that ended."""

    def __init__(self, total: int) -> None:
        self._total, self._ended = total, 0

    def ended(self, point: Point, result: Result) -> None:
        """Say how a point ended."""
        self._ended += 1
        say(
            f"{result.state:<11} {self._ended} of {self._total}  {point.name}"
            f"{_outcome(point, result)}"
        )


class LiveTable:
    """One line a point, drawn again as runs go on; what does not fit the screen is counted."""

    def __init__(self, output: Path, results: Mapping[Point, Result | None], height: int) -> None:
        self._output, self._height, self._began = output, height, time.time()
        self._rows = {point: row_of(point, result) for point, result in results.items()}
        self._seconds: dict[Point, float] = {}
        self._folders: dict[str, Path] = {}
        self._seen: set[Path] = set()

    def ended(self, point: Point, result: Result) -> None:
        """Take up how a point ended."""
        self._seconds[point] = result.seconds
        self._rows[point] = row_of(point, result)

    def __rich__(self) -> "Table":
        from rich.table import Table

        lines = [(row, *self._cells(row)) for row in list(self._rows.values())]
        states = Counter(cells[0] for _, *cells in lines)
        counts = ", ".join(f"{count} {state}" for state, count in states.items())
        table = Table(title=f"{len(lines)} points: {counts}", title_justify="left")
        labels = list(lines[0][0].point.labels) if lines else []
        for name in (*labels, *_HEADER):
            table.add_column(name, justify="left" if name == "state" else "right")
        for row, *cells in self._fitting(lines):
            table.add_row(*row.point.labels.values(), *cells)
        return table

    def _fitting(self, lines: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Return the lines that fit the screen, in order: those that run, that failed, the rest."""
        room = max(3, self._height - _OTHER_LINES)
        ranks = {RUNNING: 0, "failed": 1, "interrupted": 1, TO_DO: 3}
        order = sorted(range(len(lines)), key=lambda i: (ranks.get(lines[i][1], 2), -i))
        return [lines[i] for i in sorted(order[:room])]

    def _cells(self, row: Row) -> tuple[str, str, str, str, str]:
        if row.state == TO_DO and (begun := self._begun(row.point)):
            return begun
        measures = row.measures
        steps = f"{measures['steps']:.0f}" if "steps" in measures else ""
        watched = next((name for name in _WATCHED if name in measures), None)
        seconds = self._seconds.get(row.point) or measures.get("time/total_seconds")
        return (
            row.state,
            steps,
            number(measures.get("privacy/epsilon")),
            _named(watched, measures),
            "" if seconds is None else f"{seconds:.0f}",
        )

    def _begun(self, point: Point) -> tuple[str, str, str, str, str] | None:
        """Return the line of a point that some process took up since this sweep began."""
        try:
            since = (self._output / OWN_FOLDER / point.hash / ".lock").stat().st_mtime
        except OSError:
            return None
        # Looking at the time of the lock, not at the lock: to try it could hinder who takes it.
        if since < self._began - _TICK_SECONDS:
            return None
        seconds = f"{time.time() - since:.0f}"
        folder = self._folder_of(point)
        if folder is None:
            return RUNNING, "", "", "", seconds
        try:
            steps = RunFolder(folder, None).read_status()["steps"]
            path = folder / "metrics.jsonl"
            rows = read_metrics(path) if path.exists() else []
        except RunFolderError:
            return RUNNING, "", "", "", seconds
        last = rows[-1] if rows else {"step": 0}
        seen = [(n, r) for r in reversed(rows) for n in _WATCHED if r.get(n) is not None]
        name, at = seen[0] if seen else (None, {})
        epsilon = last.get("privacy/epsilon")
        return (
            RUNNING,
            f"{last['step']} of {steps if steps is not None else '?'}",
            number(float(epsilon) if epsilon is not None else None),
            _named(name, at),
            seconds,
        )

    def _folder_of(self, point: Point) -> Path | None:
        """Return the newest folder of a point; configurations are read once."""
        if not self._output.is_dir():
            return None
        for path in sorted(self._output.iterdir()):
            if path not in self._seen and (path / "status.json").is_file():
                self._seen.add(path)
                self._folders |= dict.fromkeys(hashes_of(path), path)
        return self._folders.get(point.hash)


@contextmanager
def showing(output: Path, results: Mapping[Point, Result | None], total: int) -> Iterator[View]:
    """Yield what shows the points as they end: a table on a terminal, lines elsewhere."""
    if not sys.stdout.isatty():
        yield Lines(total)
        return
    from rich.console import Console
    from rich.live import Live

    # The stream as it is now: while a point runs in this process, sys.stdout is its log.
    console = Console(file=sys.stdout)
    table = LiveTable(output, results, console.height)
    with Live(
        get_renderable=table.__rich__,
        console=console,
        refresh_per_second=1,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as live:
        yield table
        live.refresh()


def summary_lines(results: Sequence[Result | None]) -> str:
    """Return how many points are in which state."""
    states = Counter(result.state if result else TO_DO for result in results)
    return ", ".join(f"{count} {state}" for state, count in states.items())


def _outcome(point: Point, result: Result) -> str:
    row = row_of(point, result)
    parts = [f"{name} {number(row.measures[name])}" for name in _WATCHED if name in row.measures]
    if "privacy/epsilon" in row.measures:
        parts.append(f"epsilon {number(row.measures['privacy/epsilon'])}")
    if result.seconds:
        parts.append(f"{result.seconds:.1f} s")
    parts += [result.error] if result.error else []
    return ": " + ", ".join(parts) if parts else ""


def _named(name: str | None, measures: Mapping[str, Any]) -> str:
    return "" if name is None else f"{name} {number(measures.get(name))}"
