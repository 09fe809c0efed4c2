"""Accuracy against ECE, a mark for each R at its chosen learning rate."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from dpexp.report.contents import Report
from dpexp.report.figures.look import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    LEGEND,
    ORANGE,
    PALE,
    heading,
    moments,
    new_panels,
    percent,
    plain,
    tidy,
)
from dpexp.report.figures.picture import Picture
from dpexp.report.figures.select import drawn, grids_over_norms, is_at_chance, null_top, ordinary_of
from dpexp.report.groups import Grid, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SMALL: dict[str, Any] = {"color": BLUE, "marker": "o"}
_LARGE: dict[str, Any] = {"color": ORANGE, "marker": "s"}
_ORDINARY: dict[str, Any] = {"color": FAINT, "marker": "D"}
_SCALED: dict[str, Any] = {"color": GREEN, "marker": "^"}
UP_TO = 1.0  # what is called a small R, as in the answer


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """One panel.

    Attributes:
        grid: Whose points it shows.
        points: R -> its chosen point, that of guessing models left out.
        ordinary: Training without privacy; None if there is none.
        scaled: ECE of the compared small R after temperature scaling, and its point.
        null_top: Below this ECE a model cannot be told from a calibrated one, mean over runs.
    """

    grid: Grid
    points: dict[float, Point]
    ordinary: Point | None
    scaled: tuple[float, Point] | None
    null_top: float | None


def frontier_pictures(report: Report) -> Iterator[Picture]:
    """Yield one picture with a panel for each data set and epsilon; none without such a grid."""
    panels = [frontier_of(report, grid) for grid in grids_over_norms(report)]
    panels = [panel for panel in panels if panel.points]
    if not panels:
        return
    words = " ".join(_seen(panel) for panel in panels)
    yield Picture(
        name="frontier",
        title="Accuracy against ECE: what each clip norm reaches at the same epsilon",
        caption=(
            f"Right and down is better. {words} Each mark is the learning rate chosen for this R "
            f"on the validation part; bars are the standard deviation over seeds. In the grey band "
            f"an ECE cannot be told from that of a calibrated model. Clip norms that learn no more "
            f"than guessing are left out."
        ),
        alt=f"Test accuracy (x) against ECE (y), one mark for each clip norm. {words}",
        draw=partial(draw_frontiers, panels),
        width=960 if len(panels) > 1 else 634,
    )


def frontier_of(report: Report, grid: Grid) -> Frontier:
    """Return what a panel shows of one grid."""
    points = {norm: point for norm, point in drawn(grid).items() if not is_at_chance(point)}
    scaled = None
    for found in report.answer.comparisons:
        is_same = (found.data, found.model, found.eps) == (grid.data, grid.model, grid.eps)
        if is_same and found.measure == "ece" and found.recalibrated is not None:
            scaled = (found.recalibrated, found.small)
    return Frontier(
        grid=grid,
        points=points,
        ordinary=ordinary_of(report, grid),
        scaled=scaled,
        null_top=null_top(list(points.values())),
    )


def draw_frontiers(panels: Sequence[Frontier], is_narrow: bool) -> "Figure":
    """Return a panel a grid, its marks labelled with R."""
    figure, axes = new_panels(len(panels), is_narrow=is_narrow, per_row=(2, 1), height=(4.0, 3.9))
    for one, panel in zip(axes, panels, strict=True):
        _draw(one, panel)
    handles = _handles(panels)
    legend = LEGEND | {"fontsize": 9.5, "ncols": 2 if is_narrow else len(handles)}
    figure.legend(handles=handles, loc="outside lower center", **legend)
    return figure


def _draw(axes: "Axes", panel: Frontier) -> None:
    marks = [(point, f"R {plain(norm)}", _SMALL if norm <= UP_TO else _LARGE)
             for norm, point in panel.points.items()]  # fmt: skip
    if panel.ordinary is not None:
        marks.append((panel.ordinary, "no privacy", _ORDINARY))
    places = []
    for point, word, look in marks:
        x, dx = moments([100 * v for v in point.values("test/accuracy").values()])
        y, dy = moments([100 * v for v in point.values("test/ece").values()])
        axes.errorbar(x, y, xerr=dx or None, yerr=dy or None, ms=8, capsize=3, elinewidth=1.2,
                      mec="white", mew=0.8, ls="none", zorder=4, **look)  # fmt: skip
        places.append((x, y, word))
    if panel.scaled is not None:
        ece, point = panel.scaled
        x, _ = moments([100 * v for v in point.values("test/accuracy").values()])
        axes.plot(x, 100 * ece, ms=9, mec="white", mew=0.8, ls="none", zorder=5, **_SCALED)
        places.append((x, 100 * ece, f"R {plain(point.clip_norm)} scaled"))
    _limits(axes, places)
    _label(axes, places)
    if panel.null_top is not None:
        axes.axhspan(0, 100 * panel.null_top, color=PALE, lw=0, zorder=0)
    axes.set(xlabel="test accuracy (%)", ylabel="ECE (%)")
    heading(axes, panel.grid.data, panel.grid.label.partition(", ")[2])
    tidy(axes, grid="both")


def _limits(axes: "Axes", places: Sequence[tuple[float, float, str]]) -> None:
    left, right = axes.get_xlim()
    _, top = axes.get_ylim()
    room = max(0.14 * (right - left), 0.5)
    axes.set_xlim(left - room, min(100.0, right + room))
    axes.set_ylim(0, 1.08 * max(top, *(1.1 * y for _, y, _ in places)))


def _label(axes: "Axes", places: Sequence[tuple[float, float, str]]) -> None:
    """Write what each mark is to its right; to its left, above or below if one is in the way."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    taken = [((x - left) / (right - left), (y - bottom) / (top - bottom)) for x, y, _ in places]
    blocked = [(x - 0.025, y - 0.03, x + 0.025, y + 0.03) for x, y in taken]
    for (x, y), (_, _, word) in zip(taken, places, strict=True):
        wide = 0.021 * len(word)
        spots = [(x + 0.025, y + 0.035), (x - 0.025 - wide, y + 0.035), (x + 0.025, y - 0.085),
                 (x - 0.025 - wide, y - 0.085), (x - wide / 2, y + 0.1),
                 (x - wide / 2, y - 0.16)]  # fmt: skip
        boxes = [(u, v, u + wide, v + 0.055) for u, v in spots]
        box = min(boxes, key=lambda b: (_overlaps(b, blocked), boxes.index(b)))
        blocked.append(box)
        axes.annotate(word, (x, y), (box[0], box[1]), xycoords="axes fraction", fontsize=9.5,
                      textcoords="axes fraction", color=INK, zorder=6)  # fmt: skip


