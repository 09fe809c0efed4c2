"""What a sweep found: one row a point, means over seeds, and the point chosen on validation."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from dpexp.errors import RunFolderError
from dpexp.record.folder import RunFolder
from dpexp.record.strict_json import write_text
from dpexp.sweep.existing import DONE
from dpexp.sweep.grid import LR, LR_TIMES_NORM
from dpexp.sweep.point import SEED, Point
from dpexp.sweep.record import TO_DO
from dpexp.sweep.work import Result

# What a point may be chosen by, the first that all have; each is better when higher.
CHOOSES_BY = ("val/accuracy", "val/r2")
# Shown in Markdown, where they are; the CSV files hold every measure.
_SHOWN = (
    "privacy/epsilon",
    *CHOOSES_BY,
    "test/accuracy",
    "test/ece",
    "test/nll_nats",
    "test/r2",
    "test/rmse",
    "time/total_seconds",
)
_PLACES = ("steps", "privacy/", "val/", "test/", "time/total_seconds")


@dataclass(frozen=True)
class Row:
    """A point and what became of it.

    Attributes:
        point: What was wanted.
        state: done, diverged, failed, interrupted, elsewhere or to do.
        folder: Name of its run folder; empty if there is none.
        measures: Of its summary.json, if it is done.
    """

    point: Point
    state: str
    folder: str = ""
    measures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """The points that differ in their seed alone.

    Attributes:
        labels: What they share.
        rows: One a seed.
    """

    labels: Mapping[str, str]
    rows: tuple[Row, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every seed is done: a mean over the survivors would flatter a setting."""
        return all(row.state == DONE for row in self.rows)

    def values(self, measure: str) -> list[float]:
        """Return a measure of every seed that has it."""
        return [row.measures[measure] for row in self.rows if measure in row.measures]


def row_of(point: Point, result: Result | None) -> Row:
    """Return the row of a point, its measures read from its folder."""
    if result is None:
        return Row(point, TO_DO)
    path = Path(result.folder) if result.folder else None
    measures = _measures(path) if path and result.state == DONE else {}
    return Row(point, result.state, path.name if path else "", measures)


def settings_of(rows: Sequence[Row]) -> list[Setting]:
    """Return the rows grouped by all labels but the seed, in order."""
    groups: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in rows:
        labels = tuple((k, text) for k, text in row.point.labels.items() if k != SEED)
        groups.setdefault(labels, []).append(row)
    return [Setting(dict(labels), tuple(group)) for labels, group in groups.items()]


def choose(rows: Sequence[Row]) -> tuple[Setting | None, str]:
    """Return the setting that is best on the validation part, and the sentence that says so.

    The mean over seeds decides; only a setting whose seeds are all done can be chosen, and the
    first of equals is. The test set is never looked at.
    """
    if any(row.point.config.dataset.validation == 0 for row in rows):
        return None, (
            "nothing can be chosen honestly: no validation part was held out, and a point chosen "
            "by its test accuracy would report the luck of the best; give "
            "dataset.validation=<count>"
        )
    first = rows[0].point.config.dataset
    if any(row.point.config.dataset != first for row in rows):
        return None, "nothing is chosen: the points are of different data, so no measure ranks them"
    complete = [setting for setting in settings_of(rows) if setting.is_complete]
    if not complete:
        return None, "nothing is chosen yet: no setting has all of its runs done"
    names = [m for m in CHOOSES_BY if all(m in row.measures for s in complete for row in s.rows)]
    if not names:
        return None, f"nothing is chosen: no run has {' or '.join(CHOOSES_BY)}"
    measure = names[0]
    best = max(complete, key=lambda setting: mean(setting.values(measure)))
    what = _label_text(best.labels) or "the only setting"
    left_out = len(settings_of(rows)) - len(complete)
    return best, (
        f"best {measure}: {what}, {_spread(best.values(measure))}, of {len(complete)} settings"
        + f" ({left_out} without all runs done were left out)" * bool(left_out)
    )


def write_tables(output: Path, rows: Sequence[Row]) -> list[Path]:
    """Write sweep.csv, sweep.md and, where there are several seeds, sweep_mean.csv; return them.

    Raises:
        RunFolderError: If one cannot be written.
    """
    files = {"sweep.csv": _csv(*points_table(rows)), "sweep.md": as_markdown(rows)}
    if _has_seeds(rows):
        files["sweep_mean.csv"] = _csv(*means_table(rows))
    for name, text in files.items():
        write_text(output / name, text)
    return [output / name for name in files]


