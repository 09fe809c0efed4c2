"""All figures that a report has data for, in the order of the page."""

from collections.abc import Callable, Iterator

from dpexp.report.contents import Report
from dpexp.report.figures.frontier import frontier_pictures
from dpexp.report.figures.heat_maps import heat_map_pictures
from dpexp.report.figures.loss_curves import loss_curve_pictures
from dpexp.report.figures.measures import measures_pictures
from dpexp.report.figures.picture import Picture
from dpexp.report.figures.reliability_panels import reliability_pictures
from dpexp.report.figures.tail import tail_pictures

OVER_NORMS = "runs of flat clipping at two or more R at one finite epsilon with a guarantee"
# What each kind of figure needs, in words for a page that goes without.
KINDS: tuple[tuple[Callable[[Report], Iterator[Picture]], str], ...] = (
    (frontier_pictures, f"frontier of accuracy against ECE: {OVER_NORMS}"),
    (reliability_pictures, f"reliability diagrams: {OVER_NORMS}"),
    (measures_pictures, f"measures against R: {OVER_NORMS}"),
    (heat_map_pictures, "heat maps: runs at two or more R and learning rates at one epsilon"),
    (loss_curve_pictures, "loss curves: runs of one setting with two or more ways of clipping, "
                          "evaluated during training"),
    (tail_pictures, "tail at another R: a run with clipping.tail_norm and its twin without"),
)  # fmt: skip


def pictures_of(report: Report) -> tuple[list[Picture], list[str]]:
    """Return the figures there is data for, the key one first, and what the others would need.

    Names are unique: of two alike, the second ends in 2.
    """
    pictures: list[Picture] = []
    missing: list[str] = []
    for make, needs in KINDS:
        made = list(make(report))
        pictures += made
        if not made:
            missing.append(needs)
    return _uniquely_named(pictures), missing


def _uniquely_named(pictures: list[Picture]) -> list[Picture]:
    from dataclasses import replace

    seen: dict[str, int] = {}
    named = []
    for picture in pictures:
        seen[picture.name] = seen.get(picture.name, 0) + 1
        count = seen[picture.name]
        named.append(picture if count == 1 else replace(picture, name=f"{picture.name}_{count}"))
    return named
