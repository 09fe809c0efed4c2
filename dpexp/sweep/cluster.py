"""Points as jobs of submitit: in the queue of a cluster, or processes of this machine.

Jobs of a cluster outlive the sweep that submitted them, and need it for nothing: each finds its
point by the hash of its configuration, and holds the point's lock while it runs.
"""

import os
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from dpexp.errors import ConfigError
from dpexp.sweep.stopping import stop_requests
from dpexp.sweep.work import (
    DIED,
    ELSEWHERE,
    FAILED,
    INTERRUPTED,
    Ended,
    Result,
    Task,
    result_of_dead,
    run_point,
)

_POLL_SECONDS = 0.5
_LONGEST_LOCAL_MINUTES = 60 * 24 * 30
_PATIENCE_SECONDS = 60
_HEADS = ("jobs      ", "          ", "          ")


def by_submitit(
    tasks: Sequence[Task], executor: Any, *, threads: int, num_local: int | None
) -> Ended:
    """Run each point as a job; a first Ctrl-C ends local jobs, and leaves those of a cluster.

    Args:
        tasks: One a job.
        executor: Of `executor_of`.
        threads: Of torch, in each job.
        num_local: Processes of this machine at once; None submits all to a cluster.

    Raises:
        ConfigError: If the cluster refuses the jobs.
        KeyboardInterrupt: If it was stopped; its arguments are lines on the jobs that go on.
    """
    placed = {place: replace(task, threads=threads) for place, task in enumerate(tasks)}
    waiting, running = list(placed), dict[int, Any]()
    is_local = num_local is not None
    with stop_requests(lambda: None) as stop:
        while (waiting or running) and not stop:
            room = len(waiting) if num_local is None else num_local - len(running)
            now, waiting = waiting[:room], waiting[room:]
            running |= _submit({place: placed[place] for place in now}, executor)
            for place in _ended(running):
                yield place, _result_of(running.pop(place), placed[place], FAILED)
            time.sleep(_POLL_SECONDS if running else 0)
        if not stop:
            return
        if is_local:
            _stop(running.values())
        for place in _ended(running):
            state = INTERRUPTED if is_local else FAILED
            yield place, _result_of(running.pop(place), placed[place], state)
        for place, job in running.items():
            yield place, Result(ELSEWHERE, None, f"left to job {job.job_id}, which goes on")
    raise KeyboardInterrupt(*_lines_on(running.values(), is_local=is_local))


def executor_of(launcher: str, jobs: int | None, parameters: Mapping[str, Any], logs: Path) -> Any:
    """Return submitit's executor with its parameters checked; on a cluster `jobs` bounds an array.

    Raises:
        ConfigError: If there is no such parameter, or no such cluster.
    """
    import submitit

    is_local = launcher == "submitit_local"
    parameters = dict(parameters)
    if is_local:
        parameters.setdefault("timeout_min", _LONGEST_LOCAL_MINUTES)
    elif not {"timeout_min", "slurm_time"} & set(parameters):
        raise ConfigError(
            "submitit.timeout_min is missing: SLURM ends a job after that time, and submitit would "
            "ask for 5 minutes; write submitit.timeout_min=<minutes of one run>"
        )
    if not is_local and jobs:
        parameters["slurm_array_parallelism"] = jobs
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster="local" if is_local else "slurm")
        executor.update_parameters(**parameters)
    except (NameError, AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"launcher={launcher}: {' '.join(str(error).split())}; see submitit.* of dpexp sweep "
            f"--help"
        ) from error
    return executor


def _submit(placed: Mapping[int, Task], executor: Any) -> dict[int, Any]:
    """Submit all at once, as one array where the cluster has arrays."""
    if not placed:
        return {}
    try:
        jobs = executor.map_array(run_point, list(placed.values()))
    except RuntimeError as error:
        raise ConfigError(
            f"the cluster refused {len(placed)} jobs ({' '.join(str(error).split())}), so none of "
            f"them was begun; mend the submitit.* words, and give the same command again"
        ) from error
    return dict(zip(placed, jobs, strict=True))


def _ended(running: Mapping[int, Any]) -> list[int]:
    return [place for place, job in running.items() if job.done()]


def _stop(jobs: Iterable[Any]) -> None:
    """Ask local jobs to end their step, and wait for them, a minute at most."""
    jobs = list(jobs)
    for job in jobs:
        with suppress(ProcessLookupError):
            os.kill(int(job.job_id), signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while any(not job.done() for job in jobs) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def _result_of(job: Any, task: Task, state: str) -> Result:
    """Return what a job returned; if it returned nothing, how it ended and where its log is."""
    try:
        result: Result = job.result()
    except Exception as error:  # noqa: BLE001  whatever a cluster does to a job, the others go on
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return result_of_dead(task, state, f"{DIED} ({lines[0]}); its log is {job.paths.stderr}")
    return result


def _lines_on(jobs: Iterable[Any], *, is_local: bool) -> list[str]:
    """Return lines on jobs that go on without the sweep, and what can be done about them."""
    names = [str(job.job_id) for job in jobs]
    if not names:
        return []
    # The jobs of an array share a number, and those of it that have ended are not shown or ended.
    numbers = list(dict.fromkeys(name.partition("_")[0] for name in names))
    if is_local:
        first = (
            f"{len(names)} did not end within {_PATIENCE_SECONDS} s and still run here: "
            f"ps -p {','.join(numbers)} shows them, kill {' '.join(numbers)} asks them once more"
        )
    else:
        first = (
            f"{len(names)} stay on the cluster, waiting or running: "
            f"squeue --jobs={','.join(numbers)} shows them, scancel {' '.join(numbers)} ends them"
        )
    lines = [first, "the same command takes up what they have finished, and runs none of it twice"]
    if not is_local:
        lines.append(
            "a job that has not begun is submitted again; the later of the two leaves the point, "
            "by the lock in the output folder"
        )
    return [f"{start}{line}" for start, line in zip(_HEADS, lines, strict=False)]
