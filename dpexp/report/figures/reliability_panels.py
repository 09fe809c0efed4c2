"""Reliability diagrams side by side: smallest and largest R that learn well, and no privacy.

Each panel is one run, the one of middle ECE among its seeds: a mean of diagrams would be that of
no model, and its bins would hold the same test images several times.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from dpexp.metrics.diagram import curve_handles, draw_curve
from dpexp.report.contents import Report
from dpexp.report.figures.look import (
    LEGEND,
    heading,
    new_panels,
    over_seeds,
    percent,
    plain,
    tidy,
)
from dpexp.report.figures.picture import Picture
from dpexp.report.figures.select import (
    curve_of,
    ends,
    grids_over_norms,
    middle_run,
    ordinary_of,
    slug,
)
from dpexp.report.groups import Grid, Point
from dpexp.report.runs import Run
from dpexp.report.words import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panel = tuple[str, Point, Run]  # title, its seeds, the one that is drawn


def reliability_pictures(report: Report) -> Iterator[Picture]:
    """Yield one picture for each grid over R whose runs hold reliability curves."""
    for grid in grids_over_norms(report):
        panels = panels_of(report, grid)
        if len(panels) < 2:
            continue
        words = "; ".join(_seen(panel) for panel in panels)
        yield Picture(
            name=f"reliability_{slug(grid)}",
            title=f"How far confidence is from accuracy, {grid.label}",
            caption=(
                f"Reliability diagrams, each of the run of middle ECE among its seeds. {words}. "
                f"Bars: accuracy of the test images in each of 15 bins of confidence; hatched "
                f"orange: confidence above accuracy; blue: below; whiskers: where a calibrated "
                f"model would fall 95 % of times. ECE, MCE and accuracy are means over seeds, ± "
                f"their standard deviation."
            ),
            alt=f"{len(panels)} reliability diagrams. {words}.",
            draw=partial(draw_reliability, panels),
        )


def panels_of(report: Report, grid: Grid) -> list[Panel]:
    """Return small R, large R and ordinary training, as many as there are."""
    points = [(f"R = {plain(point.clip_norm)}", point) for point in ends(report, grid)]
    ordinary = ordinary_of(report, grid)
    if ordinary is not None:
        points.append(("No privacy", ordinary))
    return [(title, point, run) for title, point in points if (run := middle_run(point))]


def draw_reliability(panels: Sequence[Panel], is_narrow: bool) -> "Figure":
    """Return one diagram a panel, with accuracy, errors and number of images above it."""
    figure, axes = new_panels(len(panels), is_narrow=is_narrow, per_row=(3, 1), height=(4.3, 4.5))
    for one, panel in zip(axes, panels, strict=True):
        _draw(one, panel)
    legend = LEGEND | {"fontsize": 9.5, "columnspacing": 1.2, "ncols": 2 if is_narrow else 5}
    figure.legend(handles=curve_handles(), loc="outside lower center", **legend)
    return figure


def _draw(axes: "Axes", panel: Panel) -> None:
    title, point, run = panel
    curve = curve_of(run)
    draw_curve(axes, curve)
    axes.set_xlabel("confidence")
    tidy(axes)
    lines = (
        _number(point, "accuracy", "accuracy"),
        f"{_number(point, 'ece', 'ECE')}, {_number(point, 'mce', 'MCE', 0)}",
        f"n = {curve.num_samples:,}, {'middle of ' * (len(point.runs) > 1)}"
        f"{count(len(point.runs), 'seed')}",
    )
    heading(axes, title, "\n".join(lines), size=12.5)


def _number(point: Point, key: str, word: str, digits: int = 1) -> str:
    values = list(point.values(f"test/{key}").values())
    return f"{word} {over_seeds(values, 100, digits)} %" if values else f"{word} not measured"


def _seen(panel: Panel) -> str:
    title, point, run = panel
    curve = curve_of(run)
    gap = curve.mean_confidence - curve.mean_accuracy
    direction = "over" if gap > 0 else "under"
    return (
        f"{title}: mean confidence {percent(curve.mean_confidence)} at accuracy "
        f"{percent(curve.mean_accuracy)} ({direction}-confident by {100 * abs(gap):.1f} points), "
        f"{_number(point, 'ece', 'ECE')}"
    )
