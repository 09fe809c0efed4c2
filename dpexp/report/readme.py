"""README.md of a folder of results: the answer, the claims, the grids, and what made them."""

from collections.abc import Sequence
from typing import Protocol

from dpexp.accounting.stated import stated
from dpexp.report.answer_table import COLUMNS, NOTE, answer_rows
from dpexp.report.contents import QUESTION, Report
from dpexp.report.groups import Grid, selected_by
from dpexp.report.tables import (
    MEASURES,
    averaged,
    by_epsilon_markdown,
    grid_markdown,
    main_measures,
    settings_markdown,
    table,
)
from dpexp.report.words import count


class Shown(Protocol):
    """A figure that was drawn."""

    @property
    def file_name(self) -> str:
        """Name of its file."""

    @property
    def title(self) -> str:
        """What is seen."""

    @property
    def caption(self) -> str:
        """How to read it."""


def as_readme(report: Report, figures: Sequence[Shown], folder: str = "figures") -> str:
    """Return the page in Markdown.

    Args:
        report: What was read and found.
        figures: Drawn into `folder`.
        folder: Where they lie, beside the page.
    """
    lines = [f"# {report.title}", ""]
    lines += [
        f"Made by `{report.command}` from {count(len(report.runs), 'run')}; the same command "
        f"writes `report.html`, the same with every figure; `claims.csv` and `points.csv` are the "
        f"same as tables.",
        "",
    ]
    if report.bears_on_question:
        lines += [f"## {QUESTION}", ""]
        lines += [line for sentence in report.answer.sentences for line in (sentence, "")]
    if report.answer.comparisons:
        lines += [*table(COLUMNS, answer_rows(report.answer)), "", NOTE, ""]
    if report.rows:
        lines += ["## Claims", "", *claims_summary(report), ""]
        lines += ["Values, intervals, criteria and commands: [claims.md](claims.md).", ""]
    lines += _grids(report)
    for figure in figures:
        lines += [f"## {figure.title}", "", f"![{figure.title}]({folder}/{figure.file_name})", ""]
        lines += [figure.caption, ""]
    lines += _remarks(report)
    return "\n".join(lines).rstrip() + "\n"


def claims_summary(report: Report) -> list[str]:
    """Return a short table: claim, verdict, on what."""
    rows = [(row.claim.name, row.claim.title, row.verdict.outcome, row.on or row.verdict.reason)
            for row in report.rows]  # fmt: skip
    return table(("claim", "what", "verdict", "on, or why not"), rows)


def is_grid(grid: Grid) -> bool:
    """Return whether a grid holds several R at one epsilon."""
    return grid.eps is not None and len(grid.norms) > 1


def _grids(report: Report) -> list[str]:
    lines = []
    families: dict[tuple[str | None, str, str], list[Grid]] = {}
    for grid in filter(is_grid, report.grids):
        families.setdefault((grid.experiment, grid.data, grid.model), []).append(grid)
    for (experiment, data, model), grids in families.items():
        ordered = sorted(grids, key=lambda grid: grid.eps or 0.0)
        lines += [f"## {data}, {model}" + f" ({experiment})" * bool(experiment), ""]
        chosen = [point for grid in grids for point in grid.chosen.values()]
        lines += [f"{_how_chosen(grids)}; {averaged(chosen)}, measured on the test set.", ""]
        if len(ordered) > 1:
            names = " / ".join(MEASURES[key][0] for key in main_measures(ordered))
            lines += [f"{names}, by R and epsilon:", "", *by_epsilon_markdown(ordered), ""]
        for grid in ordered:
            lines += [f"Epsilon {stated(grid.eps or 0.0)}, sigma {grid.sigma or 0:.4g}, "
                      f"{grid.final[0].steps:,} steps:", "", *grid_markdown(grid), ""]  # fmt: skip
    rest = [point for grid in report.grids if not is_grid(grid) for point in grid.final]
    if rest:
        heading = "## Other settings" if lines else "## Settings"
        words = averaged(rest).capitalize()
        lines += [heading, "", f"{words}, on the test set.", "", *settings_markdown(rest), ""]
    return lines


def _how_chosen(grids: Sequence[Grid]) -> str:
    """Return what the learning rates of these grids were chosen by, and on how short runs."""
    search = [point for grid in grids for point in grid.search]
    if any(selected_by(point) is None for grid in grids for point in grid.final):
        return "Each R at one learning rate, without a validation part to choose it on"
    if not search:
        has_several = any(len({p.lr for p in grid.final if p.clip_norm == norm}) > 1
                          for grid in grids for norm in grid.norms)  # fmt: skip
        which = "learning rate that is best on validation" if has_several else "one lr that was run"
        return f"Each R at the {which}"
    steps = " or ".join(f"{number:,}" for number in sorted({point.steps for point in search}))
    seeds = max(len(point.runs) for point in search)
    return (
        f"Each R at the learning rate that validation chose in a search of {steps} steps on "
        f"{count(seeds, 'seed')}"
    )


def _remarks(report: Report) -> list[str]:
    lines = []
    if report.notes:
        lines += ["## Remarks", "", *(f"* {note}." for note in report.notes), ""]
    if report.left_out:
        lines += [f"Left out: {count(len(report.left_out), 'unfinished or unreadable run')}.", ""]
    commits = sorted({run.commit for run in report.runs})
    if commits:
        lines += [f"Runs were made at commit {', '.join(commits)}.", ""]
    return lines
