"""Run what a plan has left, and write down what became of every point."""

from collections.abc import Mapping, Sequence

from dpexp.record.strict_json import writing
from dpexp.sweep.existing import OUTCOMES, Runs
from dpexp.sweep.launchers import Launcher
from dpexp.sweep.plan import Plan
from dpexp.sweep.point import Point
from dpexp.sweep.record import retry_command, write_results
from dpexp.sweep.table import Row, choose, row_of, write_tables
from dpexp.sweep.view import say, showing, summary_lines
from dpexp.sweep.work import ELSEWHERE, FAILED, Result, Task, result_of

Results = dict[Point, Result | None]


def run_plan(plan: Plan, launcher: Launcher, options: str = "") -> list[Row]:
    """Run every point of a plan that has no outcome; return one row a point.

    Failures are recorded and listed, and stop nothing.

    Args:
        plan: Its points checked.
        launcher: Who runs them.
        options: Words that a retry command needs beside the overrides, such as --config-dir.

    Raises:
        KeyboardInterrupt: If it was stopped; the same command goes on.
        RunFolderError: If the record cannot be written.
    """
    results = _there(plan)
    with writing(plan.output):
        plan.output.mkdir(parents=True, exist_ok=True)
    write_results(plan.output, results)
    todo = plan.todo
    tasks = [Task(point.config, point.words, point.hash) for point in todo]
    try:
        with showing(plan.output, results, len(todo)) as view:
            for place, result in launcher(tasks):
                point = todo[place]
                results[point] = result
                write_results(plan.output, {point: result})
                view.ended(point, result)
    except KeyboardInterrupt as error:
        for line in ("stopped   the same command goes on", *error.args):
            say(line)
        raise
    finally:
        rows = _conclude(plan, results, options)
    return rows


def _there(plan: Plan) -> Results:
    """Return the outcomes that there are already."""
    found = {point: plan.found.get(point.hash) for point in plan.points}
    return {
        p: result_of(run) if run and run.state in OUTCOMES else None for p, run in found.items()
    }


def _conclude(plan: Plan, results: Results, options: str) -> list[Row]:
    """Write the tables, and say what is done, what failed and what was chosen."""
    _look_again(plan, results)
    rows = [row_of(point, results[point]) for point in plan.points]
    files = write_tables(plan.output, rows)
    say(f"points    {summary_lines(list(results.values()))}")
    for line in failure_lines(results, options):
        say(line)
    num_elsewhere = sum(row.state == ELSEWHERE for row in rows)
    if num_elsewhere:
        say(
            f"elsewhere {num_elsewhere} left to the process that runs them; the same command takes "
            f"them up once they have ended"
        )
    say(f"choice    {choose(rows)[1]}")
    say(f"tables    {', '.join(str(path) for path in files)}")
    return rows


def _look_again(plan: Plan, results: Results) -> None:
    """Take up the outcomes of points that another process had, where it has ended them."""
    runs = Runs(plan.output)
    changed: Results = {}
    for point, result in results.items():
        if result is not None and result.state == ELSEWHERE:
            found = runs.of(point.hash)
            if found is not None and found.state in OUTCOMES:
                changed[point] = result_of(found)
    if changed:
        results |= changed
        write_results(plan.output, changed)


def failure_lines(results: Mapping[Point, Result | None], options: str = "") -> Sequence[str]:
    """Return two lines a point that failed: why, and what tries it again."""
    return [
        line
        for point, result in results.items()
        if result is not None and result.state == FAILED
        for line in (
            f"failed    {point.name}: {result.error}",
            f"          {retry_command(point, result, options)}",
        )
    ]
