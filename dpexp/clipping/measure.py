"""Times every way of a problem on the tensors at hand; remembers it on disk, machine by machine."""

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import torch

from dpexp.accounting.cache import folder, write
from dpexp.clipping.plan import KEPT, Costs, Problem, Way, counted
from dpexp.clipping.rules.convolution_outer import ConvolutionOuter
from dpexp.clipping.rules.outer import Outer

SCHEMA = 3
# A way that takes this many times the multiply-adds of the best is not tried.
HOPELESS = 6
# Multiply-adds of a batch below which overhead, not arithmetic, would be measured.
WORTH_MEASURING = 5_000_000
REPETITIONS = 3
LONG_SECONDS = 0.05


def measured(product: Outer | ConvolutionOuter, workspace: int) -> Costs:
    """Return the seconds a sample that each way of a product takes.

    Args:
        product: Its tensors are those of the batch at hand.
        workspace: Numbers that one norm may hold at once.
    """
    problem, like = product.problem, product.grad_y
    guess = counted(problem, workspace)
    if _work(problem) * product.num_samples < WORTH_MEASURING or not problem.has_choice:
        return guess
    key = f"{SCHEMA} {problem.key} {workspace} {like.dtype} {machine(like.device)}"
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    path = folder("plans") / f"{name}.json"
    with suppress(OSError, KeyError, TypeError, ValueError):
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["key"] == key:
            return Costs(stored["norms"], stored["sums"], stored["kept"])
    costs = _measure(product, guess, workspace)
    with suppress(OSError):
        write(path, json.dumps({"key": key, **costs._asdict()}, indent=1))
    return costs


def _work(problem: Problem) -> int:
    """Return the multiply-adds of ordinary training's weighted sum, a sample."""
    return problem.sums[0][1]


@cache
def machine(device: torch.device) -> str:
    """Return what times depend on: hardware, threads and torch."""
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        with suppress(OSError, IndexError):
            lines = Path("/proc/cpuinfo").read_text().splitlines()
            name = next(line for line in lines if line.startswith("model name")).split(":")[1]
    return f"{name.strip()} {os.cpu_count()} {torch.get_num_threads()} {torch.__version__}"


def _measure(product: Outer | ConvolutionOuter, guess: Costs, workspace: int) -> Costs:
    problem, n, like = product.problem, product.num_samples, product.grad_y
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    weights = torch.ones(n, dtype=dtype, device=like.device)
    first = problem.sums[0][0]

    def seconds(work: Callable[[str], object], name: str) -> float:
        return _seconds(partial(work, name), like.device) / n

    def norm(name: str) -> object:
        return product.by(Way(name, first)).squared_norms(workspace)

    def total(name: str) -> object:
        return product.by(Way(norms[0], name)).weighted_sum(weights)

    def both(name: str) -> object:
        kept = product.by(Way(name, KEPT)).compact()
        return kept, kept.squared_norms(workspace), kept.weighted_sum(weights)

    norms = _hopeful(guess.norms)
    sums = _hopeful({name: float(count) for name, count in problem.sums})
    apart = guess.apart()[0]
    kept = [name for name, cost in guess.kept.items() if cost < apart]
    return Costs(
        {name: seconds(norm, name) for name in norms},
        {name: seconds(total, name) for name in sums},
        {name: seconds(both, name) for name in kept},
    )


def _hopeful(costs: dict[str, float]) -> list[str]:
    best = min(costs.values())
    return [name for name, cost in costs.items() if cost <= HOPELESS * best]


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the least time of a few runs, after one to warm up; one run alone if it is long.

    What the runs give is held meanwhile, as in a step: memory used again would be in the cache.
    """
    held = [work()]
    found = _once(work, device, held)
    if found > LONG_SECONDS:
        return found
    return min(_once(work, device, held) for _ in range(REPETITIONS))


def _once(work: Callable[[], object], device: torch.device, held: list) -> float:
    # One thread's own time is not disturbed by other processes; several threads' adds up.
    clock = time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif torch.get_num_threads() == 1:
        clock = time.process_time
    start = clock()
    held.append(work())
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start
