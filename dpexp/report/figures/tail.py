"""The last steps of a run with and without a tail at another R (claim A14)."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from dpexp.report.claims.tail import twin_of
from dpexp.report.contents import Report
from dpexp.report.figures.look import (
    BLUE,
    FAINT,
    LEGEND,
    ORANGE,
    heading,
    new_panels,
    plain,
    tidy,
)
from dpexp.report.figures.over_steps import band_of, draw_band, watched_part, watched_words
from dpexp.report.figures.picture import Picture
from dpexp.report.figures.select import name_of
from dpexp.report.groups import Point
from dpexp.report.runs import Run
from dpexp.report.words import count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANELS = (("accuracy", "Accuracy (%)"), ("ece", "ECE (%)"))


def tail_pictures(report: Report) -> Iterator[Picture]:
    """Yield one picture for each run with a tail that has its twin without one.

    The twin is the one that claim A14 is judged against, among the same points.
    """
    settings = [point for grid in report.grids for point in grid.final]
    for with_tail in settings:
        norm, length = tail_of(with_tail.first)
        without = twin_of(with_tail, settings)
        if norm is None or without is None:
            continue
        part = watched_part([without, with_tail])
        if len(band_of(with_tail, f"{part}/ece")) < 2:
            continue
        run = with_tail.first
        words = _seen(without, with_tail)
        watched = watched_words([with_tail, without], part)
        yield Picture(
            name=f"tail_{name_of(f'{run.data}_R{plain(run.clip_norm)}_to_R{plain(norm)}')}",
            title=f"A tail at R {plain(norm)} after R {plain(run.clip_norm)}, {run.data}, "
            f"{run.model}",
            caption=(
                f"The dotted line is where R changes, {length:,} of {run.steps:,} steps before the "
                f"end; mean and range over {count(len(with_tail.runs), 'seed')}, measured on "
                f"{watched} during training. {words} Noise grows with R; "
                f"epsilon is that of the run without the tail."
            ),
            alt=f"Accuracy and ECE over the last steps, with and without the tail. {words}",
            draw=partial(draw_tail, without, with_tail, part),
        )


def tail_of(run: Run) -> tuple[float | None, int]:
    """Return R of the tail and its steps; None and 0 for a run without one."""
    clipping = run.config["clipping"]
    return clipping.get("tail_norm"), int(clipping.get("tail_steps") or 0)


def draw_tail(without: Point, with_tail: Point, part: str, is_narrow: bool) -> "Figure":
    """Return accuracy and ECE from two lengths of the tail before the end on."""
    from matplotlib.lines import Line2D

    norm, length = tail_of(with_tail.first)
    assert norm is not None
    run = with_tail.first
    switch = run.steps - length
    looks: tuple[dict[str, Any], dict[str, Any]] = (
        {"color": BLUE, "lw": 2.0, "ls": "-"},
        {"color": ORANGE, "lw": 2.0, "ls": (0, (4, 1.6))},
    )
    figure, panels = new_panels(2, is_narrow=is_narrow, per_row=(2, 1), height=(3.5, 2.9))
    for axes, (key, title) in zip(panels, _PANELS, strict=True):
        for point, look in zip((without, with_tail), looks, strict=True):
            rows = [row for row in band_of(point, f"{part}/{key}") if row[0] >= switch - length]
            draw_band(axes, rows, scale=100, **look)
        axes.axvline(switch, color=FAINT, lw=1.4, ls=":")
        axes.set_xlabel("step")
        heading(axes, title, size=11)
        tidy(axes, size=9.5)
    handles = [
        Line2D([], [], label=f"R {plain(run.clip_norm)} to the end", **looks[0]),
        Line2D([], [], label=f"tail at R {plain(norm)}", **looks[1]),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, **LEGEND)
    return figure


def _seen(without: Point, with_tail: Point) -> str:
    values = [point.mean(f"test/{key}") for key in ("ece", "accuracy")
              for point in (without, with_tail)]  # fmt: skip
    if None in values:
        return "A run diverged."
    ece, ece_tail, accuracy, accuracy_tail = (100 * (value or 0.0) for value in values)
    return (
        f"At the end, on all test images: ECE {ece:.1f} % without and {ece_tail:.1f} % with the "
        f"tail; accuracy {accuracy:.1f} % and {accuracy_tail:.1f} %."
    )
