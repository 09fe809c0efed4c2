"""The report as one HTML file: no network, no script, legible on a phone, and it prints."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from dpexp.claims import Verdict
from dpexp.record.strict_json import write_text
from dpexp.report.answer_table import COLUMNS, NOTE, answer_rows
from dpexp.report.claim_tables import claim_cells
from dpexp.report.contents import QUESTION, Report, Row
from dpexp.report.figures.picture import Picture

NAME = "report.html"
PHONE = "(max-width: 600px)"


def write_page(
    report: Report, pictures: Sequence[Picture], missing: Sequence[str], folder: Path
) -> Path:
    """Write report.html into `folder` and return its path.

    Raises:
        RunFolderError: If it cannot be written.
    """
    path = folder / NAME
    write_text(path, as_page(report, pictures, missing))
    return path


def as_page(report: Report, pictures: Sequence[Picture], missing: Sequence[str]) -> str:
    """Return the whole page: answer, key figure, claims, the other figures, what made it."""
    style = files("dpexp.report.page").joinpath("page.css").read_text(encoding="utf-8")
    body = [
        f"<h1>{escape(report.title)}</h1>",
        *_answer(report),
        *_figures(pictures[:1]),
        *_comparisons(report),
        *_claims(report.rows),
        *_figures(pictures[1:], "Figures"),
        *_theory(report),
        *_items("Figures without data", missing),
        *_items("Remarks", report.notes),
        *_items("Left out", (f"{entry.name}: {entry.reason}" for entry in report.left_out)),
        *_provenance(report),
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(report.title)}</title>",
            f"<style>\n{style}</style>",
            "</head>",
            "<body>",
            "<main>",
            *body,
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _answer(report: Report) -> list[str]:
    if not report.bears_on_question:
        return []
    sentences = (f'<p class="answer">{escape(text)}</p>' for text in report.answer.sentences)
    return [f"<h2>{escape(QUESTION)}</h2>", *sentences]


def _comparisons(report: Report) -> list[str]:
    if not report.answer.comparisons:
        return []
    rows = [[escape(cell) for cell in row] for row in answer_rows(report.answer)]
    return [*_table("comparisons", COLUMNS, rows), f"<p><small>{escape(NOTE)}</small></p>"]


def _table(name: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table of cells that are HTML already; a phone shows each under its heading."""
    heads = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    lines = [f'<table class="{name}">', f"<thead><tr>{heads}</tr></thead>", "<tbody>"]
    for row in rows:
        pairs = zip(headings, row, strict=True)
        tds = "".join(f'<td data-label="{escape(head)}">{cell}</td>' for head, cell in pairs)
        lines.append(f"<tr>{tds}</tr>")
    return [*lines, "</tbody>", "</table>"]


def _figures(pictures: Sequence[Picture], heading: str = "") -> list[str]:
    lines = [f"<h2>{heading}</h2>"] if heading and pictures else []
    for picture in pictures:
        wide, narrow = _data(picture.wide), _data(picture.narrow)
        lines += [
            f'<figure id="{escape(picture.name)}">',
            f"<h3>{escape(picture.title)}</h3>",
            f'<picture><source media="{PHONE}" srcset="{narrow}">'
            f'<img src="{wide}" width="{picture.width}" alt="{escape(picture.alt)}"></picture>',
            f"<figcaption>{escape(picture.caption)}</figcaption>",
            "</figure>",
        ]
    return lines


def _theory(report: Report) -> list[str]:
    lines = ["<h2>Theory</h2>"] if report.theory_figures else []
    for path in report.theory_figures:
        name = path.stem.replace("_", " ")
        source = _data(path.read_bytes())
        lines += [
            f'<figure id="theory-{escape(path.stem)}">',
            f'<img src="{source}" alt="Figure of dpexp theory: {escape(name)}">',
            f"<figcaption>From dpexp theory: {escape(name)}.</figcaption>",
            "</figure>",
        ]
    return lines


def _claims(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    cells = [
        (
            f'<strong id="{escape(row.claim.name)}">{escape(row.claim.name)}</strong> '
            f"{escape(row.claim.title)}",
            escape(row.claim.paper),
            _parts(row) if row.parts else _found(row),
            _outcome(row.verdict, "" if row.parts else row.verdict.reason),
            _commands(row.verdict.command),
        )
        for row in rows
    ]
    headings = ("claim", "the paper", "here", "verdict", "command")
    return [
        "<h2>Claims of Bu et al. 2023, arXiv:2106.07830</h2>",
        *_table("claims", headings, cells),
    ]


def _found(row: Row) -> str:
    """Return what was found on one data set and epsilon."""
    _, _, _, ours, interval, _, on, _ = claim_cells(row)
    return (
        escape(ours)
        + f" <small>95 % {escape(interval)}</small>" * bool(interval)
        + f" <small>({escape(on)})</small>" * bool(on)
    )


def _parts(row: Row) -> str:
    """Return in how many settings it was met, and what was found in each."""
    items = (
        f"<li><strong>{escape(on)}</strong>: {escape(verdict.ours)} {_outcome(verdict)}</li>"
        for on, verdict in row.parts
    )
    return f"{escape(row.verdict.ours.partition('. ')[0])}<ul>{''.join(items)}</ul>"


def _outcome(verdict: Verdict, reason: str | None = None) -> str:
    """Return the verdict's word in its colour, and the reason, its own if none is given."""
    name = verdict.outcome.replace(" ", "-")
    reason = verdict.reason if reason is None else reason
    word = f'<strong class="{name}">{escape(verdict.outcome)}</strong>'
    return word + f": {escape(reason)}" * bool(reason)


def _commands(command: str) -> str:
    """Return the commands that repeat a measurement; several are folded away."""
    parts = [f"<code>{escape(part)}</code>" for part in command.split("; ") if part]
    if len(parts) < 2:
        return "".join(parts)
    return f"<details><summary>{len(parts)} commands</summary>{'<br>'.join(parts)}</details>"


def _items(heading: str, entries: Iterable[str]) -> list[str]:
    items = [f"<li>{escape(entry)}</li>" for entry in entries]
    return [f"<h2>{heading}</h2>", "<ul>", *items, "</ul>"] if items else []


def _provenance(report: Report) -> list[str]:
    commits = sorted({run.commit for run in report.runs})
    made = f" at commit {escape(', '.join(commits))}" if commits else ""
    return [
        "<h2>What made this</h2>",
        f"<p>{len(report.runs)} runs{made}. Epsilon is an upper bound for the steps that were "
        "taken, add or remove one sample, but for runs marked as without a guarantee. Where runs "
        "hold out a part of the training data, R and the learning rate are chosen on it here, and "
        "never on the test set; epsilon does not cover a choice.</p>",
        f"<p>Made by <code>{escape(report.command)}</code>.</p>",
    ]


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
