"""`dpexp report`: runs in; verdicts, tables, figures and a page out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dpexp.errors import ConfigError
from dpexp.record.strict_json import write_text, writing
from dpexp.report.answer import answer
from dpexp.report.claim_tables import claims_csv, claims_markdown
from dpexp.report.claims.rows import parts_of, rows_of
from dpexp.report.collect import Found, collect
from dpexp.report.contents import Report
from dpexp.report.gather import grids_of, points_of
from dpexp.report.kept import keep, keep_theory
from dpexp.report.lines import SHOWN, closing, opening
from dpexp.report.readme import as_readme
from dpexp.report.tables import points_csv

KEPT = "runs"  # below the output: one JSON a run
THEORY = "theory"
FIGURES = "figures"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for.

    Attributes:
        paths: Run folders, folders of them, kept files, theory.json.
        output: Folder that the report goes into.
        keeps_runs: Whether the runs are kept there too, one small JSON each, so that the report can
            be made again without their folders.
        command: As typed.
    """

    paths: Sequence[Path]
    output: Path
    keeps_runs: bool
    command: str


def run(request: Request) -> Report:
    """Read, print what was read and found, write the report and return it.

    Raises:
        ConfigError: If a path holds nothing to report on.
        RunFolderError: If the output cannot be written.
    """
    # Late: torch and matplotlib take seconds, and a wrong path needs neither.
    from dpexp.train.console import say

    found = collect(request.paths)
    if not found.runs and found.theory is None:
        places = ", ".join(map(str, request.paths))
        lines = [
            f"{places}: no run here has ended, so there is nothing to report on; give folders that "
            f"dpexp train or dpexp sweep wrote"
        ]
        lines += [entry.reason for entry in found.left_out[:SHOWN]]
        raise ConfigError("\n".join(lines))
    report = report_of(found, request.command)
    for line in opening(report):
        say(line)
    written = write(report, found, request)
    for line in closing(report, written):
        say(line)
    return report


def report_of(found: Found, command: str) -> Report:
    """Return all that follows from what was found."""
    points = points_of(found.runs)
    grids = grids_of(points)
    parts = parts_of(grids)
    bears = found.theory is not None or any(parts.values())
    notes = [*found.notes, *(f"{grid.label}: {note}" for grid in grids for note in grid.notes)]
    return Report(
        title="Clipping norm, convergence and calibration" if bears else "Runs",
        runs=found.runs,
        points=tuple(points),
        grids=tuple(grids),
        rows=rows_of(parts, found.theory) if bears else (),
        answer=answer(grids),
        theory=found.theory,
        theory_figures=found.theory_figures,
        left_out=found.left_out,
        notes=tuple(notes),
        command=command,
    )


def write(report: Report, found: Found, request: Request) -> list[Path]:
    """Write tables, figures, page and kept runs, and return the files that a reader opens.

    Raises:
        RunFolderError: If a file cannot be written.
    """
    from dpexp.report.figures.draw import pictures_of
    from dpexp.report.page.page import write_page

    output = request.output
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    if request.keeps_runs:
        for run in report.runs:
            keep(run, output / KEPT, found.kept_at(run, output))
        if found.theory is not None and not found.holds_theory(output):
            keep_theory(found.theory, found.theory_figures, output / THEORY)
    pictures, missing = pictures_of(report)
    for picture in pictures:
        picture.save(output / FIGURES)
    texts = {"README.md": as_readme(report, pictures, FIGURES), "points.csv": points_csv(report)}
    if report.rows:
        texts |= {"claims.md": claims_markdown(report.rows), "claims.csv": claims_csv(report.rows)}
    for name, text in texts.items():
        write_text(output / name, text)
    page = write_page(report, pictures, missing, output)
    return [page, *(output / name for name in texts)]
