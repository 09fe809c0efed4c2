"""`dpexp bench plan`: which way each product of a model is taken, and what each way costs."""

from collections.abc import Mapping
from typing import Any

from dpexp.bench.clock import clock_of
from dpexp.bench.document import aligned, name_of, save, say, setting_of
from dpexp.bench.operations import weight_operations
from dpexp.bench.request import Request
from dpexp.bench.subject import Subject, prepare
from dpexp.clipping.measure import WORTH_MEASURING
from dpexp.clipping.plan import KEPT

HEADER = ("use", "T", "D", "p", "norm", "sum", "ms a sample", "numbers held")


def run(request: Request) -> None:
    """Print the plan of one model, a use a row, and what every way was measured to cost.

    Raises:
        ModelError: If the model cannot be built.
        RunFolderError: If the result cannot be written.
    """
    clipping = request.config.clipping
    ((algorithm, style),) = request.rows([clipping.algorithm])[:1]
    subject = prepare(request.config)
    say(f"{subject.title}; {algorithm} {style}, plan {clipping.plan}, on {subject.device}")
    # On one thread, as steps are timed: how many there are is part of what was measured.
    with clock_of(subject.device), subject.clipped_step(algorithm, style) as (step, engine):
        step()
        plan = engine.plan_rows(is_full=True)
        if engine.backward_passes == 2:
            # Nothing is held: the sum is the ordinary gradient of weighted losses.
            plan = [{**row, "sum": "second pass", "numbers_held": 0} for row in plan]
        rows = [describe(row, subject.batch) for row in plan]
        say_plan(rows, subject)
        content = {"setting": setting_of(subject) | {"algorithm": algorithm, "style": style}}
        path = save(
            request, "plan", name_of("plan", subject), {**content, "rows": rows, **total(rows)}
        )
    if path:
        say(f"written   {path}")


def describe(row: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """Return a row of the plan, with what its way costs.

    Adds `chosen_seconds` a sample, None where costs did not decide, and `basis`: whether costs were
    measured, counted (products too small for a clock, or without a choice), or not asked.
    """
    costs = row["seconds"]
    if costs is None:
        return {**row, "chosen_seconds": None, "basis": "rule"}
    is_kept = row["sum"] == KEPT
    chosen = (
        costs["kept"].get(row["norm"])
        if is_kept
        else _both(costs["norms"].get(row["norm"]), costs["sums"].get(row["sum"]))
    )
    has_choice = row["positions"] > 1 or len(costs["sums"]) > 1
    is_large = weight_operations([row]) * batch >= WORTH_MEASURING
    basis = "measured" if has_choice and is_large else "counted"
    return {**row, "chosen_seconds": chosen, "basis": basis}


def _both(norm: float | None, total: float | None) -> float | None:
    return None if norm is None or total is None else norm + total


def total(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the sums over all uses: numbers held a sample, seconds a sample, and of what basis."""
    known = [row["chosen_seconds"] for row in rows if row["chosen_seconds"] is not None]
    return {
        "numbers_held": sum(row["numbers_held"] for row in rows),
        "chosen_seconds": sum(known) if known else None,
        "num_kept": sum(row["sum"] == KEPT for row in rows),
        "num_measured": sum(row["basis"] == "measured" for row in rows),
        "num_uses": len(rows),
    }


def say_plan(rows: list[dict[str, Any]], subject: Subject) -> None:
    """Print a line a use, what each way of each problem costs, and the sums."""
    cells = [_cells(row) for row in rows]
    sums = total(rows)
    last = ["total", "", "", "", "", f"{sums['num_kept']} kept", _ms(sums["chosen_seconds"])]
    for line in aligned(HEADER, [*cells, [*last, f"{sums['numbers_held']:,}"]]):
        say(line)
    say()
    say("ms a sample of each way; its sum, or norm and sum together where the gradient is kept;")
    say("~ from multiply-adds, of products too small for a clock or without a choice; > chosen")
    for problem, row in {row["problem"]: row for row in reversed(rows)}.items():
        say(f"  {problem}: {_ways(row)}")


def _cells(row: Mapping[str, Any]) -> list[str]:
    sizes = [str(row[key]) for key in ("positions", "inputs", "outputs")]
    ways = [row["norm"], row["sum"]]
    time = _ms(row["chosen_seconds"], row["basis"])
    return [_short(row["use"]), *sizes, *ways, time, f"{row['numbers_held']:,}"]


def _short(use: str) -> str:
    """Return the first parameter's name of a use's label, which lists all of them."""
    return use.split(",")[0].split(" in ")[0]


def _ms(seconds: float | None, basis: str = "measured") -> str:
    return "-" if seconds is None else f"{'~' * (basis == 'counted')}{1000 * seconds:.3f}"


def _ways(row: Mapping[str, Any]) -> str:
    if row["seconds"] is None:
        return f"{row['norm']}, by the rule of the algorithm"
    parts = []
    for group, word in (("norms", "norm"), ("sums", "sum"), ("kept", "kept")):
        for name, seconds in row["seconds"][group].items():
            mark = ">" * _is_chosen(row, group, name)
            parts.append(f"{mark}{word} {name} {_ms(seconds, row['basis'])}")
    return ", ".join(parts)


def _is_chosen(row: Mapping[str, Any], group: str, name: str) -> bool:
    is_kept = row["sum"] == KEPT
    if group == "sums":
        return name == row["sum"]
    return name == row["norm"] and (group == "kept") == is_kept
