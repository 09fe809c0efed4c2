"""Every calibration measure against R, as small multiples."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from dpexp.report.contents import Report
from dpexp.report.figures.look import (
    BLUE,
    FAINT,
    INK,
    LEGEND,
    PALE,
    heading,
    log_ticks,
    new_panels,
    plain,
    tidy,
)
from dpexp.report.figures.picture import Picture
from dpexp.report.figures.select import (
    accurate_norms,
    drawn,
    grids_over_norms,
    has_validation,
    ordinary_of,
    slug,
)
from dpexp.report.groups import Grid, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Shown:
    """A measure: its key, its name, its unit, and what it is multiplied with for that."""

    key: str
    name: str
    unit: str = "%"
    scale: float = 100.0


SHOWN = (
    Shown("accuracy", "Accuracy"),
    Shown("ece", "ECE"),
    Shown("adaptive_ece", "Adaptive ECE"),
    Shown("classwise_ece", "Class-wise ECE"),
    Shown("ks_error", "KS error"),
    Shown("mce", "MCE"),
    Shown("nll_nats", "NLL", "nats", 1.0),
    Shown("brier", "Brier score", "", 1.0),
)


def measures_pictures(report: Report) -> Iterator[Picture]:
    """Yield one picture for each grid over R, of the measures that its runs hold."""
    for grid in grids_over_norms(report):
        shown = [one for one in SHOWN if values_of(grid, one)]
        ordinary = ordinary_of(report, grid)
        accurate = ", ".join(plain(norm) for norm in accurate_norms(grid))
        lowest = "; ".join(_lowest(grid, one) for one in shown if one.key != "accuracy")
        yield Picture(
            name=f"measures_{slug(grid)}",
            title=f"Every measure against R, {grid.label}",
            caption=(
                f"Dots are seeds, the line joins their means, at {_how_chosen(grid)} ({accurate}); "
                f"outside of it a low error is that of a worse model. "
                f"Lowest mean among these: {lowest}. "
                f"{'Dashed: no privacy. ' if ordinary else ''}Lower is better but for accuracy."
            ),
            alt=f"{len(shown)} small panels over R. Accurate R: {accurate}. Lowest: {lowest}.",
            draw=partial(draw_measures, grid, shown, ordinary),
        )


def values_of(grid: Grid, shown: Shown) -> dict[float, list[float]]:
    """Return the values over seeds by R, in the unit shown; R without the measure left out."""
    found = {norm: [shown.scale * v for v in point.values(f"test/{shown.key}").values()]
             for norm, point in drawn(grid).items()}  # fmt: skip
    return {norm: values for norm, values in found.items() if values}


def draw_measures(
    grid: Grid, shown: list[Shown], ordinary: Point | None, is_narrow: bool
) -> "Figure":
    """Return one small panel a measure."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    figure, panels = new_panels(len(shown), is_narrow=is_narrow, per_row=(4, 2),
                                height=(2.25, 2.1))  # fmt: skip
    for axes, one in zip(panels, shown, strict=True):
        _draw(axes, grid, one, ordinary)
    handles = [
        Line2D([], [], color=BLUE, marker="o", mfc="white", ms=4.5, lw=1.8, label="seeds and mean"),
        Patch(color=PALE, lw=0, label="within 2 points of the best accuracy"),
    ]
    if ordinary is not None:
        handles.append(Line2D([], [], color=FAINT, ls=(0, (4, 3)), lw=1.5, label="no privacy"))
    figure.legend(handles=handles, loc="outside lower center", ncols=1 if is_narrow else 3,
                  **(LEGEND | {"fontsize": 9.5}))  # fmt: skip
    return figure


def _draw(axes: "Axes", grid: Grid, shown: Shown, ordinary: Point | None) -> None:
    values = values_of(grid, shown)
    log_ticks(axes, list(drawn(grid)))
    _shade(axes, grid)
    for norm, found in values.items():
        axes.plot([norm] * len(found), found, "o", ms=4.5, mfc="white", mec=BLUE, zorder=4)
    means = [sum(found) / len(found) for found in values.values()]
    axes.plot(list(values), means, color=BLUE, lw=1.8, zorder=3)
    if ordinary is not None and (mean := ordinary.mean(f"test/{shown.key}")) is not None:
        axes.axhline(shown.scale * mean, color=FAINT, ls=(0, (4, 3)), lw=1.5, zorder=2)
    if shown.key != "accuracy":
        axes.set_ylim(bottom=0, top=1.06 * axes.get_ylim()[1])
    unit = f" ({shown.unit})" if shown.unit else ""
    heading(axes, f"{shown.name}{unit}", size=10.5)
    axes.set_xlabel("R")
    tidy(axes, size=8.5)
    axes.title.set_color(INK)


def _shade(axes: "Axes", grid: Grid) -> None:
    """Shade each accurate R to half of the way, in log R, to its neighbours."""
    norms, (left, right) = list(drawn(grid)), axes.get_xlim()
    middles = [(a * b) ** 0.5 for a, b in pairwise(norms)]
    bounds = [left, *middles, right]
    for norm in accurate_norms(grid):
        i = norms.index(norm)
        axes.axvspan(bounds[i], bounds[i + 1], color=PALE, lw=0, zorder=0)


def _how_chosen(grid: Grid) -> str:
    if has_validation(grid):
        lr, part = "the learning rate that validation chose for each R", "the validation part"
    else:
        lr, part = "one learning rate for each R", "the test set, without a validation part"
    return f"{lr}. Shaded: R within 2 points of the best accuracy on {part}"


def _lowest(grid: Grid, shown: Shown) -> str:
    means = {norm: sum(v) / len(v) for norm, v in values_of(grid, shown).items()
             if norm in accurate_norms(grid)}  # fmt: skip
    if not means:
        return f"{shown.name} not measured at an accurate R"
    norm = min(means, key=lambda r: means[r])
    unit = f" {shown.unit}" if shown.unit else ""
    digits = 1 if shown.scale == 100 else 3
    return f"{shown.name} {means[norm]:.{digits}f}{unit} at R {plain(norm)}"
