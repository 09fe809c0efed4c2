"""The page of the coverage table, from its rows; see `architectures.py`."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]
TITLES = {
    "paper": "Named by the authors of paper B as trainable with their engine",
    "timm": "Every other family of timm, its smallest member",
    "torchvision": "torchvision's families, their smallest members",
}
# What the message of a refusal does not say of the network.
REASONS = {
    "csatv2": "its one-channel attention multiplies (n, positions) by (positions, n): over the "
    "batch. What it attends to is the output of a normalisation over one channel, alike for all "
    "samples, so nothing moves; but a sample's gradient runs through the others' rows, where it "
    "cannot be told apart.",
}
VERDICTS = ("exact", "refused", "silently wrong", "failed", "not built", "over limit")


def page(rows: list[Row], missing: list[str]) -> str:
    """Return the page in Markdown.

    Args:
        rows: In the order they are to be shown in.
        missing: Names that are on the list and have no row yet.
    """
    lines = ["# Every architecture, all parameters trainable, against a loop over samples", ""]
    lines += [*_summary(rows), *_missing(missing), "", *_method(rows), "", *_exceptions(rows)]
    for group, title in TITLES.items():
        lines += ["", f"## {title}", "", *_table([row for row in rows if row["group"] == group])]
    lines += ["", *_notes(rows), "", "Made by `scripts/architectures.py` from the rows in `rows/`."]
    return "\n".join(lines) + "\n"


def _summary(rows: list[Row]) -> list[str]:
    lines = ["| group | networks | " + " | ".join(VERDICTS) + " | accepted |"]
    lines.append("|---" * (len(VERDICTS) + 3) + "|")
    for group in (*TITLES, None):
        chosen = [row for row in rows if group in (None, row["group"])]
        counts = Counter(row["verdict"] for row in chosen)
        # A network that nobody could run here says nothing about the engine.
        judged = [row for row in chosen if row["verdict"] not in ("not built", "over limit")]
        share = counts["exact"] / len(judged) if judged else 0.0
        cells = [str(counts[verdict]) for verdict in VERDICTS]
        name = group or "**all**"
        lines.append(f"| {name} | {len(chosen)} | {' | '.join(cells)} | {share:.1%} |")
    return lines


def _missing(missing: list[str]) -> list[str]:
    return ["", f"Not run yet: {len(missing)} ({', '.join(missing)})."] if missing else []


def _method(rows: list[Row]) -> list[str]:
    exact = [row for row in rows if row["verdict"] == "exact"]
    with_ghost = sum("mixed_ghost" in row["algorithms"] for row in exact)
    parameters = sum(row["parameters"] for row in exact)
    versions = sorted({f"torch {r['versions']['torch']}, timm {r['versions']['timm']}, "
                       f"torchvision {r['versions']['torchvision']}" for r in rows})  # fmt: skip
    engines = Counter(row["engine"] for row in rows)
    return [
        "Float64, three samples at the smallest input that leaves no gradient next to zero, every "
        "parameter random, dropout and stochastic depth off, BatchNorm replaced by GroupNorm, R at "
        "the median norm. The error is the largest of any norm and of any parameter's clipped sum, "
        "relative to its own reference (to the whole gradient times 1e-6 where it is smaller than "
        "that); at most 1e-9 is exact.",
        "",
        f"Algorithm `auto` on all, `mixed_ghost` too on {with_ghost} below 60 million parameters; "
        f"{parameters:,} parameters in {len(exact)} exact networks, largest error "
        f"{max((row['error'] for row in exact), default=0):.1e}, "
        f"{sum(row.get('seconds') or 0 for row in rows) / 60:.0f} minutes of one thread.",
        "",
        "Accepted is the share of those that ran; over limit is more than 14 GiB or 15 minutes.",
        "",
        f"Command: `python scripts/architectures.py` ({'; '.join(versions)}; engine, by the hash "
        f"of its source: {', '.join(f'{e} ({n})' for e, n in engines.most_common())}).",
    ]  # fmt: skip


def _exceptions(rows: list[Row]) -> list[str]:
    """Return what was not exact, each with its reason."""
    others = [row for row in rows if row["verdict"] != "exact"]
    if not others:
        return ["Nothing was refused, and nothing failed."]
    lines = ["## What is not exact, and why", ""]
    lines += ["| network | verdict | another sample's loss moves | message |", "|---|---|---|---|"]
    for row in others:
        moves = {True: "yes", False: "no", None: ""}[row.get("moves_another")]
        message = (row.get("message") or "").splitlines()[0] if row.get("message") else ""
        if row["verdict"] == "silently wrong":
            message = f"error {row['error']:.1e} at {_worst(row)}"
        lines.append(f"| {row['name']} | {row['verdict']} | {moves} | {message[:400]} |")
    notes = [f"* {row['name']}: {REASONS[row['name']]}" for row in others if row["name"] in REASONS]
    return [*lines, *([""] if notes else []), *notes]


def _worst(row: Row) -> str:
    each = row["algorithms"].values()
    return max(each, key=lambda a: (a["gradient"] != a["gradient"], a["gradient"]))["worst"]


def _table(rows: Iterable[Row]) -> list[str]:
    lines = ["| network | parameters | input | verdict | largest error | next to zero | seconds |"]
    lines.append("|---" * 7 + "|")
    for row in rows:
        size = "x".join(str(n) for n in row["input"] or ())
        count = f"{row['parameters']:,}" if row["parameters"] else ""
        error = "" if row["error"] is None else f"{row['error']:.1e}"
        tiny = f"{len(row['negligible'])} of {row['tensors']}" if row.get("negligible") else ""
        seconds = f"{row['seconds']:.0f}" if row.get("seconds") is not None else ""
        cells = (row["name"], count, size, row["verdict"], error, tiny, seconds)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _notes(rows: list[Row]) -> list[str]:
    tiny = [row for row in rows if row.get("negligible")]
    lines = ["## Gradients next to zero", ""]
    lines.append(
        "Parameters whose reference gradient is below 1e-3 of the median parameter's, entry by "
        "entry; larger inputs do not help there. Such are the bias of an attention's keys (the "
        "softmax cancels it), a bias before a normalisation, and what multiplies a signal that is "
        "small. They are compared all the same."
    )
    lines.append("")
    for row in tiny:
        names = ", ".join(f"`{name}`" for name in row["negligible"][:3])
        more = len(row["negligible"]) - 3
        lines.append(f"* {row['name']}: {names}{f' and {more} more' if more > 0 else ''}")
    return lines
