"""What a sweep will take: from its finished runs, else from the time of a few samples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, median

from dpexp.config import TrainConfig
from dpexp.data.public import public_num_train
from dpexp.errors import DpexpError
from dpexp.record.folder import RunFolder
from dpexp.sweep.existing import DONE, OUTCOMES, Found
from dpexp.sweep.point import Point

_MOST_MEASURED = 3  # models that are built to be timed

# Seconds of one sample's forward and backward pass; None if it cannot be said.
Measure = Callable[[TrainConfig], float | None]


@dataclass(frozen=True)
class Estimate:
    """What is left to do.

    Attributes:
        seconds: Of all runs one after the other; None if unknown.
        source: Where the number comes from, or why there is none.
        num_runs: How many are left.
    """

    seconds: float | None
    source: str
    num_runs: int


def num_steps(config: TrainConfig) -> int | None:
    """Return K as far as it is known before the data are opened."""
    if config.steps is not None:
        return config.steps
    num_train = public_num_train(config.dataset)
    if num_train is None or config.epochs is None:
        return None
    return max(1, round(config.epochs * num_train / config.batch))


def num_samples(config: TrainConfig) -> int | None:
    """Return K B, the samples that a run is expected to process."""
    steps = num_steps(config)
    return None if steps is None else steps * config.batch


def estimate(
    points: Sequence[Point], found: Mapping[str, Found], measure: Measure | None
) -> Estimate:
    """Return what the points that have not ended will take.

    A run takes its K B samples times the median seconds a sample of finished runs of its model;
    where there are none, times what `measure` says.

    Args:
        points: All of the sweep.
        found: Hash -> the run that there is.
        measure: Times a model; None leaves it unknown.
    """
    todo = [p for p in points if p.hash not in found or found[p.hash].state not in OUTCOMES]
    ended = {p: _seconds(found[p.hash]) for p in points if p.hash in found}
    known = {p: seconds for p, seconds in ended.items() if seconds}
    if not todo:
        return Estimate(0.0, "nothing is left to do", 0)
    if any(num_samples(p.config) is None for p in todo):
        if not known:
            return Estimate(None, "unknown until the first run has ended", len(todo))
        total = mean(known.values()) * len(todo)
        return Estimate(total, f"the mean of {_finished(len(known))}", len(todo))
    finished: dict[str, list[float]] = {}
    for point, seconds in known.items():
        samples = num_samples(point.config)
        if samples:
            finished.setdefault(point.config.model.name, []).append(seconds / samples)
    rates = {name: median(values) for name, values in finished.items()}
    source = f"{_finished(len(known))} of this sweep"
    missing = list(
        dict.fromkeys(p.config.model.name for p in todo if p.config.model.name not in rates)
    )
    if missing:
        source = "the time of a few samples" + f" and {source}" * bool(known)
        rates |= _measured(missing, todo, measure)
    if any(p.config.model.name not in rates for p in todo):
        return Estimate(None, "unknown until the first run has ended", len(todo))
    total = sum(
        rates[p.config.model.name] * (num_samples(p.config) or 0) * _share_left(found.get(p.hash))
        for p in todo
    )
    return Estimate(total, source, len(todo))


def seconds_a_sample(config: TrainConfig) -> float | None:
    """Return the rough cost of one sample here, in seconds; None if it cannot be had.

    Random weights cost what trained ones do, so nothing is downloaded.
    """
    # Imported late: planning a sweep needs no torch.
    from dpexp.train.job import cost_of_one, load_model_and_data, pick_device

    quick = replace(
        config,
        model=replace(config.model, pretrained=False),
        dataset=replace(config.dataset, download=False),
    )
    try:
        device = pick_device(quick.device)
        built, splits = load_model_and_data(quick, lambda line: None)
        return cost_of_one(built.module.to(device), splits, device)[1]
    except (DpexpError, RuntimeError):  # the run itself will say what is wrong
        return None


def _measured(
    names: Sequence[str], todo: Sequence[Point], measure: Measure | None
) -> dict[str, float]:
    if measure is None or len(names) > _MOST_MEASURED:
        return {}
    configs = {p.config.model.name: p.config for p in reversed(todo)}
    rates = {name: measure(configs[name]) for name in names}
    return {name: rate for name, rate in rates.items() if rate is not None}


def _finished(count: int) -> str:
    return f"{count} finished run{'s' * (count != 1)}"


def _seconds(found: Found) -> float | None:
    """Return what a finished run took."""
    if found.state != DONE:
        return None
    try:
        return float(
            RunFolder(found.path, None).read_document("summary.json")["time/total_seconds"]
        )
    except (DpexpError, KeyError, TypeError):
        return None


def _share_left(found: Found | None) -> float:
    if found is None or not found.steps:
        return 1.0
    return 1 - found.step / found.steps
