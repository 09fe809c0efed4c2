"""Accuracy and ECE over R and learning rate, as a pair of heat maps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from dpexp.report.contents import Report
from dpexp.report.figures.look import (
    INK,
    LEGEND,
    heading,
    new_panels,
    percent,
    plain,
    readable_on,
)
from dpexp.report.figures.picture import Picture
from dpexp.report.figures.select import is_at_chance, slug
from dpexp.report.groups import SELECTED_BY, Grid, Point, best_of
from dpexp.report.words import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAILED = "#D9D9D9"


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Points by (R, lr), and how they are shown.

    Attributes:
        points: (R, lr) -> point; of lr six digits.
        chosen: R -> lr of the best accuracy on validation, for each R with a point that learns;
            {} without a validation part, for nothing is chosen on the test set.
        part: val or test: what the values are of.
    """

    points: dict[tuple[float, float], Point]
    chosen: dict[float, float]
    part: str

    @property
    def norms(self) -> list[float]:
        """Every R, ascending."""
        return sorted({norm for norm, _ in self.points})

    @property
    def by_product(self) -> bool:
        """Whether rows are R times lr: where each R has learning rates of its own, that is short.

        Where every sample is clipped nothing but this product matters, so that rows are constant.
        """
        products = {_rounded(norm * lr) for norm, lr in self.points}
        return len(products) < len({lr for _, lr in self.points})

    def row(self, norm: float, lr: float) -> float:
        """Return what the row of a cell is called."""
        return _rounded(norm * lr) if self.by_product else lr

    @property
    def rows(self) -> list[float]:
        """Every row, descending: the largest is at the top."""
        return sorted({self.row(*place) for place in self.points}, reverse=True)


def heat_map_pictures(report: Report) -> Iterator[Picture]:
    """Yield one pair for each private grid with several R and several learning rates."""
    for grid in report.grids:
        cells = cells_of(grid)
        classifies = any(point.values("test/accuracy") for point in cells.points.values())
        lrs = {lr for _, lr in cells.points}
        if grid.eps is None or len(cells.norms) < 2 or len(lrs) < 2 or not classifies:
            continue
        any_point = next(iter(cells.points.values()))
        words = _seen(cells)
        what = "validation part" if cells.part == "val" else "test set"
        framed = "Framed: the learning rate with the best accuracy at this R. " * bool(cells.chosen)
        yield Picture(
            name=f"heat_map_{slug(grid)}",
            title=f"Accuracy and ECE over clip norm R and learning rate, {grid.label}",
            caption=(
                f"{words} Each cell is the mean over {count(len(any_point.runs), 'seed')} of "
                f"{any_point.steps:,} steps, measured on the {what}. {framed}Hatched: "
                f"diverged, or within 2 points of guessing, where an ECE says nothing. Empty: not "
                f"run. Where every sample is clipped only R times lr matters: cells of one "
                f"{'row' if cells.by_product else 'diagonal'} then agree."
            ),
            alt=f"Two heat maps over R (columns) and learning rate (rows). {words}",
            draw=partial(draw_heat_maps, cells),
        )


def cells_of(grid: Grid) -> Cells:
    """Return the search of a grid, or its final points where there was no search."""
    source: Sequence[Point] = grid.search or grid.final
    steps = max(point.steps for point in source)
    points = {(p.clip_norm, _rounded(p.lr)): p for p in source if p.steps == steps}
    part = "val" if all(p.mean(SELECTED_BY) is not None for p in points.values()) else "test"
    chosen = {}
    for norm in sorted({norm for norm, _ in points}) if part == "val" else ():
        learned = [p for p in points.values()
                   if p.clip_norm == norm and not is_at_chance(p, part)]  # fmt: skip
        if learned:
            chosen[norm] = _rounded(best_of(learned).lr)
    return Cells(points=points, chosen=chosen, part=part)


