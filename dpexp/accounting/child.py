"""The child process of `isolation`: one task from standard input, one answer to standard output."""

import json
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from dpexp.accounting import bounds, budget, calibrate, prv
from dpexp.accounting.isolation import MEMORY_LIMIT_GIB
from dpexp.errors import AccountingError


def answer(task: str, arguments: dict[str, Any]) -> Any:
    """Return the result of a task, made of dicts, lists and numbers."""
    if task == "bounds":
        return asdict(bounds.evaluate(**arguments, prv_bound=prv.epsilon))
    if task == "calibrate":
        return asdict(calibrate.search(**arguments, prv_bound=prv.epsilon))
    if task == "other_rows":
        return [asdict(row) for row in budget.other_rows(**arguments, prv_bound=prv.epsilon)]
    raise AccountingError(f"no accounting task is called {task!r}")


def main() -> None:
    """Answer the one task, within the memory limit."""
    with suppress(ImportError, ValueError, OSError):  # not every platform can limit it
        import resource

        limit = MEMORY_LIMIT_GIB * 2**30
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    task, arguments = json.load(sys.stdin)
    try:
        reply = {"result": answer(task, arguments)}
    except AccountingError as error:
        reply = {"error": str(error)}
    sys.stdout.write(json.dumps(reply))


if __name__ == "__main__":
    main()
