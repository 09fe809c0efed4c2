"""A child process that runs prv-accountant, so that it can neither hang nor fill the memory.

The package is unmaintained, and known to loop or to ask for hundreds of GiB on odd inputs. One
job is one line of JSON in, one line out. Started early, the child imports SciPy while its parent
works on something else.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from dpexp.errors import AccountingError

TIME_LIMIT_SECONDS = 60.0
MEMORY_LIMIT_GIB = 4
COMMAND = (sys.executable, "-P", "-W", "ignore", "-m", "dpexp.accounting.worker")


class WorkerLostError(AccountingError):
    """The child process was stopped, died, or could not start: another time it may work."""


class PrvWorker:
    """A context manager around one child. Jobs are answered in the order they were submitted."""

    def __init__(
        self, seconds: float = TIME_LIMIT_SECONDS, command: tuple[str, ...] = COMMAND
    ) -> None:
        self._seconds = seconds
        self._command = command
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def __enter__(self) -> "PrvWorker":
        with suppress(OSError):  # a child that cannot start is reported with its first result
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=_environment(),
            )
            self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
            self._reader.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def submit(self, **arguments: float) -> None:
        """Queue a call of `prv.epsilon` with these arguments; returns at once."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):  # a dead child is reported with its next result
                self._process.stdin.write(json.dumps(arguments) + "\n")
                self._process.stdin.flush()

    def result(self) -> float:
        """Return the oldest result not yet taken.

        Raises:
            WorkerLostError: If the child ran past the limits, died, or never started.
            AccountingError: If prv-accountant itself failed; says how.
        """
        if self._process is None:
            raise WorkerLostError("its process is not running")
        try:
            line = self._lines.get(timeout=self._seconds)
        except queue.Empty:
            self._stop()
            raise WorkerLostError(f"stopped after {self._seconds:g} s") from None
        if not line:
            self._stop()
            raise WorkerLostError("its process died")
        answer = json.loads(line)
        if "error" in answer:
            raise AccountingError(answer["error"])
        return float(answer["epsilon"])

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _stop(self) -> None:
        if self._process is not None and self._reader is not None:
            self._process.kill()
            self._process.wait()
            self._reader.join()
            for pipe in (self._process.stdin, self._process.stdout):
                with suppress(OSError):  # a job that was never read is lost with the pipe
                    if pipe is not None:
                        pipe.close()
            self._process = None


def _environment() -> dict[str, str]:
    package_parent = str(Path(__file__).parents[2])
    paths = [package_parent, *filter(None, [os.environ.get("PYTHONPATH")])]
    # One thread: the transforms are serial, and thread pools would count as address space.
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **one_thread, "PYTHONPATH": os.pathsep.join(paths)}


def _limit_memory() -> None:
    with suppress(ImportError, ValueError, OSError):  # not every platform can
        import resource

        limit = MEMORY_LIMIT_GIB * 2**30
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _answer(arguments: dict[str, Any]) -> dict[str, Any]:
    from dpexp.accounting import prv

    try:
        return {"epsilon": prv.epsilon(**arguments)}
    except AccountingError as error:
        return {"error": str(error)}
    except (
        ArithmeticError, AssertionError, LookupError, MemoryError, RuntimeError, TypeError, ValueError
    ) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Answer jobs from standard input until it ends."""
    _limit_memory()
    import prv_accountant  # noqa: F401 - while the parent prepares the first job

    for line in sys.stdin:
        sys.stdout.write(json.dumps(_answer(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
