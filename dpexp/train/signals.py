"""Ctrl-C and SIGTERM, heard within a block."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def heard_by(heed: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call `heed` at Ctrl-C and SIGTERM within the block; what heard them before does so after.

    Outside of the main thread signals cannot be heard, and the block runs without.
    """
    try:
        old = {number: signal.signal(number, heed) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread
        old = {}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
