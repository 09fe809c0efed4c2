"""Run accounting in a child process that can neither hang its parent nor fill the memory.

prv-accountant is unmaintained, and known to loop or to ask for hundreds of GiB on odd inputs. The
child runs a whole task, so that only one process pays for importing SciPy.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from dpexp.errors import AccountingError

TIME_LIMIT_SECONDS = 120.0
# Of each process; no more than two run side by side, and together they stay below 2 GiB.
MEMORY_LIMIT_MIB = 960
COMMAND = (sys.executable, "-P", "-W", "ignore", "-m", "dpexp.accounting.child")

# How numerical code gives up. Not Exception: an interrupt or a missing package is no failure of it.
FAILURES = (
    ArithmeticError,
    AssertionError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


class ChildLostError(AccountingError):
    """The child process was stopped, died, or could not start: another time it may work."""


def run_in_child(
    task: str,
    arguments: dict[str, Any],
    seconds: float = TIME_LIMIT_SECONDS,
    command: tuple[str, ...] = COMMAND,
) -> Any:
    """Return what `dpexp.accounting.child` makes of a task, as JSON.

    Raises:
        ChildLostError: If the child ran past the limits, died, or could not start.
        AccountingError: If the task itself has no answer; says why.
    """
    try:
        done = subprocess.run(
            command,
            input=json.dumps([task, arguments]),
            capture_output=True,
            text=True,
            timeout=seconds,
            env=_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ChildLostError(f"its process was stopped after {seconds:g} s") from None
    except OSError as error:
        raise ChildLostError(f"its process could not start: {error}") from None
    if done.returncode != 0:
        last = done.stderr.strip().rpartition("\n")[2]
        raise ChildLostError(f"its process died with code {done.returncode}: {last}")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise AccountingError(answer["error"])
    return answer["result"]


def _environment() -> dict[str, str]:
    package_parent = str(Path(__file__).parents[2])
    paths = [package_parent, *filter(None, [os.environ.get("PYTHONPATH")])]
    # One thread: the transforms are serial, and thread pools would count as address space.
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **one_thread, "PYTHONPATH": os.pathsep.join(paths)}
