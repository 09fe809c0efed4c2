"""The figure of `dpexp bench layers`: a panel a layer type, a column a layer, a row a way."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

from dpexp.metrics.png import save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#222222", "#8A8A8A"
# Below and above an ordinary weight gradient; colour-blind readers tell blue from orange.
COLORS = ("#2C7BB6", "#F7F7F7", "#D7601A")
DARKEST = 8.0  # times the ordinary weight gradient, and one over it, at the ends of the colours
NAMES = {
    "ghost": "Gram matrices (ghost)",
    "triangle": "Gram, lower triangle",
    "syrk": "Gram, BLAS syrk",
    "pixels": "Gram of pixels",
    "instantiate": "gradient of each sample",
    "instantiate_patches": "gradient, from patches",
    "instantiate_correlation": "gradient, by correlation",
}
TITLES = {
    "linear": "Linear, width to 4 x width",
    "conv 3x3": "Convolution 3x3, width to width",
    "conv 1x1": "Convolution 1x1, width to width",
    "depthwise 7x7": "Depthwise convolution 7x7",
    "conv 3x3, stride 2": "Convolution 3x3 with stride 2, width to width",
}


class Cell(Protocol):
    """The place of a layer in the grid."""

    @property
    def kind(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def width(self) -> int: ...


class Timed(Protocol):
    """One way and its time."""

    @property
    def norm(self) -> str: ...
    @property
    def with_sum(self) -> float: ...


class Row(Protocol):
    """What every way costs on one layer."""

    @property
    def layer(self) -> Cell: ...
    @property
    def ways(self) -> Sequence[Timed]: ...
    @property
    def best(self) -> str: ...
    @property
    def paper(self) -> str: ...


def save_figure(rows: Sequence[Row], path: Path, batch: int) -> Path:
    """Write the figure as a PNG, in one move, and return its path."""
    return save_png(draw(rows, batch), path, dpi=110)


def draw(rows: Sequence[Row], batch: int) -> "Figure":
    """Return the figure, outside of pyplot's list."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(h_pad=0.09, w_pad=0.1)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.layer.kind, []).append(row)
    heights = [len(_ways(group)) + 2.2 for group in groups.values()]
    figure = Figure(figsize=(15, 0.36 * sum(heights) + 2.4), layout=layout)
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(groups), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (kind, group) in zip(panels, groups.items(), strict=True):
        _draw_panel(axes, kind, group)
    figure.suptitle(
        "Clipped over ordinary weight gradients, in time: 1.00 is as fast as ordinary training",
        fontsize=16, fontweight="bold", color=INK,
    )  # fmt: skip
    _add_legend(figure, batch)
    return figure


def _draw_panel(axes: "Axes", kind: str, rows: Sequence[Row]) -> None:
    ways = _ways(rows)
    for column, row in enumerate(rows):
        times = {way.norm: way.with_sum for way in row.ways}
        for line, way in enumerate(ways):
            _draw_cell(axes, column, line, times.get(way))
        _frame(axes, column, ways.index(row.best))
        _ring(axes, column, ways.index(row.paper))
    axes.set(xlim=(-0.5, len(rows) - 0.5), ylim=(len(ways) - 0.5, -0.5))
    axes.set_yticks(range(len(ways)), [NAMES.get(way, way) for way in ways], fontsize=11)
    axes.set_xticks(range(len(rows)), [f"{row.layer.width}" for row in rows], fontsize=10)
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)
    axes.set_title(
        f"{TITLES.get(kind, kind)}   ", loc="left", fontsize=13, fontweight="bold", color=INK
    )
    axes.set_title(_verdict(rows), loc="right", fontsize=11.5, color=INK)
    _add_sizes(axes, kind, rows)


def _ways(rows: Sequence[Row]) -> list[str]:
    """Return the ways that any of the layers has, in the order of the names."""
    found = {way.norm for row in rows for way in row.ways}
    return [*(name for name in NAMES if name in found), *sorted(found - set(NAMES))]


