"""`dpexp bench max-batch`: the largest batch that fits a memory, by every algorithm.

Live bytes of a step are measured at a few small batches; a straight line through them, by least
squares, says where a memory is full. The peak is the higher of two moments, each of them nearly a
straight line in the batch: activations when the backward pass begins (at no samples: the weights),
and gradients when it ends (weights and gradients). Small batches lie on the second line, which is
flatter, and large ones need not. So the batch is doubled until the line is the first, or until the
gradients are so small a part that their line cannot be far too flat; and points that are on no line
with the largest are left out.
"""

from collections.abc import Callable, Sequence
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
MOST_DOUBLINGS = 10
# Times weights and gradients. With weights W, gradients G and h = 10 (W + G) held at a batch b, the
# flat line rises by (h - W - G) / b a sample and no line below h by more than (h - W) / b: a share
# G / (h - W - G) more, at most 1/9 where all trains.
PLENTY = 10

# Samples -> live bytes of a step at its peak, weights included.
Measure = Callable[[int], int]
CLIPPING = tuple(name for name in get_args(Algorithm) if name != "nonprivate")
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
    asked = request.rows(CLIPPING)
    subject = prepare(request.config)
    room = request.memory_gib * GIB
    say(f"{subject.title}; {request.memory_gib:g} GiB, on {subject.device}")
    # On one thread, as steps are timed: the plan depends on it.
    with clock_of(subject.device):
        rows = [row_of(subject, "ordinary", "", measure_ordinary(subject), room)]
        rows += [row_of(subject, *each, measure_clipped(subject, *each), room) for each in asked]
        for line in aligned(HEADER, [_cells(row, rows[0]) for row in rows]):
            say(line)
        say("a straight line through the points, carried on, without small batches that are not on")
        say("it; live tensors with weights, gradients and temporaries, but no optimizer state")
        content = {"setting": setting_of(subject), "memory_gib": request.memory_gib, "rows": rows}
        path = save(request, "max-batch", name_of("max-batch", subject), content)
    if path:
        say(f"written   {path}")


def points_of(
    measure: Measure, start: int, *, weights: float, gradients: float, room: float
) -> list[tuple[int, int]]:
    """Return batches and live bytes: four batches, a quarter of the largest apart.

    Args:
        measure: What measures.
        start: The largest batch; doubled while small batches would mislead, and half of the room is
            not full.
        weights: Bytes.
        gradients: Bytes.
        room: Bytes.
    """
    most = max(2, start)
    before, held = measure(most // 2), measure(most)
    enough = min(PLENTY * (weights + gradients), room / 2)
    for _ in range(MOST_DOUBLINGS):
        at_no_samples = 2 * before - held
        if at_no_samples < weights + gradients / 2 or held >= enough:
            break
        most *= 2
        before, held = held, measure(most)
    smaller = sorted({max(1, most * quarter // 4) for quarter in (1, 2, 3)})
    return [(count, measure(count)) for count in smaller] + [(most, held)]


def measure_ordinary(subject: Subject) -> Measure:
    """Return what measures a step of ordinary training."""

    def measure(count: int) -> int:
        step = subject.resized(count).ordinary_step()
        step()
        subject.model.zero_grad(set_to_none=True)
        held = peak_live_bytes(step, subject.device)
        subject.model.zero_grad(set_to_none=True)
        return held + weight_bytes(subject)

    return measure


def measure_clipped(subject: Subject, algorithm: Algorithm, style: Style) -> Measure:
    """Return what measures a clipped step, by the plan of the largest batch that it met."""
    plan: list[dict[str, Any]] = []
    largest = 0

    def measure(count: int) -> int:
        nonlocal plan, largest
        with subject.resized(count).clipped_step(algorithm, style) as (step, engine):
            if count < largest:
                engine.load_plan(plan)
            step()
            if count > largest:
                plan, largest = engine.plan_rows(), count
            engine.model.zero_grad(set_to_none=True)
            return peak_live_bytes(step, subject.device) + weight_bytes(subject)

    return measure


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


def row_of(
    subject: Subject, algorithm: str, style: str, measure: Measure, room: float
) -> MemoryRow:
    """Return what an algorithm needs.

    Args:
        subject: Its batch is the first that is tried.
        algorithm: For the row.
        style: For the row.
        measure: What measures.
        room: Bytes that a batch has to fit.
    """
    trained = [p for p in subject.model.parameters() if p.requires_grad]
    gradients = sum(p.numel() * p.element_size() for p in trained)
    points = points_of(
        measure, subject.batch, weights=weight_bytes(subject), gradients=gradients, room=room
    )
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
