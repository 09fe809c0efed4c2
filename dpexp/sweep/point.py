"""A point of a sweep: a run that is wanted, known by the hash of its configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from dpexp.config import TrainConfig
from dpexp.record.config_hash import config_hash
from dpexp.schema import to_dict

SEED = "seed"


@dataclass(frozen=True, eq=False)
class Point:
    """One run that is wanted.

    Attributes:
        labels: What tells it from the others: key -> text.
        words: The overrides of `dpexp train` that describe it.
        config: What they compose to, checked.
    """

    labels: Mapping[str, str]
    words: tuple[str, ...]
    config: TrainConfig

    @cached_property
    def hash(self) -> str:
        """Eight digits that are equal for equal runs, wherever they go."""
        return config_hash(to_dict(self.config))

    @property
    def name(self) -> str:
        """The labels in one line."""
        return " ".join(f"{key}={text}" for key, text in self.labels.items()) or "the only point"


def repeated(points: Sequence[Point]) -> list[str]:
    """Return a sentence for each point that is the same run as an earlier one."""
    first: dict[str, Point] = {}
    problems = []
    for point in points:
        earlier = first.setdefault(point.hash, point)
        if earlier is not point:
            problems.append(
                f"{point.name}: the same run as {earlier.name}, since what differs changes nothing "
                f"that is computed; leave one out"
            )
    return problems
