"""Memory: what a piece of work holds at its peak, and what becomes of what it frees."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.profiler import ProfilerActivity, profile

# Of glibc's mallopt, in <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # bytes; where glibc's own, dynamic threshold ends too


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, as the steps of training want it again.

    glibc gives large blocks back to the system at once, and fetching them anew costs a page fault
    for each page. Does nothing where the C library is another.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_M_TRIM_THRESHOLD, -1)  # never
    # Larger blocks are mapped and given back as before: kept, they would break the heap to pieces.
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)


@contextmanager
def _quiet() -> Iterator[None]:
    """Send the profiler's own messages, written past Python to standard error, nowhere."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


def peak_live_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Return by how much live tensor bytes rise above their start while `work` runs.

    On the CPU the allocator's own records are added up, so kernels' temporaries count too; on CUDA
    it is the allocator's statistic.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    assert recorded.profiler is not None
    assert recorded.profiler.kineto_results is not None
    live = peak = 0
    records = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    for record in sorted(records, key=lambda e: e.start_ns()):
        live += record.nbytes()
        peak = max(peak, live)
    return peak
