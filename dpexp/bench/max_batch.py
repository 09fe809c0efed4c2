"""`dpexp bench max-batch`: the largest batch that fits a memory, by every algorithm.

Live bytes of a step are measured at a few small batches; a straight line through them, by least
squares, says where a memory is full. The peak is the highest of several moments (activations when
the backward pass begins, gradients when it ends), each of them a straight line in the batch, so
the smallest batches may lie on a flatter line than large ones will. Such points are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from typing import Any, get_args

from dpexp.bench.clock import clock_of
from dpexp.bench.document import aligned, name_of, save, say, setting_of
from dpexp.bench.request import Request
from dpexp.bench.subject import Subject, prepare
from dpexp.config import Algorithm, Style
from dpexp.memory import peak_live_bytes

GIB, MIB = 2**30, 2**20
# Points that lie further from their line than this share of themselves are not on one line.
STRAIGHT = 0.01
PAPERS = tuple(name for name in get_args(Algorithm) if name != "nonprivate")
HEADER = (
    "algorithm", "style", "largest batch", "over ordinary", "MiB a sample", "fixed MiB",
    "points", "deviation", "measured: samples at MiB",
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """Live bytes of a step as a straight line in the batch.

    Attributes:
        fixed: Bytes at no samples, weights and gradients included.
        slope: Bytes a sample.
        deviation: Largest distance of a point from the line, as a share of the point.
        num_points: Measured batches that the line goes through, the largest ones.
    """

    fixed: float
    slope: float
    deviation: float
    num_points: int

    def largest(self, num_bytes: float) -> int | None:
        """Return how many samples fit, 0 if none does; None if the line does not rise."""
        if self.slope <= 0:
            return None
        return max(0, floor((num_bytes - self.fixed) / self.slope))


@dataclass(frozen=True)
class MemoryRow:
    """What one algorithm needs.

    Attributes:
        algorithm: Its name, or `ordinary`.
        style: What shares a norm; empty for ordinary training.
        points: Batch and live bytes, weights included, in the order of the batches.
        line: Through the points.
        largest: Samples that fit.
    """

    algorithm: str
    style: str
    points: tuple[tuple[int, int], ...]
    line: Line
    largest: int | None


def run(request: Request) -> None:
    """Print the largest batch of ordinary training and of every algorithm.

    Raises:
        ConfigError: If an algorithm cannot clip the styles asked for.
        ModelError: If the model cannot be built.
        RunFolderError: If the result cannot be written.
    """
    asked = request.rows(PAPERS)
    subject = prepare(request.config)
    batches = small_batches(subject.batch)
    room = request.memory_gib * GIB
    say(f"{subject.title}; {request.memory_gib:g} GiB, on {subject.device}")
    # On one thread, as steps are timed: the plan depends on it.
    with clock_of(subject.device):
        rows = [ordinary_row(subject, batches, room)]
        rows += [clipped_row(subject, *each, batches, room) for each in asked]
        for line in aligned(HEADER, [_cells(row, rows[0]) for row in rows]):
            say(line)
        measured = ", ".join(map(str, batches))
        say(f"a straight line through the largest of batches {measured} (points),")
        say("carried on; live tensors with weights, gradients and temporaries, no optimizer state")
        content = {"setting": setting_of(subject), "memory_gib": request.memory_gib, "rows": rows}
        path = save(request, "max-batch", name_of("max-batch", subject), content)
    if path:
        say(f"written   {path}")


def small_batches(most: int) -> tuple[int, ...]:
    """Return four batches, a quarter of the largest apart; at least two of them."""
    most = max(2, most)
    return tuple(sorted({max(1, most * quarter // 4) for quarter in (1, 2, 3, 4)}))


def ordinary_row(subject: Subject, batches: Sequence[int], room: float) -> MemoryRow:
    """Return what ordinary training needs; `room` in bytes."""
    points = []
    for count in batches:
        step = subject.ordinary_step(count)
        step()
        subject.model.zero_grad(set_to_none=True)
        points.append((count, peak_live_bytes(step, subject.device) + weight_bytes(subject)))
        subject.model.zero_grad(set_to_none=True)
    return _row("ordinary", "", points, room)


def clipped_row(
    subject: Subject, algorithm: Algorithm, style: Style, batches: Sequence[int], room: float
) -> MemoryRow:
    """Return what an algorithm needs; `room` in bytes."""
    points: list[tuple[int, int]] = []
    plan: list[dict[str, Any]] = []
    # The plan of the largest batch is kept: it is measured where it matters most.
    for count in reversed(batches):
        with subject.clipped_step(algorithm, style, count) as (step, engine):
            engine.load_plan(plan)
            step()
            plan = engine.plan_rows()
            engine.model.zero_grad(set_to_none=True)
            points.append((count, peak_live_bytes(step, subject.device) + weight_bytes(subject)))
    return _row(algorithm, style, points[::-1], room)


def weight_bytes(subject: Subject) -> int:
    """Return the bytes of a model's parameters and buffers."""
    tensors = [*subject.model.parameters(), *subject.model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def line_through(points: Sequence[tuple[int, int]]) -> Line:
    """Return the line of least squares through (batch, bytes), of two batches at least."""
    num = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / num, sum(y for _, y in points) / num
    covariance = sum((x - mean_x) * (y - mean_y) for x, y in points)
    slope = covariance / sum((x - mean_x) ** 2 for x, _ in points)
    fixed = mean_y - slope * mean_x
    deviation = max(abs(fixed + slope * x - y) / y for x, y in points)
    return Line(fixed, slope, deviation, num)


def line_of(points: Sequence[tuple[int, int]]) -> Line:
    """Return the line through as many of the largest batches as lie on one, two at least.

    Args:
        points: Batch and bytes, by ascending batch.
    """
    lines = (line_through(points[first:]) for first in range(len(points) - 1))
    return next(line for line in lines if line.deviation <= STRAIGHT or line.num_points == 2)


def _row(algorithm: str, style: str, points: Sequence[tuple[int, int]], room: float) -> MemoryRow:
    line = line_of(points)
    return MemoryRow(algorithm, style, tuple(points), line, line.largest(room))


def _cells(row: MemoryRow, ordinary: MemoryRow) -> list[str]:
    ratio = f"{row.largest / ordinary.largest:.2f}" if row.largest and ordinary.largest else "-"
    return [
        row.algorithm,
        row.style,
        "any" if row.largest is None else f"{row.largest:,}",
        ratio,
        f"{row.line.slope / MIB:.2f}",
        f"{row.line.fixed / MIB:.1f}",
        f"{row.line.num_points} of {len(row.points)}",
        f"{row.line.deviation:.2%}",
        " ".join(f"{count} at {size / MIB:.1f}" for count, size in row.points),
    ]
