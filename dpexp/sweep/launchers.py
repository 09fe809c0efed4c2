"""Who runs the points: this process, processes beside it (joblib), or a cluster (submitit).

A launcher takes tasks and yields the place of each and its result as they end. It yields one for
every task that was begun, also where a process died, and raises KeyboardInterrupt once what was
interrupted has been yielded.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from dpexp.errors import ConfigError
from dpexp.sweep.work import FAILED, INTERRUPTED, OWN_FOLDER, Result, Task, holder_of, run_point

Name = Literal["inprocess", "joblib", "submitit", "submitit_local"]
Ended = Iterator[tuple[int, Result]]
Launcher = Callable[[Sequence[Task]], Ended]

_DIED = "its process died without a word, as one does that is out of memory or was killed"
_POLL_SECONDS = 0.5
_LONGEST_LOCAL_MINUTES = 60 * 24 * 30
_PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Settings:
    """How a sweep is run.

    Attributes:
        launcher: Who runs the points.
        jobs: How many at once; None: one, and on a cluster all.
        parameters: For submitit, as its AutoExecutor names them.
    """

    launcher: Name = "inprocess"
    jobs: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def at_once(self) -> int | None:
        """How many points run at a time; None if the cluster decides."""
        return self.jobs or (None if self.launcher == "submitit" else 1)


def launcher_of(settings: Settings, output: Path) -> Launcher:
    """Return the launcher that was asked for, its package loaded and its parameters checked.

    Raises:
        ConfigError: If its package is not installed, or it has no such parameter.
    """
    if settings.launcher == "inprocess":
        return in_this_process
    if settings.launcher == "joblib":
        _demand("joblib", settings.launcher)
        return lambda tasks: by_joblib(tasks, settings.jobs or 1)
    _demand("submitit", settings.launcher)
    executor = _executor(settings, output / OWN_FOLDER / "submitit")
    return lambda tasks: by_submitit(tasks, settings, executor)


def in_this_process(tasks: Sequence[Task]) -> Ended:
    """Run one point after another."""
    for place, task in enumerate(tasks):
        result = run_point(task)
        yield place, result
        if result.state == INTERRUPTED:
            raise KeyboardInterrupt


def by_joblib(tasks: Sequence[Task], jobs: int) -> Ended:
    """Run points in `jobs` fresh processes, one thread each.

    A process that dies takes the others of its pool with it, and nobody says which it was: what was
    under way is then gone on with alone, each in a pool of its own, and the one that dies again is
    the one that failed.
    """
    left = dict(enumerate(tasks))
    with _stop_requests(lambda: _pass_on(tasks)) as stop:
        while left and not stop:
            begun: list[int] = []
            yield from _until_broken(left, jobs, begun, stop)
            for place in [place for place in begun if place in left]:
                if stop:
                    break
                yield from _until_broken({place: left[place]}, 1, [], stop)
                if place in left and not stop:
                    yield place, Result(FAILED, None, _DIED)
                left.pop(place, None)
    if stop:
        raise KeyboardInterrupt


def _until_broken(
    left: dict[int, Task], jobs: int, begun: list[int], stop: Sequence[object]
) -> Ended:
    """Run what is left in one pool until it is done or a process of it dies.

    Args:
        left: Place -> task; those that end are taken out.
        jobs: Processes.
        begun: Filled with the places that were handed to a process.
        stop: Nothing more is begun once it holds anything.
    """
    import joblib
    from joblib.externals.loky import get_reusable_executor
    from joblib.externals.loky.process_executor import BrokenProcessPool

    def calls() -> Iterator[Any]:
        for place, task in list(left.items()):
            if stop:
                return
            begun.append(place)
            yield joblib.delayed(_run_placed)(place, replace(task, threads=1))

    # Two at least: with one, joblib would run the tasks in this process.
    width = max(2, jobs)
    try:
        with joblib.parallel_config("loky", n_jobs=width, inner_max_num_threads=1):
            pool = joblib.Parallel(return_as="generator_unordered", pre_dispatch=jobs, batch_size=1)
            for place, result in pool(calls()):
                left.pop(place, None)
                yield place, result
    except BrokenProcessPool:
        return
    finally:
        get_reusable_executor().shutdown(wait=True, kill_workers=bool(left))


def _run_placed(place: int, task: Task) -> tuple[int, Result]:
    return place, run_point(task)


def by_submitit(tasks: Sequence[Task], settings: Settings, executor: Any) -> Ended:
    """Run each point as a job; on a cluster `jobs` bounds an array, here a number of processes."""
    threads = int(settings.parameters.get("cpus_per_task", 1))
    waiting = [(place, replace(task, threads=threads)) for place, task in enumerate(tasks)]
    running: dict[int, Any] = {}
    is_local = settings.launcher == "submitit_local"
    try:
        while waiting or running:
            room = (settings.at_once or len(waiting)) - len(running) if is_local else len(waiting)
            now, waiting = waiting[:room], waiting[room:]
            running |= _submit(now, executor)
            for place, job in list(running.items()):
                if job.done():
                    del running[place]
                    yield place, _result_of_job(job)
            time.sleep(_POLL_SECONDS if running else 0)
    except KeyboardInterrupt:
        if is_local:
            for place, job in _stopped(running):
                yield place, _result_of_job(job, INTERRUPTED)
        raise


def _submit(placed: Sequence[tuple[int, Task]], executor: Any) -> dict[int, Any]:
    """Submit all at once, as one array where the cluster has arrays."""
    if not placed:
        return {}
    jobs = executor.map_array(run_point, [task for _, task in placed])
    return {place: job for (place, _), job in zip(placed, jobs, strict=True)}


def _stopped(running: Mapping[int, Any]) -> list[tuple[int, Any]]:
    """Ask local jobs to end their step, wait for them, and return them."""
    for job in running.values():
        with suppress(ProcessLookupError):
            os.kill(int(job.job_id), signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while any(not job.done() for job in running.values()) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return list(running.items())


def _result_of_job(job: Any, state: str = FAILED) -> Result:
    """Return what a job returned; if it returned nothing, how it failed and where its log is."""
    try:
        result: Result = job.result()
    except Exception as error:  # noqa: BLE001  whatever a cluster does to a job, the others go on
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Result(state, None, f"{_DIED} ({lines[0]}); its log is {job.paths.stderr}")
    return result


def _executor(settings: Settings, logs: Path) -> Any:
    import submitit

    parameters = dict(settings.parameters)
    if settings.launcher == "submitit_local":
        parameters.setdefault("timeout_min", _LONGEST_LOCAL_MINUTES)
    elif not {"timeout_min", "slurm_time"} & set(parameters):
        raise ConfigError(
            "submitit.timeout_min is missing: SLURM ends a job after that time, and submitit would "
            "ask for 5 minutes; write submitit.timeout_min=<minutes of one run>"
        )
    if settings.launcher == "submitit" and settings.jobs:
        parameters["slurm_array_parallelism"] = settings.jobs
    try:
        cluster = "local" if settings.launcher == "submitit_local" else "slurm"
        executor = submitit.AutoExecutor(folder=logs, cluster=cluster)
        executor.update_parameters(**parameters)
    except (NameError, AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"launcher={settings.launcher}: {' '.join(str(error).split())}; see submitit.* of "
            f"dpexp sweep --help"
        ) from error
    return executor


def _demand(package: str, launcher: str) -> None:
    """Check that an optional package is there.

    Raises:
        ConfigError: If it is not.
    """
    try:
        __import__(package)
    except ImportError as error:
        raise ConfigError(
            f"launcher={launcher}: the package {package} is not installed, and it starts the "
            f"processes; pip install 'dpexp[launchers]', or use launcher=inprocess"
        ) from error


@contextmanager
def _stop_requests(pass_on: Callable[[], None]) -> Iterator[list[int]]:
    """Yield a list that a first Ctrl-C or SIGTERM is put into; a second stops at once.

    On a terminal Ctrl-C reaches the processes as well, and each ends its step; SIGTERM does not.
    """
    heard: list[int] = []

    def heed(number: int, frame: object) -> None:
        if heard:
            raise KeyboardInterrupt
        heard.append(number)
        if number == signal.SIGTERM:
            pass_on()

    try:
        old = {number: signal.signal(number, heed) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread
        old = {}
    try:
        yield heard
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _pass_on(tasks: Sequence[Task]) -> None:
    """Ask the processes that hold points of ours to end their step."""
    for task in tasks:
        holder = holder_of(Path(task.config.output), task.hash)
        if holder is not None and holder != os.getpid():
            with suppress(OSError):
                os.kill(holder, signal.SIGTERM)