def points_table(rows: Sequence[Row]) -> tuple[list[str], list[list[Any]]]:
    """Return header and one row a point: labels, state, every measure, folder."""
    measures = _measures_of(rows)
    labels = list(rows[0].point.labels) if rows else []
    has_ratio = LR_TIMES_NORM in labels
    header = [*labels, *[LR] * has_ratio, "state", *measures, "folder"]
    body = [
        [
            *row.point.labels.values(),
            *[row.point.config.optimizer.lr] * has_ratio,
            row.state,
            *(row.measures.get(name, "") for name in measures),
            row.folder,
        ]
        for row in rows
    ]
    return header, body


def means_table(rows: Sequence[Row]) -> tuple[list[str], list[list[Any]]]:
    """Return header and one row a setting: runs done, mean and standard deviation of each measure.

    The standard deviation is over seeds, with n - 1; empty for one seed.
    """
    measures = _measures_of(rows)
    settings = settings_of(rows)
    spread = [part for name in measures for part in (name, f"{name} sd")]
    header = [*(settings[0].labels if settings else {}), "runs", "done", *spread]
    body = []
    for setting in settings:
        cells: list[Any] = [*setting.labels.values(), len(setting.rows)]
        cells.append(sum(row.state == DONE for row in setting.rows))
        for name in measures:
            values = setting.values(name)
            deviation = standard_deviation(values)
            cells += [mean(values) if values else "", "" if deviation is None else deviation]
        body.append(cells)
    return header, body


def as_markdown(rows: Sequence[Row]) -> str:
    """Return the sweep as a page: the choice, means over seeds, and every point."""
    _, chosen = choose(rows)
    shown = [name for name in _SHOWN if any(name in row.measures for row in rows)]
    parts = ["# Sweep", chosen[0].upper() + chosen[1:] + "."]
    if _has_seeds(rows):
        settings = settings_of(rows)
        header = [*settings[0].labels, "done", *shown]
        body = [
            [
                *setting.labels.values(),
                f"{sum(row.state == DONE for row in setting.rows)} of {len(setting.rows)}",
                *(_spread(setting.values(name)) for name in shown),
            ]
            for setting in settings
        ]
        note = "Mean over seeds, with the standard deviation (n - 1)."
        parts += ["## Over seeds", note, _markdown(header, body)]
    labels = list(rows[0].point.labels)
    body = [
        [
            *row.point.labels.values(),
            row.state,
            *(number(row.measures.get(name)) for name in shown),
            row.folder,
        ]
        for row in rows
    ]
    parts += ["## Points", _markdown([*labels, "state", *shown, "folder"], body)]
    return "\n\n".join(parts) + "\n"


def number(value: float | None) -> str:
    """Return a measure for people; a dash for none."""
    return "-" if value is None else f"{value:.4g}"


def _spread(values: Sequence[float]) -> str:
    spread = standard_deviation(values)
    if spread is None:
        return number(mean(values) if values else None)
    return f"{number(mean(values))} +- {spread:.2g}"


def standard_deviation(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation; None of fewer than two, or where one is not finite."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    return stdev(values)


def _measures(path: Path) -> dict[str, float]:
    try:
        summary = RunFolder(path, None).read_document("summary.json")
    except RunFolderError:
        return {}
    kept = {k: v for k, v in summary.items() if k.startswith(_PLACES)}
    return {k: float(v) for k, v in kept.items() if _is_number(v)}


def _is_number(value: Any) -> bool:
    return value in ("inf", "-inf") or (
        isinstance(value, int | float) and not isinstance(value, bool)
    )


def _measures_of(rows: Sequence[Row]) -> list[str]:
    """Return every measure that a row has, by place."""
    names = dict.fromkeys(name for row in rows for name in row.measures)
    places = [
        next(i for i, place in enumerate(_PLACES) if name.startswith(place)) for name in names
    ]
    return [name for _, name in sorted(zip(places, names, strict=True), key=lambda pair: pair[0])]


def _has_seeds(rows: Sequence[Row]) -> bool:
    return any(len(setting.rows) > 1 for setting in settings_of(rows))


def _label_text(labels: Mapping[str, str]) -> str:
    return " ".join(f"{key}={text}" for key, text in labels.items())


def _csv(header: Sequence[str], body: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *body])
    return text.getvalue()


def _markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in x)} |" for x in lines
    )
