"""Gather runs into points, and points into grids."""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from dpexp.record.strict_json import to_text
from dpexp.report.groups import Grid, Point, fixed_keys, selected_by
from dpexp.report.runs import ROOTS, Run

# What the points of a grid may differ in. Length, evaluations and how sigma was asked for are
# among them, because a search for lr is shorter and is given the sigma of the runs it is for.
GRID_KEYS = (
    "seed",
    "clipping.norm",
    "optimizer.lr",
    "epochs",
    "steps",
    "eps",
    "noise_multiplier",
    "evaluate_every",
    "evaluate_samples",
    "checkpoint_every",
    *ROOTS,
)
SIGMA_TOLERANCE = 2e-3


def points_of(runs: Iterable[Run]) -> list[Point]:
    """Return runs gathered by everything but the seed; points by experiment, R, lr and sigma."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_key(run, ("seed", *ROOTS)), []).append(run)
    points = [
        Point(runs=tuple(sorted(group, key=lambda run: run.seed))) for group in groups.values()
    ]
    return sorted(points, key=_order)


def grids_of(points: Iterable[Point]) -> list[Grid]:
    """Return points gathered by everything but R, lr, seed and length, sigma being equal.

    The longest points of a group are final; shorter ones are a search for lr.
    """
    groups: dict[tuple[str, float | None], list[Point]] = {}
    nearest: dict[str, float | None] = {}
    for point in sorted(points, key=lambda point: point.first.sigma or 0.0):
        sigma = point.first.sigma
        # One sigma was given in few digits, the other calibrated to the same epsilon.
        key = _key(point.first, GRID_KEYS)
        anchor = nearest.get(key)
        is_near = sigma and anchor and math.isclose(sigma, anchor, rel_tol=SIGMA_TOLERANCE)
        nearest[key] = anchor if is_near else sigma
        groups.setdefault((key, nearest[key]), []).append(point)
    grids = [_grid(sorted(group, key=_order)) for group in groups.values()]
    return sorted(grids, key=lambda grid: _order(grid.final[0]))


def _grid(points: list[Point]) -> Grid:
    longest = max(point.steps for point in points)
    final = tuple(point for point in points if point.steps == longest)
    run = final[0].first
    grid = Grid(
        experiment=run.experiment,
        data=run.data,
        model=run.model,
        eps=run.eps,
        sigma=run.sigma,
        final=final,
        search=tuple(point for point in points if point.steps < longest),
    )
    return replace(grid, notes=tuple(_notes(grid)))


def _notes(grid: Grid) -> Iterable[str]:
    chosen = grid.lr_chosen
    for norm in grid.norms:
        lrs = sorted({point.lr for point in grid.final if point.clip_norm == norm})
        if norm in chosen and lrs != [chosen[norm]]:
            used = ", ".join(f"{lr:g}" for lr in lrs)
            yield (
                f"R {norm:g}: the search on validation chooses lr {chosen[norm]:g}, the final runs "
                f"took {used}"
            )
        searched = sorted({point.lr for point in grid.search if point.clip_norm == norm})
        if len(searched) > 1 and chosen.get(norm) in (searched[0], searched[-1]):
            which = "smallest" if chosen[norm] == searched[0] else "largest"
            yield (
                f"R {norm:g}: the chosen lr {chosen[norm]:g} is the {which} that was searched, and "
                f"a better one may lie beyond it"
            )
        if len(lrs) > 1 and all(
            selected_by(point) is None for point in grid.final if point.clip_norm == norm
        ):
            yield (
                f"R {norm:g}: {len(lrs)} learning rates and no validation part to choose on; the "
                f"smallest that did not diverge stands for it"
            )
    seeds = {point.seeds for point in grid.chosen.values()}
    if len(seeds) > 1:
        every = sorted(set().union(*seeds))
        lacking = [p.clip_norm for p in grid.chosen.values() if list(p.seeds) != every]
        yield f"not every seed of {every} is there at R {', '.join(f'{r:g}' for r in lacking)}"


def _key(run: Run, left_out: Iterable[str]) -> str:
    return f"{run.experiment} {to_text(fixed_keys(run, left_out))}"


def _order(point: Point) -> tuple[Any, ...]:
    run = point.first
    return run.experiment or "", run.data, run.sigma or 0.0, run.clip_norm, run.lr, run.steps