def _overlaps(box: tuple[float, ...], others: Sequence[tuple[float, ...]]) -> int:
    outside = box[0] < 0 or box[1] < 0 or box[2] > 1.02 or box[3] > 1
    return 2 * outside + sum(
        box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in others
    )


def _handles(panels: Sequence[Frontier]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    norms = [norm for panel in panels for norm in panel.points]
    entries = [
        (any(norm <= UP_TO for norm in norms), _SMALL, "R up to 1"),
        (any(norm > UP_TO for norm in norms), _LARGE, "R above 1"),
        (any(panel.ordinary for panel in panels), _ORDINARY, "no privacy"),
        (any(panel.scaled for panel in panels), _SCALED, "temperature-scaled"),
    ]
    handles: list[Any] = [
        Line2D([], [], ls="none", ms=8, mec="white", label=label, **look)
        for is_there, look, label in entries
        if is_there
    ]
    if any(panel.null_top is not None for panel in panels):
        handles.append(Patch(color=PALE, lw=0, label="as a calibrated model"))
    return handles


def _seen(panel: Frontier) -> str:
    def mean(norm: float, key: str) -> float:
        return panel.points[norm].mean(f"test/{key}") or 0.0

    best = max(panel.points, key=lambda norm: mean(norm, "accuracy"))
    lowest = min(panel.points, key=lambda norm: mean(norm, "ece"))
    return (
        f"{panel.grid.label}: best accuracy {percent(mean(best, 'accuracy'))} at R {plain(best)} "
        f"with ECE {percent(mean(best, 'ece'))}; lowest ECE {percent(mean(lowest, 'ece'))} at R "
        f"{plain(lowest)} with accuracy {percent(mean(lowest, 'accuracy'))}."
    )
