"""A sweep that is asked to stop: at first each run ends its step, the second time at once."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from dpexp.sweep.work import Task, holder_of
from dpexp.train.signals import heard_by


@contextmanager
def stop_requests(pass_on: Callable[[], None]) -> Iterator[list[int]]:
    """Yield a list that a first Ctrl-C or SIGTERM is put into; a second stops at once.

    On a terminal Ctrl-C reaches the processes as well, and each ends its step; SIGTERM does not.

    Args:
        pass_on: Called at SIGTERM.

    Raises:
        KeyboardInterrupt: At the second request.
    """
    heard: list[int] = []

    def heed(number: int, frame: object) -> None:
        if heard:
            raise KeyboardInterrupt
        heard.append(number)
        if number == signal.SIGTERM:
            pass_on()

    with heard_by(heed):
        yield heard


def stop_holders(tasks: Sequence[Task]) -> None:
    """Ask the processes of this machine that hold points of ours to end their step."""
    for task in tasks:
        holder = holder_of(Path(task.config.output), task.hash)
        if holder is not None and holder != os.getpid():
            with suppress(OSError):
                os.kill(holder, signal.SIGTERM)
