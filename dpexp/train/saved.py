"""What was saved: the configuration of a run folder, and the measures of its weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpexp.config import TrainConfig, check
from dpexp.data.splits import Split, Splits, num_outputs
from dpexp.errors import ConfigError, ModelError, RunFolderError
from dpexp.models.build import BuiltModel
from dpexp.models.checkpoint import NEW_HEAD
from dpexp.record.folder import RunFolder
from dpexp.schema import from_dict, to_dict
from dpexp.train.console import say
from dpexp.train.evaluate import Evaluation, evaluate, some_of
from dpexp.train.job import autocast_of, load_model_and_data, pick_device
from dpexp.train.outcome import measures, recorded, write_reliability


@dataclass(frozen=True)
class SavedRun:
    """Saved weights in their network, and their data.

    Attributes:
        config: The configuration that they are read with.
        weights: Their file.
        built: The network with the weights in it, on its device.
        splits: The data.
    """

    config: TrainConfig
    weights: Path
    built: BuiltModel
    splits: Splits

    def measure(self, split: Split) -> Evaluation:
        """Return every measure on a split."""
        device = next(self.built.module.parameters()).device
        return evaluate(
            self.built.module,
            split,
            batch=self.config.micro_batch or 64,
            autocast=autocast_of(self.config.precision, device),
        )

    @property
    def test(self) -> Split:
        """The test set, or as much of it as the configuration evaluates."""
        return some_of(self.splits.test, self.config.evaluate_samples or len(self.splits.test))


def evaluate_saved(path: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Measure saved weights on the test set, and draw their reliability diagram in a new folder.

    Args:
        path: A run folder, or a file with weights. A file inside a run folder is read with the
            run's configuration; any other needs model and dataset among the overrides.
        overrides: Dotted key to value.

    Raises:
        DpexpError: If the weights or the data cannot be read, or do not fit.
    """
    saved = load_saved(path, overrides)
    config, weights = saved.config, saved.weights
    found = saved.measure(saved.test)
    command = ["dpexp", "eval", str(path)]
    with RunFolder.create(config.output, to_dict(config), command) as folder, recorded(folder):
        write_reliability(
            folder, found, title=saved.built.name, subtitle="/".join(weights.parts[-3:])[-70:]
        )
        summary = found.named("test")
        folder.write_summary(summary)
        folder.set_status("done", step=0, steps=0)
        say(measures(found))
        say(f"folder    {folder.path}")
    return summary


def load_saved(path: Path, overrides: Mapping[str, Any]) -> SavedRun:
    """Return saved weights in their network, and their data.

    Args:
        path: As for `evaluate_saved`.
        overrides: Dotted key to value.

    Raises:
        DpexpError: If the weights or the data cannot be read, or do not fit.
    """
    config, weights = _saved_run(path, overrides)
    config.model.checkpoint, config.model.pretrained = str(weights), False
    check(config)
    built, splits = load_model_and_data(config, say)
    if any(note.startswith(NEW_HEAD) for note in built.notes):
        raise ModelError(
            f"{weights}: holds no last layer for the {num_outputs(config.dataset)} outputs of "
            f"{config.dataset.name}, so there is nothing to measure; evaluate it on the data set "
            f"it was trained on"
        )
    built.module.to(pick_device(config.device))
    return SavedRun(config, weights, built, splits)


def saved_config(folder: RunFolder) -> TrainConfig:
    """Return the configuration of a run folder.

    Raises:
        ConfigError: If a key of it is unknown or wrong.
    """
    config, wrong = from_dict(TrainConfig, folder.read_config())
    if wrong:
        raise ConfigError(
            "\n".join(f"{folder.path}/config.yaml: {line}" for line in wrong.values())
        )
    return config


def with_overrides(config: TrainConfig, overrides: Mapping[str, Any]) -> TrainConfig:
    """Return `config` with dotted keys replaced; the caller has checked that they exist."""
    for key, value in overrides.items():
        *parents, last = key.split(".")
        target: Any = config
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, last, value)
    return config


def _saved_run(path: Path, overrides: Mapping[str, Any]) -> tuple[TrainConfig, Path]:
    folder = path if path.is_dir() else path.resolve().parent.parent
    if (folder / "config.yaml").is_file():
        run_folder = RunFolder.open(folder)
        weights = run_folder.model_checkpoint if path.is_dir() else path
        if not weights.is_file():
            raise RunFolderError(
                f"{path} has no {weights.name}: the run stopped before its first checkpoint, so "
                f"there are no weights to measure; go on with dpexp train resume={path}"
            )
        return with_overrides(saved_config(run_folder), overrides), weights
    return with_overrides(TrainConfig(), overrides), path
