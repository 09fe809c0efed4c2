"""The reliability diagram, as a PNG that can be shown as it is.

Above: accuracy of each bin as a bar, its distance to the mean confidence of the bin in one of two
colours, and the range that a calibrated model's accuracy would fall into. Below: the share of
samples in each bin, with accuracy and mean confidence of the whole. The two colours are of the
Okabe-Ito palette, which colour-blind readers tell apart; over-confidence is hatched, for print.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpexp.metrics.png import new_figure, save_png
from dpexp.metrics.reliability import Reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACCURACY = "#A9CDE8"
INK = "#222222"
_OVER: dict[str, Any] = {"facecolor": "#E58A4B", "hatch": "////", "edgecolor": "white"}
_UNDER: dict[str, Any] = {"facecolor": "#0072B2", "edgecolor": "white"}
_BAR_TOP: dict[str, Any] = {"color": "#004A75", "lw": 2.4}
_DIAGONAL: dict[str, Any] = {"color": INK, "lw": 1.3, "ls": (0, (4, 3))}
_MEAN_ACCURACY: dict[str, Any] = {"color": "#004A75", "lw": 2.0}
_MEAN_CONFIDENCE: dict[str, Any] = {"color": "#D55E00", "lw": 2.0, "ls": (0, (1, 1))}
_LEGEND: dict[str, Any] = {"fontsize": 10.5, "frameon": False, "handlelength": 2.2}
BAND_LEVEL = 0.95


def save_reliability_diagram(
    reliability: Reliability, path: str | Path, *, title: str = "", subtitle: str = ""
) -> Path:
    """Write the reliability diagram as a PNG of 1080 by 1400 pixels, and return its path.

    Folders on the way are made; an older file of that name is replaced in one move.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = draw_reliability_diagram(reliability, title=title, subtitle=subtitle)
    return save_png(figure, path, dpi=200)


def draw_reliability_diagram(
    reliability: Reliability, *, title: str = "", subtitle: str = ""
) -> "Figure":
    """Return the reliability diagram as a figure of its own, outside of pyplot's list."""
    figure = new_figure(5.4, 7.0)
    curve, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(3.6, 1.0))
    draw_curve(curve, reliability)
    _add_numbers(curve, reliability)
    _draw_histogram(histogram, reliability)
    _add_title(curve, title, subtitle)
    handles = [*curve_handles(), *_mean_handles()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, **_LEGEND)
    return figure


def calibrated_range(count: int, confidence: float) -> tuple[float, float]:
    """Return between which accuracies a calibrated bin falls with a chance of 0.95 or more.

    Quantiles of a binomial with the mean confidence as its chance, as fractions of `count`. The
    confidences in one bin differ a little, which only narrows the distribution.
    """
    from scipy.stats import binom

    low, high = binom.interval(BAND_LEVEL, count, min(confidence, 1.0))
    return float(low) / count, float(high) / count


def draw_curve(axes: "Axes", reliability: Reliability) -> None:
    """Draw the bars of accuracy, their gaps and their ranges; what `curve_handles` explains."""
    axes.plot([0, 1], [0, 1], clip_on=False, zorder=4, **_DIAGONAL)
    for left, right, count, accuracy, confidence in _filled(reliability):
        _draw_bar(axes, left, right, accuracy, confidence)
        _draw_range(axes, left, right, count, confidence)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    _tidy(axes)


def _draw_bar(axes: "Axes", left: float, right: float, accuracy: float, confidence: float) -> None:
    low, high = sorted((accuracy, confidence))
    gap = _OVER if confidence > accuracy else _UNDER
    place: dict[str, Any] = {"width": right - left, "align": "edge", "linewidth": 0, "zorder": 2}
    axes.bar(left, low, color=ACCURACY, **place)
    axes.bar(left, high - low, bottom=low, **gap, **place)
    axes.vlines([left, right], 0, high, color="white", lw=1.2, zorder=2.5)
    axes.hlines(accuracy, left, right, zorder=3, clip_on=False, **_BAR_TOP)


