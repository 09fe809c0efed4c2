"""Peak memory of work whose allocations are known."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from dpexp.memory import peak_live_bytes

CPU = torch.device("cpu")
MIB = 2**20


def test_peak_of_a_known_allocation():
    assert peak_live_bytes(lambda: torch.zeros(8 * MIB // 4), CPU) == pytest.approx(
        8 * MIB, rel=0.01
    )


def test_what_is_freed_before_does_not_count_but_what_lives_at_once_does():
    def work():
        torch.zeros(6 * MIB, dtype=torch.uint8)  # freed at once
        one = torch.zeros(4 * MIB, dtype=torch.uint8)
        other = torch.zeros(4 * MIB, dtype=torch.uint8)
        return one, other

    assert peak_live_bytes(work, CPU) == pytest.approx(8 * MIB, rel=0.01)


def test_temporaries_count_and_what_was_there_before_does_not():
    held = torch.zeros(16 * MIB, dtype=torch.uint8)
    # The sum of two temporaries is a third, alive together with both.
    peak = peak_live_bytes(lambda: (held[: 4 * MIB] + 1) + (held[: 4 * MIB] + 2), CPU)
    assert peak == pytest.approx(12 * MIB, rel=0.01)


def test_nothing_is_written_about_it(capfd):
    peak_live_bytes(lambda: torch.zeros(10), CPU)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_kept_memory_is_not_fetched_anew():
    script = """
import resource, sys, torch
from dpexp.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def step():
    held = []
    for number in range(20):
        held.append(torch.ones(2**20 + 2**10 * number))  # 4 MiB and a little more
    held.clear()
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

    def faults(word: str) -> int:
        words = [sys.executable, "-c", script, word]
        # Every block of a MiB or more is mapped anew, unless the process says otherwise.
        env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(MIB)}
        done = subprocess.run(words, capture_output=True, check=True, text=True, env=env)
        return int(done.stdout)

    assert faults("kept") < 2000  # of 3 * 20,000 pages
    assert faults("given back") > 50_000
