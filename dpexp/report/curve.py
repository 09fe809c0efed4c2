"""A run's curve, short enough to be kept: means over windows, and every evaluation."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

WINDOWS = 120  # rows of training loss that are kept of a run, whatever its length
SMOOTHED = ("unsafe/loss_nats", "unsafe/clipped_fraction")
EVALUATED = tuple(
    f"{part}/{name}"
    for part in ("val", "test")
    for name in ("accuracy", "ece", "nll_nats", "mse", "num_samples")
)


def short_curve(rows: Sequence[Mapping[str, Any]], windows: int = WINDOWS) -> list[dict[str, Any]]:
    """Return at most `windows` rows, and one for each further step with an evaluation.

    Training loss and clipped fraction are means over the steps since the row before, those that
    are not finite left out; what was evaluated stands at its own step.

    Args:
        rows: Lines of metrics.jsonl, by step.
        windows: About how many rows of training loss to keep.
    """
    stride = max(1, math.ceil(len(rows) / windows))
    kept: list[dict[str, Any]] = []
    since: dict[str, list[float]] = {key: [] for key in SMOOTHED}
    for i, row in enumerate(rows, start=1):
        for key in SMOOTHED:
            if isinstance(row.get(key), int | float):
                since[key].append(row[key])
        evaluated = {key: row[key] for key in EVALUATED if key in row}
        if evaluated or i % stride == 0 or i == len(rows):
            means = {key: math.fsum(v) / len(v) for key, v in since.items() if v}
            values = {"step": row["step"], **means, **evaluated}
            kept.append({key: _rounded(value) for key, value in values.items()})
            since = {key: [] for key in SMOOTHED}
    return kept


def _rounded(value: Any) -> Any:
    # Five digits: a curve is looked at, and what is computed from it needs no more.
    return float(f"{value:.5g}") if isinstance(value, float) else value