def _draw_range(axes: "Axes", left: float, right: float, count: int, confidence: float) -> None:
    """Draw a whisker with caps, dark on a white outline so that it shows on every colour."""
    low, high = calibrated_range(count, confidence)
    x, half = (left + right) / 2, (right - left) / 6
    for color, width, zorder in (("white", 2.6, 5), (INK, 1.0, 6)):
        line: dict[str, Any] = {"color": color, "lw": width, "zorder": zorder, "clip_on": False}
        axes.vlines(x, low, high, **line)
        axes.hlines([low, high], x - half, x + half, **line)


def _add_numbers(axes: "Axes", reliability: Reliability) -> None:
    """Write accuracy, ECE and n into the upper left corner; if bars are there, the lower right."""
    is_covered = any(
        left < 0.42 and max(accuracy, confidence) > 0.76
        for left, _, _, accuracy, confidence in _filled(reliability)
    )
    x, y, ha, va = (0.97, 0.04, "right", "bottom") if is_covered else (0.03, 0.965, "left", "top")
    text = (
        f"accuracy {reliability.mean_accuracy:.1%}\n"
        f"ECE {reliability.ece:.2%}\n"
        f"n = {reliability.num_samples:,}"
    )
    box = {"facecolor": "white", "edgecolor": "#BBBBBB", "boxstyle": "round,pad=0.45"}
    place: dict[str, Any] = {
        "transform": axes.transAxes,
        "ha": ha,
        "va": va,
        "zorder": 7,
        "bbox": box,
    }
    axes.text(x, y, text, fontsize=13, linespacing=1.45, color=INK, **place)


def _draw_histogram(axes: "Axes", reliability: Reliability) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    for left, right, count, _, _ in _filled(reliability):
        share = count / reliability.num_samples
        axes.bar(
            left, share, right - left, align="edge", color="#BDBDBD", edgecolor="white", lw=1.2
        )
    axes.axvline(reliability.mean_accuracy, clip_on=False, **_MEAN_ACCURACY)
    axes.axvline(reliability.mean_confidence, clip_on=False, **_MEAN_CONFIDENCE)
    axes.set(ylim=(0, None), xlabel="confidence", ylabel="samples")
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _tidy(axes)


def _filled(reliability: Reliability) -> list[tuple[float, float, int, float, float]]:
    """Return (left, right, count, accuracy, confidence) of each bin that holds a sample."""
    edges = zip(reliability.edges[:-1], reliability.edges[1:], reliability.count, strict=True)
    ends = [(left, right) for left, right, count in edges if count]
    return [(*end, *values) for end, values in zip(ends, reliability.filled_bins(), strict=True)]


def _add_title(axes: "Axes", title: str, subtitle: str) -> None:
    size = min(15.0, 15.0 * 36 / max(len(title), 1))  # 36 bold characters fill the width
    axes.set_title(title, fontsize=size, fontweight="bold", color=INK, pad=26 if subtitle else 9)
    place: dict[str, Any] = {
        "xycoords": "axes fraction",
        "textcoords": "offset points",
        "ha": "center",
    }
    axes.annotate(subtitle, (0.5, 1), (0, 8), fontsize=12, color=INK, **place)


def curve_handles() -> list[Any]:
    """Return what a legend says of `draw_curve`."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.path import Path as Outline

    capital_i = Outline(
        [(-0.5, -1), (0.5, -1), (0, -1), (0, 1), (-0.5, 1), (0.5, 1)],
        [Outline.MOVETO, Outline.LINETO] * 3,
    )
    whisker: dict[str, Any] = {"marker": capital_i, "markersize": 13, "ls": "none", "color": INK}
    return [
        Line2D([], [], label="accuracy in the bin", **_BAR_TOP),
        Patch(label="over-confident by", lw=0, **_OVER),
        Patch(label="under-confident by", lw=0, **_UNDER),
        Line2D([], [], label="perfect calibration", **_DIAGONAL),
        Line2D([], [], label=f"{BAND_LEVEL:.0%} of calibrated models", **whisker),
    ]


def _mean_handles() -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], label="mean accuracy", **_MEAN_ACCURACY),
        Line2D([], [], label="mean confidence", **_MEAN_CONFIDENCE),
    ]


def _tidy(axes: "Axes") -> None:
    axes.tick_params(labelsize=11, colors=INK)
    axes.xaxis.label.set(fontsize=13, color=INK)
    axes.yaxis.label.set(fontsize=13, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#E3E3E3", lw=0.7)
    axes.set_axisbelow(True)
