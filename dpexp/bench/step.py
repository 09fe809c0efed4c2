"""`dpexp bench step`: one clipped step over one ordinary step of the same model."""

import statistics
from dataclasses import dataclass
from functools import partial

from dpexp.bench.clock import Clock, Pairs, clock_of, in_pairs
from dpexp.bench.document import aligned, name_of, save, say, setting_of
from dpexp.bench.operations import Counts, counts_of
from dpexp.bench.request import Request
from dpexp.bench.subject import Subject, prepare
from dpexp.config import Algorithm, Style
from dpexp.memory import peak_live_bytes

HEADER = (
    "algorithm", "style", "passes", "time", "min", "max", "counted", "memory", "ordinary s",
    "clipped s", "ordinary MiB", "clipped MiB",
)  # fmt: skip


@dataclass(frozen=True)
class StepRow:
    """What one algorithm costs, beside an ordinary step.

    Attributes:
        algorithm: Its name.
        style: What shares a norm.
        backward_passes: Of the engine.
        pairs: Seconds of ordinary and clipped steps.
        counts: Multiply-adds.
        ordinary_bytes: Peak of live tensors in an ordinary step, above the model.
        clipped_bytes: Likewise in a clipped step.
    """

    algorithm: Algorithm
    style: Style
    backward_passes: int
    pairs: Pairs
    counts: Counts
    ordinary_bytes: int
    clipped_bytes: int

    @property
    def memory_ratio(self) -> float:
        """Clipped over ordinary peak."""
        return self.clipped_bytes / self.ordinary_bytes


def run(request: Request) -> None:
    """Measure a step by every algorithm and style asked for; print a row each.

    Raises:
        ConfigError: If an algorithm cannot clip the styles asked for.
        ModelError: If the model cannot be built.
        RunFolderError: If the result cannot be written.
    """
    asked = request.rows([request.config.clipping.algorithm])
    subject = prepare(request.config)
    say(f"{subject.title}; {request.rounds} pairs of steps, on {subject.device}")
    with clock_of(subject.device) as clock:
        rows = [measure(subject, *each, request.rounds, clock) for each in asked]
        for line in aligned(HEADER, [_cells(row) for row in rows]):
            say(line)
        say("time, counted, memory: clipped over ordinary; time the median of pairs; counted from")
        say("multiply-adds of products, by the plan; memory the peak of live tensors above weights")
        content = {"setting": setting_of(subject), "rounds": request.rounds}
        content["rows"] = [_plain(row) for row in rows]
        path = save(request, "step", name_of("step", subject), content)
    if path:
        say(f"written   {path}")


def measure(
    subject: Subject, algorithm: Algorithm, style: Style, rounds: int, clock: Clock
) -> StepRow:
    """Return what a step costs by one algorithm, beside an ordinary step of the same model."""
    ordinary = subject.ordinary_step()
    with subject.clipped_step(algorithm, style) as (clipped, engine):
        ordinary()
        for _ in range(2):  # the first proves and plans
            clipped()
        pairs = in_pairs(ordinary, clipped, rounds, clock)
        # Freed here, not while memory is watched: that would count as room.
        for model in (subject.model, engine.model):
            model.zero_grad(set_to_none=True)
        peak = partial(peak_live_bytes, device=subject.device)
        ordinary_bytes, clipped_bytes = peak(ordinary), peak(clipped)
        plan = engine.plan_rows(is_full=True)
        counts = counts_of(subject, algorithm, plan, engine.backward_passes)
        passes = engine.backward_passes
    return StepRow(algorithm, style, passes, pairs, counts, ordinary_bytes, clipped_bytes)


def _cells(row: StepRow) -> list[str]:
    ratios = row.pairs.ratios
    times = (row.pairs.ratio, ratios[0], ratios[-1], row.counts.ratio, row.memory_ratio)
    seconds = (statistics.median(row.pairs.base), statistics.median(row.pairs.other))
    sizes = (row.ordinary_bytes / 2**20, row.clipped_bytes / 2**20)
    return [
        row.algorithm,
        row.style,
        str(row.backward_passes),
        *(f"{ratio:.3f}" for ratio in times),
        *(f"{each:.3f}" for each in seconds),
        *(f"{size:.1f}" for size in sizes),
    ]


def _plain(row: StepRow) -> dict[str, object]:
    ratios = row.pairs.ratios
    return {
        "algorithm": row.algorithm,
        "style": row.style,
        "backward_passes": row.backward_passes,
        "time_ratio": row.pairs.ratio,
        "time_ratio_min": ratios[0],
        "time_ratio_max": ratios[-1],
        "counted_ratio": row.counts.ratio,
        "memory_ratio": row.memory_ratio,
        "ordinary_seconds": row.pairs.base,
        "clipped_seconds": row.pairs.other,
        "ordinary_bytes": row.ordinary_bytes,
        "clipped_bytes": row.clipped_bytes,
        "multiply_adds": row.counts,
    }
