"""Curves over the steps of a run, as mean and range over seeds."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dpexp.report.groups import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Band = list[tuple[int, float, float, float]]  # step, smallest, mean, largest over seeds


def band_of(point: Point, key: str) -> Band:
    """Return a key of the curves at every step that all seeds have it at."""
    curves = [{row["step"]: row[key] for row in run.curve if _is_number(row.get(key))}
              for run in point.runs]  # fmt: skip
    steps = sorted(set(curves[0]).intersection(*curves[1:]))
    rows = ((step, [curve[step] for curve in curves]) for step in steps)
    return [(step, min(v), math.fsum(v) / len(v), max(v)) for step, v in rows]


def draw_band(
    axes: "Axes", band: Band, *, per_step: float = 1.0, scale: float = 1.0, **look: Any
) -> None:
    """Draw the mean as a line, and the range over seeds behind it.

    Args:
        axes: To draw on.
        band: What is drawn.
        per_step: What a step is multiplied with, such as epochs a step.
        scale: What a value is multiplied with, such as 100 for percent.
        look: Of the line.
    """
    x = [per_step * step for step, _, _, _ in band]
    axes.fill_between(x, [scale * low for _, low, _, _ in band],
                      [scale * high for _, _, _, high in band],
                      color=look["color"], alpha=0.18, lw=0)  # fmt: skip
    axes.plot(x, [scale * mean for _, _, mean, _ in band], **look)


def watched_part(points: Sequence[Point]) -> str:
    """Return val or test: the part that all points were evaluated on at more steps."""
    lengths = {part: min(len(band_of(point, f"{part}/ece")) for point in points)
               for part in ("test", "val")}  # fmt: skip
    return max(lengths, key=lambda part: lengths[part])


def watched_words(points: Sequence[Point], part: str) -> str:
    """Return what was looked at during training: part, and number of images if it is recorded."""
    key = f"{part}/num_samples"
    counts = [row[key] for point in points for run in point.runs
              for row in run.curve[:-1] if key in row]  # fmt: skip
    name = {"val": "validation", "test": "test"}[part]
    return f"{max(counts):,} {name} images" if counts else f"{name} images"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
