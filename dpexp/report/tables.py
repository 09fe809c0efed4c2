"""Tables of settings and what was measured there, as Markdown and as CSV."""

import csv
import io
import math
from collections.abc import Iterable, Sequence

from dpexp.accounting.stated import stated
from dpexp.report.contents import Report
from dpexp.report.groups import Grid, Point

# Key of a summary: heading, factor, digits.
MEASURES = {
    "test/accuracy": ("accuracy (%)", 100, 2),
    "test/ece": ("ECE (%)", 100, 2),
    "test/mce": ("MCE (%)", 100, 1),
    "test/adaptive_ece": ("adaptive ECE (%)", 100, 2),
    "test/classwise_ece": ("class-wise ECE (%)", 100, 2),
    "test/ks_error": ("KS (%)", 100, 2),
    "test/overconfidence": ("over-confidence (%)", 100, 2),
    "test/underconfidence": ("under-confidence (%)", 100, 2),
    "test/nll_nats": ("NLL (nats)", 1, 4),
    "test/brier": ("Brier", 1, 4),
    "test/mse": ("MSE", 1, 4),
    "test/r2": ("R2", 1, 3),
}
LEFT_TO_CSV = (
    "test/adaptive_ece",
    "test/classwise_ece",
    "test/overconfidence",
    "test/underconfidence",
)


def shown(points: Sequence[Point]) -> list[str]:
    """Return the measures that a table of these points shows: those that any of them has."""
    return [
        key
        for key in MEASURES
        if key not in LEFT_TO_CSV and any(point.values(key) for point in points)
    ]


def grid_markdown(grid: Grid) -> list[str]:
    """Return a grid as a table: a row an R at its chosen lr, with its measures."""
    points = list(grid.chosen.values())
    keys = shown(points)
    header = ["R", "lr", "seeds", *(MEASURES[key][0] for key in keys)]
    rows = [
        [f"{p.clip_norm:g}", f"{p.lr:g}", seeds_cell(p), *(cell(p, key) for key in keys)]
        for p in points
    ]
    return table(header, rows)


def by_epsilon_markdown(grids: Sequence[Grid]) -> list[str]:
    """Return accuracy / ECE, or MSE, as a table of R by epsilon, for grids of one data set."""
    norms = sorted({norm for grid in grids for norm in grid.norms})
    header = ["R", *(f"epsilon {stated(grid.eps or 0.0)}" for grid in grids)]
    rows = []
    for norm in norms:
        chosen = [grid.chosen.get(norm) for grid in grids]
        cells = [
            "-" if p is None else " / ".join(cell(p, key) for key in main_measures(grids))
            for p in chosen
        ]
        rows.append([f"{norm:g}", *cells])
    return table(header, rows)


def main_measures(grids: Sequence[Grid]) -> tuple[str, ...]:
    """Return the keys of what these grids are first looked at for."""
    is_regression = any(point.values("test/mse") for grid in grids for point in grid.final)
    return ("test/mse",) if is_regression else ("test/accuracy", "test/ece")


def settings_markdown(points: Sequence[Point]) -> list[str]:
    """Return settings that are no grid over R, a row each."""
    header = ["experiment", "data", "clipping", "R", "lr", "epsilon", "seeds"]
    keys = shown(points)
    header += [MEASURES[key][0] for key in keys]
    rows = []
    for point in points:
        run, clipping = point.first, point.first.config["clipping"]
        eps = "none" if run.eps is None else stated(run.eps)
        if run.eps is not None and math.isfinite(run.eps) and not run.has_guarantee:
            eps += ", no guarantee"
        tail = clipping["tail_norm"]
        norm = f"{point.clip_norm:g}" + (f", then {tail:g}" if tail else "")
        is_clipped = run.config["dp"]
        how = f"{clipping['style']} {clipping['function']}" if is_clipped else "none"
        words = [run.experiment or "-", run.data, how, norm if is_clipped else "-", f"{point.lr:g}"]
        rows.append([*words, eps, seeds_cell(point), *(cell(point, key) for key in keys)])
    return table(header, rows)


def points_csv(report: Report) -> str:
    """Return every setting, final or of a search, with mean and s.d. of every measure.

    Over the seeds that did not diverge, as in the tables; `diverged` counts the others.
    """
    header = ["experiment", "data", "model", "role", "function", "style", "clip_norm", "lr"]
    header += ["tail_norm", "epsilon", "noise_multiplier", "steps", "seeds", "diverged"]
    header += [f"{key} {word}" for key in ("val/accuracy", *MEASURES) for word in ("mean", "sd")]
    rows = []
    for grid in report.grids:
        for role, points in (("final", grid.final), ("search", grid.search)):
            for point in points:
                run, clipping = point.first, point.first.config["clipping"]
                values: list[object] = [run.experiment, run.data, run.model, role]
                values += [clipping["function"], clipping["style"], point.clip_norm, point.lr]
                eps = None if run.eps is None else stated(run.eps)
                values += [clipping["tail_norm"], eps, run.sigma, point.steps]
                values += [" ".join(map(str, point.seeds)), point.num_diverged]
                others = ended(point)
                for key in ("val/accuracy", *MEASURES):
                    values += [others and others.mean(key), others and others.sd(key)]
                rows.append(["" if value is None else _plain(value) for value in values])
    return as_csv(header, rows)


def cell(point: Point, key: str) -> str:
    """Return mean +- s.d. over seeds of a measure, in the unit of its heading.

    Over the seeds that did not diverge, and how many did: "60.00 +- 0.20 (1 diverged)".
    """
    _, factor, digits = MEASURES[key]
    others = ended(point)
    if others is None:
        return "diverged"
    mean, sd = others.mean(key), others.sd(key)
    if mean is None:
        return "-"
    text = f"{factor * mean:.{digits}f}"
    text += "" if sd is None else f" +- {factor * sd:.{digits}f}"
    return text + f" ({point.num_diverged} diverged)" * bool(point.num_diverged)


def ended(point: Point) -> Point | None:
    """Return the runs of a point that did not diverge; None if all did.

    A claim counts a diverged run as guessing; a table of what was measured leaves it out.
    """
    runs = tuple(run for run in point.runs if not run.has_diverged)
    return Point(runs=runs) if runs else None


def averaged(points: Iterable[Point]) -> str:
    """Return the words of a table's heading for what its numbers are over."""
    leaves_out = any(point.num_diverged for point in points)
    return "mean +- s.d. over seeds" + ", diverged ones left out and counted" * leaves_out


def seeds_cell(point: Point) -> str:
    """Return how many seeds there are, and how many of them diverged."""
    diverged = f", {point.num_diverged} diverged" * bool(point.num_diverged)
    return f"{len(point.runs)}{diverged}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = ["| " + " | ".join(map(_escaped, header)) + " |", "|---" * len(header) + "|"]
    return lines + ["| " + " | ".join(map(_escaped, row)) + " |" for row in rows]


def as_csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as CSV with a header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _plain(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
