"""Accuracy against ECE, a mark for each R at its chosen learning rate."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from dpexp.report.claims.norms import SMALL_UP_TO
from dpexp.report.contents import Report
from dpexp.report.figures.labels import Place, label, make_room
from dpexp.report.figures.look import (
    BLUE,
    FAINT,
    GREEN,
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
from dpexp.report.figures.select import (
    drawn,
    grids_over_norms,
    has_validation,
    is_at_chance,
    null_top,
    ordinary_of,
)
from dpexp.report.groups import Grid, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN_WITHIN = 0.1  # of the best accuracy; a mark far off would press the others together

_SMALL: dict[str, Any] = {"color": BLUE, "marker": "o"}
_LARGE: dict[str, Any] = {"color": ORANGE, "marker": "s"}
_ORDINARY: dict[str, Any] = {"color": FAINT, "marker": "D"}
_SCALED: dict[str, Any] = {"color": GREEN, "marker": "^"}


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """One panel.

    Attributes:
        grid: Whose points it shows.
        points: R -> its chosen point, that of guessing models left out.
        beyond: Those of them that are too far below the best accuracy to be drawn.
        ordinary: Training without privacy; None if there is none.
        scaled: ECE of the compared small R after temperature scaling, and its point.
        null_top: Below this ECE a model cannot be told from a calibrated one, mean over runs.
    """

    grid: Grid
    points: dict[float, Point]
    beyond: dict[float, Point]
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
            f"Right and down is better. {_how_chosen(panels)}; bars are the standard deviation "
            f"over seeds. In the grey band an ECE cannot be told from that of a calibrated model. "
            f"Clip norms more than {100 * SHOWN_WITHIN:.0f} points below the best accuracy are "
            f"named above the panel, and those that learn no more than guessing are left out."
        ),
        alt=f"Test accuracy (x) against ECE (y), one mark for each clip norm. {words}",
        draw=partial(draw_frontiers, panels),
        width=960 if len(panels) > 1 else 634,
    )


def frontier_of(report: Report, grid: Grid) -> Frontier:
    """Return what a panel shows of one grid."""
    learned = {norm: point for norm, point in drawn(grid).items() if not is_at_chance(point)}
    floor = max((_mean(p, "accuracy") for p in learned.values()), default=0.0) - SHOWN_WITHIN
    points = {norm: p for norm, p in learned.items() if _mean(p, "accuracy") >= floor}
    scaled = None
    for found in report.answer.comparisons:
        is_same = (found.data, found.model, found.eps) == (grid.data, grid.model, grid.eps)
        if is_same and found.measure == "ece" and found.recalibrated is not None:
            scaled = (found.recalibrated, found.small)
    return Frontier(
        grid=grid,
        points=points,
        beyond={norm: point for norm, point in learned.items() if norm not in points},
        ordinary=ordinary_of(report, grid),
        scaled=scaled,
        null_top=null_top(list(learned.values())),
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
    marks = [(point, f"R {plain(norm)}", _SMALL if norm <= SMALL_UP_TO else _LARGE)
             for norm, point in panel.points.items()]  # fmt: skip
    if panel.ordinary is not None:
        marks.append((panel.ordinary, "no privacy", _ORDINARY))
    places: list[Place] = []
    for point, word, look in marks:
        x, dx = moments([100 * v for v in point.values("test/accuracy").values()])
        y, dy = moments([100 * v for v in point.values("test/ece").values()])
        axes.errorbar(x, y, xerr=dx or None, yerr=dy or None, ms=8, capsize=3, elinewidth=1.2,
                      mec="white", mew=0.8, ls="none", zorder=4, **look)  # fmt: skip
        places.append(Place(x, y, dx, dy, word))
    if panel.scaled is not None:
        ece, point = panel.scaled
        x, _ = moments([100 * v for v in point.values("test/accuracy").values()])
        axes.plot(x, 100 * ece, ms=9, mec="white", mew=0.8, ls="none", zorder=5, **_SCALED)
        places.append(Place(x, 100 * ece, 0.0, 0.0, f"R {plain(point.clip_norm)} scaled"))
    make_room(axes, places)
    label(axes, places)
    if panel.null_top is not None:
        axes.axhspan(0, 100 * panel.null_top, color=PALE, lw=0, zorder=0)
    axes.set(xlabel="test accuracy (%)", ylabel="ECE (%)")
    lines = [panel.grid.label.partition(", ")[2]]
    lines += [f"far to the left: R {plain(norm)}, {_pair(p)}" for norm, p in panel.beyond.items()]
    heading(axes, panel.grid.data, "\n".join(lines))
    tidy(axes, grid="both")


def _handles(panels: Sequence[Frontier]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    norms = [norm for panel in panels for norm in panel.points]
    entries = [
        (any(norm <= SMALL_UP_TO for norm in norms), _SMALL, "R up to 1"),
        (any(norm > SMALL_UP_TO for norm in norms), _LARGE, "R above 1"),
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


def _how_chosen(panels: Sequence[Frontier]) -> str:
    known = {has_validation(panel.grid) for panel in panels}
    if True not in known:
        return "Each mark is one learning rate for this R, with no validation part to choose it on"
    where = ", where there is one" * (False in known)
    return f"Each mark is the learning rate chosen for this R on the validation part{where}"


def _mean(point: Point, key: str) -> float:
    return point.mean(f"test/{key}") or 0.0


def _pair(point: Point) -> str:
    return f"{percent(_mean(point, 'accuracy'))}, ECE {percent(_mean(point, 'ece'))}"


def _seen(panel: Frontier) -> str:
    best = max(panel.points, key=lambda norm: _mean(panel.points[norm], "accuracy"))
    lowest = min(panel.points, key=lambda norm: _mean(panel.points[norm], "ece"))
    return (
        f"{panel.grid.label}: best accuracy {_pair(panel.points[best])} at R {plain(best)}; lowest "
        f"ECE of those near it {_pair(panel.points[lowest])} at R {plain(lowest)}."
    )
