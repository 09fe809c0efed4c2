"""`dpexp budget papers`: what both papers publish as epsilon, and what it was."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from dpexp.cli.overrides import raw, sort_words
from dpexp.errors import ConfigError
from dpexp.record.strict_json import to_text

if TYPE_CHECKING:
    from dpexp.accounting.papers import Checked, Unknown

KEYS: dict[str, Any] = {"paper": Literal["convergence", "ghost"], "json": bool}

HEADER = (
    "setting", "batch", "steps", "delta", "sigma", "published", "PRV", "PLD", "RDP", "shuffled",
    "epochs", "sampling", "assumed",
)  # fmt: skip

LEGEND = """\
published  as the paper states it: GDP central limit, an approximation and no guarantee
sigma      noise multiplier, as stated, or (~) by the central limit from the published epsilon
PRV PLD    sound, had every batch been a Poisson sample; neighbors add or remove one sample
RDP        likewise, a looser accountant
shuffled   sound as shuffled, without amplification; neighbors replace a sample by an empty one
sampling   how the public code draws its batches, where it is known
"""


def run(words: Sequence[str]) -> int:
    """Print the epsilons of the papers that the words ask for, as a table or as JSON; return 0.

    Raises:
        ConfigError: If a word is wrong; one line a problem, all of them at once.
    """
    overrides = sort_words(words, keys=KEYS, groups={}, command="budget papers")
    if overrides.problems:
        raise ConfigError("\n".join(overrides.problems))
    asked = raw(overrides.values, KEYS)
    # Imported late: wrong words need no accountant.
    from dpexp.accounting.papers import SETTINGS, UNKNOWN, check

    paper = asked.get("paper")
    checked = [check(s) for s in SETTINGS if paper in (None, s.paper)]
    unknown = [u for u in UNKNOWN if paper in (None, u.paper)]
    if asked.get("json"):
        sys.stdout.write(to_text({"settings": checked, "unknown": unknown}, indent=2) + "\n")
    else:
        sys.stdout.write(as_text(checked, unknown))
    return 0


def as_text(checked: Sequence["Checked"], unknown: Sequence["Unknown"]) -> str:
    """Return the epsilons as a table for each paper, with what is assumed below it."""
    from dpexp.accounting.papers import TITLES

    lines = []
    for paper, title in TITLES.items():
        found = [c for c in checked if c.setting.paper == paper]
        notes = list(dict.fromkeys(c.setting.assumed for c in found if c.setting.assumed))
        if found:
            lines += [f"paper={paper}  {title}", "", *_aligned(table(found, notes)), ""]
        lines += [f"[{i}] assumed: {note}" for i, note in enumerate(notes, 1)]
        lines += [f"unknown: {u.name}: {u.why}" for u in unknown if u.paper == paper]
        lines += [f"note: {n}" for n in dict.fromkeys(n for c in found for n in c.poisson.notes)]
        lines += [""] if found else []
    return "\n".join(lines) + "\n" + LEGEND


def table(checked: Sequence["Checked"], notes: Sequence[str]) -> list[list[str]]:
    """Return header and rows; what is assumed as its place among the notes."""
    from dpexp.accounting.papers import rounded_up

    rows = [list(HEADER)]
    for each in checked:
        setting, bounds = each.setting, each.poisson
        is_derived = setting.noise_multiplier is None
        epsilons = (bounds.prv, bounds.pld, bounds.rdp, each.shuffled)
        rows.append(
            [
                setting.name,
                str(setting.batch),
                str(each.num_steps),
                f"{setting.delta:.2g}",
                f"{'~' * is_derived}{each.noise_multiplier:.3f}",
                f"{setting.eps:.2f}",
                *map(rounded_up, epsilons),
                str(each.num_epochs),
                setting.sampling,
                f"[{notes.index(setting.assumed) + 1}]" if setting.assumed else "",
            ]
        )
    return rows


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
