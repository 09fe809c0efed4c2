"""What dpexp report prints."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from dpexp.report.contents import Report
from dpexp.report.words import count

WIDTH = 100
SHOWN = 10  # folders that were left out, by name; the rest are counted


def opening(report: Report) -> list[str]:
    """Return what was read, and what was left out and why."""
    experiments = {run.experiment or "no experiment" for run in report.runs}
    diverged = sum(run.has_diverged for run in report.runs)
    lines = [
        f"read      {count(len(report.runs), 'run')} in {count(len(experiments), 'experiment')}, "
        f"{count(len(report.points), 'setting')}" + f", {diverged} diverged" * bool(diverged)
    ]
    if report.theory is not None:
        lines.append(f"theory    {count(len(report.theory.get('verdicts', ())), 'verdict')}")
    lines += [f"left out  {entry.reason}" for entry in report.left_out[:SHOWN]]
    if len(report.left_out) > SHOWN:
        lines.append(f"left out  {len(report.left_out) - SHOWN} more")
    lines += [f"note      {note}" for note in report.notes]
    return lines


def closing(report: Report, written: Sequence[Path]) -> list[str]:
    """Return claims and verdicts, the answer, and where the report is."""
    lines = []
    for row in report.rows:
        verdict = row.verdict
        said = "; ".join(word for word in (verdict.ours, verdict.reason) if word)
        lines += _block(f"{row.claim.name:<9} {verdict.outcome}", row.claim.title)
        lines += textwrap.wrap(said, WIDTH, initial_indent=" " * 10, subsequent_indent=" " * 10)
    if report.bears_on_question:
        for sentence in report.answer.sentences:
            lines += _block("answer   ", sentence)
    return lines + [f"written   {path}" for path in written]


def _block(head: str, text: str) -> list[str]:
    indent = " " * 10
    return textwrap.wrap(f"{head:<10}{text}" if len(head) < 10 else f"{head}: {text}", WIDTH,
                         subsequent_indent=indent)  # fmt: skip
