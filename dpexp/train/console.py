"""What a run shows: lines when piped; on a terminal also a bar with epsilon and time left."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dpexp.train.fit import Progress


def say(line: str = "") -> None:
    """Write a line to standard output, at once; a run does not end because its reader left."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # For good: the interpreter flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def progress_bar(first_step: int) -> Iterator[Progress]:
    """Yield what shows progress: a bar on a terminal, nothing elsewhere."""
    if not sys.stdout.isatty():
        yield lambda step, steps, epsilon, watched: None
        return
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = [
        TextColumn("step {task.completed:,.0f} of {task.total:,.0f}"),
        BarColumn(),
        TextColumn("epsilon {task.fields[epsilon]}  {task.fields[watched]}"),
        TimeRemainingColumn(),
    ]
    with Bar(*columns) as bar:
        fields: dict[str, Any] = {"epsilon": "0", "watched": ""}
        task = bar.add_task("", total=None, completed=first_step, **fields)

        def show(step: int, steps: int, epsilon: float, watched: str) -> None:
            bar.update(task, total=steps, completed=step, epsilon=f"{epsilon:.3f}", watched=watched)

        yield show
