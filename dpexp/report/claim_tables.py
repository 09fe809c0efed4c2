"""Tables of claims and verdicts, as Markdown and as CSV."""

from collections.abc import Sequence

from dpexp.report.contents import Row
from dpexp.report.tables import as_csv, table

CLAIM_COLUMNS = ("claim", "what", "paper", "ours", "interval", "verdict", "on", "command")
INTERVALS = (
    "Intervals are 95 %, over seeds, each of one number: of A7 the least fall (times), of A8 a "
    "difference of ECE (a fraction), of A10 and A11 the difference that decides (points); of A12 "
    "that of the loss (nats) and of A14 that of ECE (points), one of several that decide; of A13 "
    "the mean rise (nats), while the smallest decides. They do not account for what another test "
    "set would have moved, nor for the choice of R and lr: the best of several on validation, from "
    "the same trained networks."
)


def claim_cells(row: Row) -> tuple[str, ...]:
    """Return one claim as text, a cell for each of `CLAIM_COLUMNS`."""
    verdict = row.verdict
    interval = "" if verdict.interval is None else "[{:.4g}, {:.4g}]".format(*verdict.interval)
    outcome = f"{verdict.outcome}: {verdict.reason}" if verdict.reason else verdict.outcome
    return (
        row.claim.name,
        row.claim.title,
        row.claim.paper,
        verdict.ours,
        interval,
        outcome,
        row.on,
        verdict.command,
    )


def claims_markdown(rows: Sequence[Row]) -> str:
    """Return claims.md: a row a claim, then what each needs to count as reproduced."""
    cells = [(*claim_cells(row)[:-1], code(row.verdict.command)) for row in rows]
    lines = [
        "# Claims of Bu et al. 2023, arXiv:2106.07830, and what was found",
        "",
        *table(CLAIM_COLUMNS, cells),
        "",
        INTERVALS,
        "",
        "## What each had to meet",
        "",
        *(f"* **{row.claim.name}**: {row.claim.criterion}." for row in rows),
        "",
    ]
    return "\n".join(lines)


def claims_csv(rows: Sequence[Row]) -> str:
    """Return claims.csv: a line a claim, and one more for each part of it."""
    lines = []
    for row in rows:
        lines.append(claim_cells(row))
        for on, verdict in row.parts:
            lines.append(claim_cells(Row(claim=row.claim, verdict=verdict, on=on)))
    return as_csv(CLAIM_COLUMNS, lines)


def code(command: str) -> str:
    """Return commands, parted by semicolons, each as code."""
    return "; ".join(f"`{part}`" for part in command.split("; ") if part)