def draw_heat_maps(cells: Cells, is_narrow: bool) -> "Figure":
    """Return accuracy beside ECE, numbers in percent."""
    from matplotlib.patches import Patch

    height = 1.5 + (0.52 if cells.by_product else 0.42) * len(cells.rows)
    figure, (left, right) = new_panels(2, is_narrow=is_narrow, per_row=(2, 1),
                                       height=(height, height))  # fmt: skip
    _draw(left, cells, "accuracy", "Blues")
    _draw(right, cells, "ece", "Oranges")
    heading(left, "Accuracy (%)", "darker is better", size=12.5)
    heading(right, "ECE (%)", "lighter is better", size=12.5)
    handles = [Patch(facecolor=FAILED, hatch="////", edgecolor="white", lw=0,
                     label="guessing or diverged")]  # fmt: skip
    if cells.chosen:
        handles.insert(
            0, Patch(facecolor="white", edgecolor=INK, lw=2.4, label="chosen for this R")
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=2, **LEGEND)
    return figure


def _draw(axes: "Axes", cells: Cells, measure: str, colors: str) -> None:
    from matplotlib import colormaps

    values = {place: point.mean(f"{cells.part}/{measure}") for place, point in cells.points.items()
              if not is_at_chance(point, cells.part)}  # fmt: skip
    known = [value for value in values.values() if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    for (norm, lr), point in cells.points.items():
        x, y = cells.norms.index(norm), cells.rows.index(cells.row(norm, lr))
        named_lr = lr if cells.by_product else None
        value = values.get((norm, lr))
        if value is None:
            _box(axes, x, y, facecolor=FAILED, hatch="////", edgecolor="white", lw=0)
            shown = point.mean(f"{cells.part}/{measure}")
            text = "-" if shown is None else f"{100 * shown:.1f}"
            text = "diverged" if point.num_diverged else text
            _write(axes, x, y, text, named_lr, INK, FAILED)
            continue
        face = colormaps[colors](0.06 + 0.86 * (value - low) / ((high - low) or 1.0))
        _box(axes, x, y, facecolor=face)
        _write(axes, x, y, f"{100 * value:.1f}", named_lr, readable_on(face))
    for norm, lr in cells.chosen.items():
        x, y = cells.norms.index(norm), cells.rows.index(cells.row(norm, lr))
        _box(axes, x, y, fill=False, edgecolor=INK, lw=2.4, zorder=5)
    _scale(axes, cells)


def _scale(axes: "Axes", cells: Cells) -> None:
    axes.set_xlim(-0.5, len(cells.norms) - 0.5)
    axes.set_ylim(len(cells.rows) - 0.5, -0.5)
    axes.set_xticks(range(len(cells.norms)), [plain(norm) for norm in cells.norms], fontsize=10)
    axes.set_yticks(range(len(cells.rows)), [plain(row) for row in cells.rows], fontsize=10)
    axes.set_xlabel("clip norm R (gradient units)", fontsize=11, color=INK)
    name = "R times learning rate" if cells.by_product else "learning rate (per step)"
    axes.set_ylabel(name, fontsize=11, color=INK)
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)


def _write(
    axes: "Axes", x: int, y: int, text: str, lr: float | None, color: str, behind: str = "none"
) -> None:
    look: dict[str, Any] = {"ha": "center", "va": "center", "color": color, "zorder": 4}
    look["bbox"] = {"facecolor": behind, "edgecolor": "none", "pad": 1}
    axes.text(x, y - 0.16 * (lr is not None), text, fontsize=10, **look)
    if lr is not None:
        axes.text(x, y + 0.24, f"lr {plain(lr)}", fontsize=8, **look)


def _box(axes: "Axes", x: int, y: int, **look: Any) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, **look))


def _rounded(value: float) -> float:
    # 0.3 / 0.1 and 3 are one learning rate.
    return float(f"{value:.6g}")


def _seen(cells: Cells) -> str:
    learned = {place: point for place, point in cells.points.items()
               if not is_at_chance(point, cells.part)}  # fmt: skip
    if not learned:
        return "No cell learns more than guessing."

    def mean(place: tuple[float, float], measure: str) -> float:
        return learned[place].mean(f"{cells.part}/{measure}") or 0.0

    best = max(learned, key=lambda place: mean(place, "accuracy"))
    lowest = min(learned, key=lambda place: mean(place, "ece"))
    return (
        f"The best accuracy, {percent(mean(best, 'accuracy'))}, is at R {plain(best[0])} and lr "
        f"{plain(best[1])}, with ECE {percent(mean(best, 'ece'))}; the lowest ECE of a model that "
        f"learns, {percent(mean(lowest, 'ece'))}, at R {plain(lowest[0])} and lr "
        f"{plain(lowest[1])}, with accuracy {percent(mean(lowest, 'accuracy'))}."
    )
