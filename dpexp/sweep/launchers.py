"""Who runs the points: this process, processes beside it (joblib), or a cluster (submitit).

A launcher takes tasks and yields the place of each and its result as they end. It yields one for
every task that was begun, also where a process died, and raises KeyboardInterrupt once what was
interrupted has been yielded; its arguments are lines for people, on what goes on all the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dpexp.errors import ConfigError
from dpexp.sweep.cluster import by_submitit, executor_of
from dpexp.sweep.pool import by_joblib
from dpexp.sweep.work import INTERRUPTED, OWN_FOLDER, Ended, Task, run_point

Name = Literal["inprocess", "joblib", "submitit", "submitit_local"]
Launcher = Callable[[Sequence[Task]], Ended]


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

    @property
    def threads(self) -> int:
        """Of torch in a job of submitit: the CPUs that it asks for."""
        keys = ("cpus_per_task", *["slurm_cpus_per_task"] * (self.launcher == "submitit"))
        given = [self.parameters[key] for key in keys if isinstance(self.parameters.get(key), int)]
        return given[-1] if given else 1


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
    logs = output / OWN_FOLDER / "submitit"
    executor = executor_of(settings.launcher, settings.jobs, settings.parameters, logs)
    num_local = settings.at_once if settings.launcher == "submitit_local" else None
    return lambda tasks: by_submitit(tasks, executor, threads=settings.threads, num_local=num_local)


def in_this_process(tasks: Sequence[Task]) -> Ended:
    """Run one point after another."""
    for place, task in enumerate(tasks):
        result = run_point(task)
        yield place, result
        if result.state == INTERRUPTED:
            raise KeyboardInterrupt


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
