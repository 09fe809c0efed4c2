"""Times of two pieces of work side by side, so that what slows the machine slows both alike."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from dpexp.bench.subject import Work

# Work -> the seconds that it took.
Clock = Callable[[Work], float]


@contextmanager
def clock_of(device: torch.device) -> Iterator[Clock]:
    """Yield what measures seconds on a device.

    On the CPU it is the process's own time on one thread, which other processes hardly disturb
    (several threads' own times would add up); torch's number of threads is restored afterwards.
    On CUDA it is time on the wall from an idle device to an idle device.
    """
    if device.type == "cuda":

        def on_the_wall(work: Work) -> float:
            torch.cuda.synchronize(device)
            start = time.perf_counter()
            work()
            torch.cuda.synchronize(device)
            return time.perf_counter() - start

        yield on_the_wall
        return

    def of_the_process(work: Work) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield of_the_process
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Pairs:
    """Seconds of two pieces of work that took turns.

    Attributes:
        base: Of the one that is compared with, one number a round.
        other: Of the one that is compared, likewise.
    """

    base: tuple[float, ...]
    other: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Other over base in each round, in ascending order."""
        return sorted(b / a for a, b in zip(self.base, self.other, strict=True))

    @property
    def ratio(self) -> float:
        """The median ratio."""
        return statistics.median(self.ratios)


def in_pairs(base: Work, other: Work, rounds: int, clock: Clock) -> Pairs:
    """Time two pieces of work, which are warm, in turns; every second round begins with `other`."""
    times: list[tuple[float, float]] = []
    for index in range(rounds):
        if index % 2:
            second, first = clock(other), clock(base)
        else:
            first, second = clock(base), clock(other)
        times.append((first, second))
    return Pairs(tuple(a for a, _ in times), tuple(b for _, b in times))


def in_rounds(
    works: Mapping[str, Work], rounds: int, clock: Clock, most_seconds: float
) -> dict[str, Sequence[float]]:
    """Time many pieces of work in turns; return the seconds of each, one number a round.

    A first round warms up and is not counted, unless it is the only one.

    Args:
        works: By name.
        rounds: At most this many count.
        clock: What measures.
        most_seconds: No round is begun after this long.
    """
    found: list[dict[str, float]] = []
    while not found or (len(found) <= rounds and _total(found) < most_seconds):
        found.append({name: clock(work) for name, work in works.items()})
    counted = found[1:] or found
    return {name: [times[name] for times in counted] for name in works}


def _total(found: Sequence[Mapping[str, float]]) -> float:
    return sum(sum(times.values()) for times in found)