def _draw_cell(axes: "Axes", column: int, line: int, ratio: float | None) -> None:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    place = ((column - 0.5, line - 0.5), 1, 1)
    if ratio is None:
        axes.add_patch(Rectangle(*place, facecolor="white", edgecolor="#DDDDDD", hatch="///", lw=0))
        return
    shade = 0.5 + 0.5 * max(-1.0, min(1.0, math.log(ratio) / math.log(DARKEST)))
    color = LinearSegmentedColormap.from_list("ratio", COLORS)(shade)
    axes.add_patch(Rectangle(*place, facecolor=color, edgecolor="white", lw=1))
    text = f"{ratio:.2f}" if ratio < 9.995 else f"{ratio:.0f}"
    ink = "white" if abs(shade - 0.5) > 0.42 else INK
    axes.text(column + 0.05, line + 0.04, text, ha="center", va="center", fontsize=10, color=ink)


def _frame(axes: "Axes", column: int, line: int) -> None:
    from matplotlib.patches import Rectangle

    place = ((column - 0.47, line - 0.44), 0.94, 0.88)
    axes.add_patch(Rectangle(*place, facecolor="none", edgecolor=INK, lw=2.4, zorder=4))


def _ring(axes: "Axes", column: int, line: int) -> None:
    """Mark the paper's choice by a dot in the cell's corner."""
    axes.plot(column - 0.38, line - 0.27, "o", ms=6, mfc=INK, mec="white", mew=0.9, zorder=5)


def _add_sizes(axes: "Axes", kind: str, rows: Sequence[Row]) -> None:
    """Write the spatial size under each group of columns, and part the groups by a line."""
    sizes = [row.layer.size for row in rows]
    for size in dict.fromkeys(sizes):
        columns = [i for i, each in enumerate(sizes) if each == size]
        text = f"T = {size}" if kind == "linear" else f"{size} x {size} pixels"
        middle = (columns[0] + columns[-1]) / 2
        axes.annotate(
            text, (middle, 0), (0, -20), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="center", va="top", fontsize=11.5, fontweight="bold",
            color=INK,
        )  # fmt: skip
        if columns[0]:
            axes.axvline(columns[0] - 0.5, color=INK, lw=1.3, zorder=3)
    axes.annotate(
        "width", (0, 0), (-8, -6), xycoords="axes fraction", textcoords="offset points",
        ha="right", va="top", fontsize=10, color=FAINT,
    )  # fmt: skip


def _verdict(rows: Sequence[Row]) -> str:
    """Return how often the paper's rule is right, and what it costs where it is not."""
    right = sum(row.best == row.paper for row in rows)
    losses = []
    for row in rows:
        times = {way.norm: way.with_sum for way in row.ways}
        if row.best != row.paper:
            losses.append(times[row.paper] / times[row.best])
    text = f"rule 2T² ≤ pD takes the fastest way in {right} of {len(rows)}"
    if losses:
        text += (
            f"; else it takes {median(losses):.1f} times as long (median), up to {max(losses):.1f}"
        )
    return text


def _add_legend(figure: "Figure", batch: int) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    dot: dict[str, Any] = {"marker": "o", "ls": "none", "ms": 8, "mfc": INK, "mec": "white"}
    handles = [
        Patch(label="fastest way", facecolor="none", edgecolor=INK, lw=2.4),
        Line2D([], [], label="what the memory rule takes: ghost where 2T² ≤ pD", **dot),
        Patch(label="faster than ordinary training", facecolor=COLORS[0]),
        Patch(label="as fast (1.00)", facecolor=COLORS[1], edgecolor=FAINT, lw=0.6),
        Patch(label=f"slower; darkest from {DARKEST:g} times on", facecolor=COLORS[2]),
        Patch(label="not timed: over 6 times the operations, or too large", facecolor="white",
              edgecolor="#BBBBBB", hatch="///", lw=0),
    ]  # fmt: skip
    note = (
        f"A column is a layer, a row a way to take the norms of {batch} samples' gradients; a "
        f"number is the time of norms and clipped sum over that of the layer's ordinary weight\n"
        f"gradient. T positions that a layer is shared over, D inputs of its weight (times the "
        f"kernel), p outputs."
    )
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": 3, "frameon": False}
    figure.legend(handles=handles, title=note, title_fontsize=11.5, fontsize=11.5, **place)
