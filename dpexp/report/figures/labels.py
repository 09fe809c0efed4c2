"""Words beside the marks of a figure, where nothing is in their way."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dpexp.report.figures.look import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Box = tuple[float, float, float, float]  # left, bottom, right, top; fractions of the axes


@dataclass(frozen=True)
class Place:
    """A mark, how far its bars reach either way, and what is written beside it."""

    x: float
    y: float
    dx: float
    dy: float
    word: str


def make_room(axes: "Axes", places: Sequence[Place]) -> None:
    """Widen the axes so that words fit beside the marks; y starts at 0, x ends at 100 percent."""
    left, right = axes.get_xlim()
    _, top = axes.get_ylim()
    room = max(0.14 * (right - left), 0.5)
    axes.set_xlim(left - room, min(100.0, right + room))
    axes.set_ylim(0, 1.08 * max(top, *(1.1 * place.y for place in places)))


def label(axes: "Axes", places: Sequence[Place]) -> None:
    """Write what each mark is near it, where it covers the fewest marks, bars and words."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    blocked: list[Box] = []
    for place in places:
        x, y = (place.x - left) / (right - left), (place.y - bottom) / (top - bottom)
        dx, dy = place.dx / (right - left), place.dy / (top - bottom)
        blocked += [(x - 0.025, y - 0.03, x + 0.025, y + 0.03)]
        blocked += [(x - dx, y - 0.005, x + dx, y + 0.005), (x, y - dy, x, y + dy)]
    for place in places:
        x, y = (place.x - left) / (right - left), (place.y - bottom) / (top - bottom)
        wide = 0.021 * len(place.word)
        spots = [(x + 0.025, y + 0.035), (x - 0.025 - wide, y + 0.035), (x + 0.025, y - 0.085),
                 (x - 0.025 - wide, y - 0.085), (x - wide / 2, y + 0.1),
                 (x - wide / 2, y - 0.16)]  # fmt: skip
        boxes = [(u, v, u + wide, v + 0.055) for u, v in spots]
        box = min(boxes, key=lambda b: (_overlaps(b, blocked), boxes.index(b)))
        blocked.append(box)
        axes.annotate(place.word, (x, y), (box[0], box[1]), xycoords="axes fraction", fontsize=9.5,
                      textcoords="axes fraction", color=INK, zorder=6)  # fmt: skip


def _overlaps(box: Box, others: Sequence[Box]) -> int:
    outside = box[0] < 0 or box[1] < 0 or box[2] > 1.02 or box[3] > 1
    return 2 * outside + sum(
        box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in others
    )
