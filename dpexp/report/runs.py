"""One training run as a report sees it: what it was, what it measured, and its curve."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

from dpexp.config import TrainConfig
from dpexp.data.public import KNOWN_SETS
from dpexp.record.config_hash import config_hash, flatten
from dpexp.schema import to_dict

FOLDER_SETS = ("parquet", "imagefolder")  # data sets that are named by the folder they lie in
ROOTS = ("dataset.root", "dataset.download")  # where a data set comes from, not what it is


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that ended: its summary is final, or it diverged.

    Attributes:
        name: Of its folder; of its kept file where that does not say.
        experiment: The word after experiment= in its command; None without one.
        state: done or diverged.
        config: Every key of the run, nested, defaults filled in; no path of a machine.
        summary: Of summary.json: `test/*`, `val/*`, `privacy/*`, `time/*`; a measure of a
            diverged run is None.
        privacy: Of privacy.json; {} for ordinary training that has none.
        reliability: `edges`, `count`, `accuracy`, `confidence` per bin; None if it diverged.
        calibration: Of calibration.json: `measures`, each with `value`, `low`, `high` and, where
            one exists, `null_low`, `null_high`; None for a run that has none.
        curve: Rows by step, at most some 400: `step`, `val/*` and `test/*` where the run was
            evaluated there, `unsafe/loss_nats` and `unsafe/clipped_fraction` as means over the
            steps since the row before.
        recalibrations: What dpexp eval recalibration=... found: `method`, `epsilon` of training and
            scaling together ("inf" where it was fitted without noise), `guarantee` and `summary`.
        provenance: command, started, git, packages, python, cpu, cpu_count, gpus.
    """

    name: str
    experiment: str | None
    state: str
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    privacy: Mapping[str, Any]
    reliability: Mapping[str, Any] | None
    calibration: Mapping[str, Any] | None
    curve: tuple[Mapping[str, Any], ...]
    provenance: Mapping[str, Any]
    recalibrations: tuple[Mapping[str, Any], ...] = ()

    @property
    def seed(self) -> int:
        """Seed of weights, batches and noise."""
        return int(self.config["seed"])

    @property
    def clip_norm(self) -> float:
        """R, gradient units, as configured."""
        return float(self.config["clipping"]["norm"])

    @property
    def lr(self) -> float:
        """Learning rate, before the schedule."""
        return float(self.config["optimizer"]["lr"])

    @property
    def steps(self) -> int:
        """Optimizer updates that were planned; a diverged run took fewer."""
        planned = self.privacy.get("steps_planned", self.summary.get("steps"))
        return int(planned or 0)

    @property
    def sigma(self) -> float | None:
        """Noise multiplier; None for ordinary training."""
        if not self.config["dp"]:
            return None
        value = self.summary.get("privacy/noise_multiplier", self.config["noise_multiplier"])
        return None if value is None else float(value)

    @property
    def eps(self) -> float | None:
        """Target epsilon, or the one spent where none was set; None for ordinary training."""
        if not self.config["dp"]:
            return None
        value = self.config["eps"]
        if value is None:
            value = self.summary.get("privacy/epsilon", self.privacy.get("epsilon"))
        return None if value is None else float(value)

    @property
    def data(self) -> str:
        """Name of the data set; that of its folder where it was read from one of one's own."""
        dataset = self.config["dataset"]
        is_folder = dataset["name"] in FOLDER_SETS and dataset["root"]
        return PurePath(dataset["root"]).name if is_folder else str(dataset["name"])

    @property
    def model(self) -> str:
        """Name of the network."""
        return str(self.config["model"]["name"])

    @property
    def has_guarantee(self) -> bool:
        """Whether its epsilon is a bound; an infinite one, or protocol=published, has none."""
        guarantee = self.privacy.get("guarantee", self.summary.get("privacy/guarantee"))
        return guarantee in ("valid", "seeded")

    @property
    def commit(self) -> str:
        """Twelve digits of the commit it was made at, and whether there were changes."""
        git = self.provenance.get("git")
        if not isinstance(git, dict):
            return "unknown"
        return str(git.get("commit"))[:12] + " (with changes)" * bool(git.get("dirty"))

    @property
    def has_diverged(self) -> bool:
        """Whether its outputs stopped being finite."""
        return self.state == "diverged"

    @cached_property
    def hash(self) -> str:
        """Eight hexadecimal digits of every key that is not at its default.

        Equal for equal runs wherever their data lay, and still so when a new key is added.
        """
        defaults = flatten(to_dict(TrainConfig()))
        leaves = {key: value for key, value in flatten(self.config).items()
                  if key not in ROOTS and value != defaults.get(key)}  # fmt: skip
        return config_hash({**leaves, "data": self.data})

    def measure(self, key: str) -> float | None:
        """Return one measure of the summary, such as test/ece; None if the run has none.

        The accuracy of a diverged run is that of guessing, where the number of classes is known:
        what it recorded counts a sample without finite outputs as wrong.
        """
        value = self.summary.get(key)
        if self.has_diverged and key in ("test/accuracy", "val/accuracy"):
            known = KNOWN_SETS.get(self.data)
            classes = self.config["dataset"]["num_classes"] or (known and known.num_classes)
            return max(1 / classes, value or 0.0) if classes else value
        if value is None and key.startswith("test/") and self.calibration is not None:
            entry = self.calibration.get("measures", {}).get(key.removeprefix("test/"))
            value = None if entry is None else entry.get("value")
        return None if value is None or not math.isfinite(float(value)) else float(value)

    def null_band(self, measure: str) -> tuple[float, float] | None:
        """Return what a perfectly calibrated model of the same confidences shows, 95 % of times."""
        entry = (self.calibration or {}).get("measures", {}).get(measure, {})
        low, high = entry.get("null_low"), entry.get("null_high")
        return None if low is None or high is None else (float(low), float(high))


def experiment_of(command: str) -> str | None:
    """Return the word after experiment= in a command; None without one."""
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    found = [word.partition("=")[2] for word in words if word.startswith("experiment=")]
    return found[-1] if found else None
