"""Words beside the marks of a figure, where nothing is in their way."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dpexp.report.figures.look import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Place = tuple[float, float, str]  # x and y of a mark, and what is written beside it


def make_room(axes: "Axes", places: Sequence[Place]) -> None:
    """Widen the axes so that words fit beside the marks; y starts at 0, x ends at 100 percent."""
    left, right = axes.get_xlim()
    _, top = axes.get_ylim()
    room = max(0.14 * (right - left), 0.5)
    axes.set_xlim(left - room, min(100.0, right + room))
    axes.set_ylim(0, 1.08 * max(top, *(1.1 * y for _, y, _ in places)))


def label(axes: "Axes", places: Sequence[Place]) -> None:
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
