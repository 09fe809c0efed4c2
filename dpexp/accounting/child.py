"""The child process of `isolation`: one task from standard input, one answer to standard output."""

import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from dpexp.accounting import bounds, budget, calibrate, prv
from dpexp.accounting.isolation import MEMORY_LIMIT_MIB, TIME_LIMIT_SECONDS
from dpexp.errors import AccountingError


def answer(task: str, arguments: dict[str, Any]) -> Any:
    """Return the result of a task, made of dicts, lists and numbers."""
    if task == "bounds":
        return asdict(bounds.evaluate(**arguments, prv_bound=prv.epsilon))
    if task == "calibrate":
        return asdict(calibrate.search(**arguments, prv_bound=prv.epsilon))
    if task == "other_rows":
        return [asdict(row) for row in budget.other_rows(**arguments, prv_bound=prv.epsilon)]
    if task == "budget":
        return _side_by_side(("calibrate", "other_rows"), arguments)
    raise AccountingError(f"no accounting task is called {task!r}")


def _side_by_side(tasks: tuple[str, str], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the answers of two tasks, by task; on Linux each has a core."""
    first, second = tasks
    if sys.platform != "linux":  # elsewhere a fork may not touch the numerical libraries
        return {task: answer(task, arguments) for task in tasks}
    # Imported before the fork, so that both have it for the price of one. The process is ours
    # alone and has a single thread, hence forking is safe.
    import prv_accountant  # noqa: F401

    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_limit) as pool:
        other = pool.submit(answer, second, arguments)
        return {first: answer(first, arguments), second: other.result()}


def _limit() -> None:
    """Limit the memory and the life of this process, where the platform can."""
    with suppress(ImportError, AttributeError, ValueError, OSError):
        import resource
        import signal

        # What is written to, not address space: libraries reserve far more than they ever touch.
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT_MIB * 2**20, hard))
        # Outlives a parent that was killed: nobody else would stop us then.
        signal.alarm(round(TIME_LIMIT_SECONDS) + 5)


def main() -> None:
    """Answer the one task, within the limits."""
    _limit()
    task, arguments = json.load(sys.stdin)
    try:
        reply = {"result": answer(task, arguments)}
    except AccountingError as error:
        reply = {"error": str(error)}
    sys.stdout.write(json.dumps(reply))


if __name__ == "__main__":
    main()
