"""What all figures of a report share: colours, sizes, axes, and numbers as they are printed.

Colours are of the Okabe-Ito palette, which colour-blind readers tell apart, and nothing rests on
colour alone: lines differ in dash, marks in shape, shaded areas in hatching, for grey print.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dpexp.metrics.png import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, PALE = "#222222", "#6E6E6E", "#E4E4E4"
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#00795C", "#8A3F73"
WIDE, NARROW = 9.6, 4.3  # inches: 960 pixels of a page, and the width of a phone
LEGEND: dict[str, Any] = {"fontsize": 10, "frameon": False, "handlelength": 2.6}


def new_panels(
    count: int, *, is_narrow: bool, per_row: tuple[int, int], height: tuple[float, float]
) -> tuple["Figure", list["Axes"]]:
    """Return a figure and `count` panels in reading order.

    Args:
        count: Panels, at least one.
        is_narrow: Whether the figure is for a phone.
        per_row: Panels beside each other on a wide page, and on a phone.
        height: Inches of one row of panels on a wide page, and on a phone.
    """
    columns = min(per_row[is_narrow], count)
    rows = math.ceil(count / columns)
    full = NARROW if is_narrow else WIDE
    # One lone panel would be as wide as the page, and taller than a screen.
    width = full if is_narrow or columns > 1 else 0.66 * full
    figure = new_figure(width, rows * height[is_narrow])
    grid = figure.subplots(rows, columns, squeeze=False)
    panels = [axes for row in grid for axes in row]
    for spare in panels[count:]:
        spare.set_visible(False)
    return figure, panels[:count]


def tidy(axes: "Axes", *, grid: str | None = "y", size: float = 10) -> None:
    """Give axes the look of the house."""
    axes.tick_params(labelsize=size, colors=INK)
    axes.xaxis.label.set(fontsize=size + 1, color=INK)
    axes.yaxis.label.set(fontsize=size + 1, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(axis=grid, color=PALE, lw=0.7)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def heading(axes: "Axes", title: str, detail: str = "", *, size: float = 11.5) -> None:
    """Write a bold title over a panel, and below it a plain line or two."""
    lines = detail.count("\n") + 1 if detail else 0
    axes.set_title(title, loc="left", fontsize=size, fontweight="bold", color=INK,
                   pad=7 + 1.42 * (size - 2) * lines)  # fmt: skip
    if detail:
        axes.annotate(detail, (0, 1), (0, 5), xycoords="axes fraction", va="bottom",
                      textcoords="offset points", fontsize=size - 2, color=INK)  # fmt: skip


def log_ticks(axes: "Axes", values: Sequence[float]) -> None:
    """Make the x axis logarithmic with a tick at each value, as it is written."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(values)))
    axes.xaxis.set_major_formatter(FixedFormatter([plain(value) for value in values]))
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = min(values), max(values)
    room = 1.5 if low == high else (high / low) ** 0.08
    axes.set_xlim(low / room, high * room)


def plain(value: float) -> str:
    """Return a number without exponent where that is short: 0.004, 100, 1e-05."""
    return f"{value:.4g}"


def percent(value: float, digits: int = 1) -> str:
    """Return a fraction as a percentage."""
    return f"{100 * value:.{digits}f} %"


def over_seeds(values: Sequence[float], scale: float = 1.0, digits: int = 1) -> str:
    """Return "mean ± standard deviation" over seeds; the value alone where there is one."""
    mean, deviation = moments(values)
    text = f"{scale * mean:.{digits}f}"
    return f"{text} ± {scale * deviation:.{digits}f}" if len(values) > 1 else text


def moments(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean, and the standard deviation of a sample (n - 1); 0 for one value."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, 0.0
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def readable_on(face: Sequence[float]) -> str:
    """Return white or ink, whichever has the larger contrast on a colour of R, G, B in [0, 1].

    Source: W3C 2018, WCAG 2.1, relative luminance; white and black are equal at 0.179.
    """
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in face[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "white" if luminance < 0.179 else INK
