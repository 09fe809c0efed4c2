"""Make results/accounting/README.md from the rows that scripts/accountants.py measured.

    python scripts/accountants_page.py

Every number comes from rows.csv and timing.csv beside the page.
"""

import csv
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accountants import KEYS, TARGET, grid, read_rows

from dpexp.accounting.bounds import MAX_DISAGREEMENT
from dpexp.accounting.pld import RELATIVE_ERROR
from dpexp.record.provenance import describe_provenance

MAX_EXCESS = 0.005  # of sigma over the smallest possible
MAX_PEAK_MIB = 2048
MAX_COLD_SECONDS, MAX_WARM_SECONDS = 5, 0.010
LEAST, MOST = 0.05, 20  # of the figure's ratios; what lies beyond is drawn at the edge
RDP_TOLERANCE = 10 * RELATIVE_ERROR  # what PLD's own grid may add to it

Row = dict[str, Any]


def page(rows: Sequence[Row], timing: Sequence[Row], made_by: dict[str, Any]) -> str:
    """Return the page in Markdown.

    Args:
        rows: As `accountants.read_rows` gives them.
        timing: The rows of timing.csv as numbers; may be empty.
        made_by: As `describe_provenance` gives it.
    """
    git, packages = made_by["git"], made_by["packages"]
    commit = git["commit"][:12] + " and changes" * git["dirty"] if git else "an unknown commit"
    of_grid = [row for row in rows if row["kind"] == "grid"]
    at_random = [row for row in rows if row["kind"] == "random"]
    lines = ["# The accountants on a grid of settings", "", *summary(of_grid, timing), ""]
    lines += ["![RDP and the central limit over PLD](looseness.png)", ""]
    beyond = sum(not LEAST <= row["gdp"] / row["fine"] <= MOST for row in of_grid if row["sigma"])
    lines += [
        "RDP is sound and asks for more noise than need be. The central limit of the papers lies "
        "below the true epsilon where it falls under 1; for large epsilons and few steps it is no "
        f"use in either direction: {beyond} of its values lie beyond the figure and are drawn at "
        "its edge.",
        "",
    ]
    lines += ["## Failures, caught", "", *failures(of_grid), ""]
    lines += ["## Random settings", "", *random_lines(at_random), ""]
    lines += [
        "## How it was judged",
        "",
        "Each setting is calibrated in a fresh process with an empty cache. `over the target` is "
        "judged by a PLD whose grid is four times finer, rounded up. `sigma over the smallest "
        "possible`: the smallest is where epsilon is the target, with two fine grids extrapolated "
        "to interval 0 (their error is quadratic). Rounding losses down, as a lower bound asks "
        "for, is of no use here: over many steps it loses the whole epsilon. So the proof, where "
        "there is one, is by the lower end of PRV's interval at sigma / 1.005. Memory is the "
        "largest resident set of the calibrating process; `dpexp budget` runs two of them at once.",
        "",
        f"Measured by `scripts/accountants.py`, whose rows are kept from commit to commit; page "
        f"made by `scripts/accountants_page.py` at {commit}, dp-accounting "
        f"{packages['dp-accounting']}, prv-accountant {packages['prv-accountant']}, "
        f"{made_by['cpu']}, one thread, beside other work. The numbers are in [rows.csv](rows.csv) "
        f"and [timing.csv](timing.csv).",
    ]
    return "\n".join(lines) + "\n"


def summary(rows: Sequence[Row], timing: Sequence[Row]) -> list[str]:
    """Return the table of pass lines, each with what was found."""
    found = [row for row in rows if row["sigma"] is not None]
    both = [row for row in found if row["prv"] is not None and row["pld"] is not None]
    agreeing = [row for row in both if abs(gap(row)) <= MAX_DISAGREEMENT]
    lost = len(rows) - len(found)
    tightest = min(row["rdp"] / row["pld"] for row in found if row["pld"] is not None)
    over = max(row["fine"] / row["target"] for row in found)
    excess = max(row["excess"] for row in found)
    proved = sum(row["proved"] is True for row in found)
    peak = max(row["peak_mib"] for row in found)
    cold = [row["cold_seconds"] for row in found]
    targets = [row["target"] for row in found]
    table: list[tuple[str, str, str, bool | None]] = [
        ("settings", "at least 200", f"{len(rows)} of {len(grid())}", len(rows) >= 200),
        (
            "target epsilon",
            "0.1 to 50",
            f"{min(targets):g} to {max(targets):g}",
            min(targets) <= 0.1 and max(targets) >= 50,
        ),
        (
            "PRV's estimate and PLD",
            f"agree to {MAX_DISAGREEMENT}, or the failure is caught and recorded",
            f"{len(agreeing)} agree, largest gap {max(abs(gap(r)) for r in agreeing):.4f}; "
            f"{len(found) - len(agreeing)} caught, below",
            all(row["notes"] for row in found if row not in agreeing),
        ),
        (
            "RDP over PLD",
            f"never below 1 (tolerance {RDP_TOLERANCE:g}, PLD's own rounding)",
            f"at least {tightest:.4f}",
            tightest >= 1 - RDP_TOLERANCE,
        ),
        ("over the target", "never", f"largest epsilon / target {over:.6f}", over <= 1),
        (
            "sigma over the smallest possible",
            f"at most {MAX_EXCESS:.1%}",
            f"largest {excess:.2%}, median {statistics.median(r['excess'] for r in found):.2%}; "
            f"proved for {proved}",
            excess <= MAX_EXCESS,
        ),
        ("hung or died", "none", str(lost), lost == 0),
        ("memory", "at most 2 GiB", f"largest {peak:.0f} MiB", 2 * peak <= MAX_PEAK_MIB),
        (
            "calibration without cache",
            f"typically under {MAX_COLD_SECONDS} s",
            f"median {statistics.median(cold):.1f} s, 9 of 10 under "
            f"{statistics.quantiles(cold, n=10)[-1]:.1f} s, largest {max(cold):.0f} s",
            statistics.median(cold) < MAX_COLD_SECONDS,
        ),
        *timing_lines(timing),
    ]
    lines = ["| what | asked for | found | met |", "|---|---|---|---|"]
    words = {True: "yes", False: "no", None: ""}
    return lines + [f"| {a} | {b} | {c} | {words[met]} |" for a, b, c, met in table]


