"""A row for every claim: from the runs where they bear on it, else from theory, else why not."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from dpexp.claims import CLAIMS, Verdict
from dpexp.report.claims.curves import judge_global, judge_rise
from dpexp.report.claims.judging import Part, combine, untestable
from dpexp.report.claims.norms import judge_accuracy, judge_measure
from dpexp.report.claims.tail import judge_tail
from dpexp.report.contents import Row
from dpexp.report.groups import Grid

_GRID = (
    "no runs at two or more R of one epsilon with flat clipping (experiment=convergence/"
    "cifar10_cnn_grid, digits_grid); Figure 3's own ViT-base needs pretrained weights and a GPU"
)
UNTESTED = {
    "A10": _GRID,
    "A11a": _GRID,
    "A11b": _GRID,
    "A12": "no runs of experiment=convergence/cifar10_cnn_flat and cifar10_cnn_global_flat",
    "A13": "no runs of experiment=convergence/cifar10_cnn_flat and cifar10_cnn_layerwise",
    "A14": "no run with clipping.tail_norm above its R and the same run without "
    "(experiment=convergence/cifar10_cnn_tail); the paper's own BERT on SNLI needs pretrained "
    "weights, text and a GPU",
}
THEORY_ON = {
    "A7": "small networks, runs with noise",
    "A8": "small networks, runs with noise",
    "A15": "accountants",
    "A16": "accountants, the stated setting",
}
NOT_RUN = "not among what was read; dpexp theory tests it"


def rows_of(
    parts: Mapping[str, Sequence[Part]], theory: Mapping[str, Any] | None
) -> tuple[Row, ...]:
    """Return a row for each claim, in the order of `dpexp.claims.CLAIMS`.

    Args:
        parts: Of `parts_of`.
        theory: What dpexp theory wrote; None without it.
    """
    proven = {verdict.claim: verdict for verdict in theory_verdicts(theory)}
    rows = []
    for claim in CLAIMS:
        if claim.name in parts:
            verdict, on = combine(claim.name, parts[claim.name], UNTESTED[claim.name])
            several = tuple(parts[claim.name]) if len(parts[claim.name]) > 1 else ()
            rows.append(Row(claim=claim, verdict=verdict, on=on, parts=several))
        elif claim.name in proven:
            rows.append(
                Row(
                    claim=claim,
                    verdict=proven[claim.name],
                    on=THEORY_ON.get(claim.name, "small networks"),
                )
            )
        else:
            rows.append(Row(claim=claim, verdict=untestable(claim.name, NOT_RUN)))
    return tuple(rows)


def parts_of(grids: Sequence[Grid]) -> dict[str, list[Part]]:
    """Return for each claim that runs decide its verdict on every data set and epsilon."""
    points = [point for grid in grids for point in grid.final]
    return {
        "A10": list(judge_accuracy(grids)),
        "A11a": list(judge_measure(grids, "A11a", "mce")),
        "A11b": list(judge_measure(grids, "A11b", "ece")),
        "A12": list(judge_global(points)),
        "A13": list(judge_rise(points)),
        "A14": list(judge_tail(points)),
    }


def theory_verdicts(theory: Mapping[str, Any] | None) -> list[Verdict]:
    """Return the verdicts that dpexp theory wrote; those of other claims are left out."""
    names = {field.name for field in fields(Verdict)}
    found = []
    for entry in (theory or {}).get("verdicts", ()):
        values = {key: value for key, value in entry.items() if key in names}
        if values.get("interval") is not None:
            values["interval"] = tuple(values["interval"])
        found.append(Verdict(**values))
    return found
