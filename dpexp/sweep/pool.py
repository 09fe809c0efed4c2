"""Points in processes beside this one, by joblib; one that is killed loses no other point."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from dpexp.sweep.stopping import stop_holders, stop_requests
from dpexp.sweep.work import (
    DIED,
    FAILED,
    INTERRUPTED,
    Ended,
    Result,
    Task,
    result_of_dead,
    run_point,
)


def by_joblib(tasks: Sequence[Task], jobs: int) -> Ended:
    """Run points in `jobs` fresh processes, one thread each.

    A process that dies takes the others of its pool with it, and nobody says which it was: what was
    under way is then gone on with alone, each in a pool of its own, and the one that dies again is
    the one that failed.

    Raises:
        KeyboardInterrupt: If it was stopped.
    """
    left = dict(enumerate(tasks))
    with stop_requests(lambda: stop_holders(tasks)) as stop:
        while left and not stop:
            begun: list[int] = []
            yield from _until_broken(left, jobs, begun, stop)
            for place in [place for place in begun if place in left]:
                if stop:
                    break
                alone = {place: left.pop(place)}
                yield from _until_broken(alone, 1, [], stop)
                if alone:
                    state = INTERRUPTED if stop else FAILED
                    yield place, result_of_dead(alone[place], state, DIED)
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