def timing_lines(timing: Sequence[Row]) -> list[tuple[str, str, str, bool | None]]:
    """Return the pass lines of calls and commands with a cache."""
    if not timing:
        return []
    call = statistics.median(row["call_warm_seconds"] for row in timing)
    worst = max(row["call_warm_seconds"] for row in timing)
    warm = statistics.median(row["command_warm_seconds"] for row in timing)
    cold = statistics.median(row["command_cold_seconds"] for row in timing)
    return [
        (
            "calibration with cache",
            f"under {1000 * MAX_WARM_SECONDS:.0f} ms",
            f"median {1000 * call:.2f} ms, largest {1000 * worst:.2f} ms of {len(timing)} settings",
            call < MAX_WARM_SECONDS,
        ),
        (
            "`dpexp budget`, four calibrations",
            "",
            f"median {cold:.1f} s without cache, {warm:.2f} s with it",
            None,
        ),
    ]


def gap(row: Row) -> float:
    """Return PRV's estimate less PLD."""
    return row["prv"] - row["prv_error"] - row["pld"]


def failures(rows: Sequence[Row]) -> list[str]:
    """Return a table of the settings where an accountant failed, by what it said."""
    kinds: dict[str, Callable[[str], bool]] = {
        "PRV's grid would be too large; epsilon is PLD's": lambda n: "its grid at" in n,
        "PRV misses its own mean and stops; epsilon is PLD's": lambda n: "Discrete mean" in n,
        "PRV and PLD differ; epsilon is the larger": lambda n: "differ by" in n,
    }
    lines = ["| what | settings | which (q, steps, delta, target) |", "|---|---|---|"]
    rest = [row for row in rows if row["notes"]]
    for name, is_kind in kinds.items():
        of_kind = [row for row in rest if is_kind(row["notes"])]
        rest = [row for row in rest if row not in of_kind]
        lines.append(f"| {name} | {len(of_kind)} | {_settings(of_kind)} |")
    lines.append(f"| other | {len(rest)} | {_settings(rest)} |")
    return lines


def _settings(rows: Sequence[Row]) -> str:
    settings = sorted(tuple(row[key] for key in KEYS) for row in rows)
    return "; ".join(", ".join(f"{value:g}" for value in setting) for setting in settings)


def random_lines(rows: Sequence[Row]) -> list[str]:
    """Return what random settings showed."""
    found = [row for row in rows if row["sigma"] is not None]
    if not found:
        return ["None were run."]
    over = max(row["fine"] / row["target"] for row in found)
    within = [row for row in found if row["excess"] <= MAX_EXCESS]
    beyond = [row for row in found if row not in within]
    doubted = [r for r in beyond if r["prv"] is not None and gap(r) > MAX_DISAGREEMENT]
    lines = [
        f"{len(rows)} settings, log-uniform over the ranges of the grid, calibrated one after the "
        f"other: {len(rows) - len(found)} hung or died; the largest epsilon over its target is "
        f"{over:.6f}; an accountant failed, and was caught, in "
        f"{sum(bool(row['notes']) for row in found)}. Sigma is at most {MAX_EXCESS:.1%} over the "
        f"smallest possible in {len(within)}."
    ]
    if beyond:
        lines.append(
            f"In {len(beyond)} it is more, {max(row['excess'] for row in beyond):.2%} at most; in "
            f"{len(doubted)} of these PRV's estimate lies above PLD's upper bound, so that one of "
            f"them is wrong, and the larger is believed all the same: {_settings(beyond)}."
        )
    return lines


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw RDP and the central limit over the fine PLD against epsilon."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = [row for row in rows if row["sigma"] is not None]
    figure, axes = pyplot.subplots(figsize=(4.5, 3.6), layout="constrained")
    axes.axhline(1, color="#888888", linewidth=0.8)
    for key, name, color, marker in (
        ("rdp", "RDP, sound", "#0072b2", "o"),
        ("gdp", "central limit, no bound", "#d55e00", "^"),
    ):
        x = [row["fine"] for row in found]
        y = [min(max(row[key] / row["fine"], LEAST), MOST) for row in found]
        axes.plot(x, y, marker, color=color, label=name, markersize=3.5, alpha=0.6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = (LEAST, 0.1, 0.2, 0.5, 1, 2, 5, 10, MOST)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_xticks((0.1, 1, 10, 50), ("0.1", "1", "10", "50"))
    axes.set_xlabel("epsilon by PLD, fine grid")
    axes.set_ylabel("epsilon over PLD's")
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    figure.savefig(path, dpi=160, metadata={"Software": None})


def read_timing() -> list[Row]:
    """Return the rows of timing.csv; none if there is no such file."""
    path = TARGET / "timing.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{key: float(text) for key, text in row.items()} for row in csv.DictReader(file)]


def main() -> None:
    """Write page and figure."""
    rows = read_rows()
    draw([row for row in rows if row["kind"] == "grid"], TARGET / "looseness.png")
    text = page(rows, read_timing(), describe_provenance(sys.argv))
    (TARGET / "README.md").write_text(text)


if __name__ == "__main__":
    main()
