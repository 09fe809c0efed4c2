"""Compose a run's configuration: groups from YAML by Hydra, then values, then every check."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpexp.cli.overrides import Overrides, sort_words
from dpexp.config import TrainConfig, check, size_problems
from dpexp.data.public import check_name, public_num_train, table_problems
from dpexp.errors import ConfigError, DpexpError
from dpexp.schema import from_dict, key_types

KEYS = key_types(TrainConfig)
SECTION_GROUPS = ("model", "dataset", "clipping", "optimizer", "schedule")
GROUPS = (*SECTION_GROUPS, "experiment")

# Each follows from the other, so giving one takes back a default of the other.
EXCLUSIVE = {"eps": "noise_multiplier", "epochs": "steps"}

# What a resumed run may change: nothing that enters the mathematics.
# Why a key may not change.
_FIXED = {
    "train": "would change what the run computes, and so the epsilon it promised",
    "eval": "changes nothing about measuring saved weights",
}
EVAL_KEYS = ("dataset", "device", "evaluate_samples", "micro_batch", "model", "output", "precision")
RESUME_KEYS = ("device", "micro_batch", "output", "wandb")


def conf_folder() -> Path:
    """Return the folder of the YAML files: the package dpexp.conf, or conf/ beside the package."""
    spec = importlib.util.find_spec("dpexp.conf")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent
    return Path(__file__).parents[2] / "conf"


def group_options(config_dir: Path | None = None) -> dict[str, list[str]]:
    """Return the options of every group, those of the user's own folder included."""
    folders = [conf_folder(), *([config_dir] if config_dir else [])]
    return {
        group: sorted(
            {
                file.relative_to(folder / group).with_suffix("").as_posix()
                for folder in folders
                for file in (folder / group).rglob("*.yaml")
            }
        )
        for group in GROUPS
    }


def compose(
    words: Sequence[str], *, command: str = "train", config_dir: Path | None = None
) -> TrainConfig:
    """Return the checked configuration that the words after a command ask for.

    A word config=<file> starts from a saved configuration in place of the defaults.

    Raises:
        ConfigError: If anything is wrong; one line a problem, all of them at once.
    """
    keys = {**KEYS, "config": str}
    groups = group_options(config_dir)
    overrides = sort_words(words, keys=keys, groups=groups, command=command)
    base = overrides.values.pop("config", None)
    if base and "experiment" in overrides.choices:
        overrides.problems.append(
            f"config={base} and experiment={overrides.choices.pop('experiment')}: each is a whole "
            f"run to start from; give one"
        )
    if base:
        values = _from_file(Path(base), overrides.choices, config_dir)
    else:
        values = _from_groups(overrides.choices, config_dir)
    return _finish(values, overrides, has_batches=command != "selfcheck")


def changes(
    words: Sequence[str],
    *,
    command: str,
    only: Sequence[str] | None = None,
    config_dir: Path | None = None,
) -> dict[str, Any]:
    """Return only what the words change, as dotted key -> value; a group gives all of its keys.

    Args:
        words: As typed, after the command.
        command: Named in the problems.
        only: Keys and sections that may change; None allows all.
        config_dir: Folder of the user's own configuration files.

    Raises:
        ConfigError: If a word is no override, has the wrong type, or may not change.
    """
    groups = group_options(config_dir)
    del groups["experiment"]
    overrides = sort_words(words, keys=KEYS, groups=groups, command=command)
    asked = {**overrides.choices, **overrides.values}
    fixed = [
        f"{key}={text}: {_FIXED[command]}; only {', '.join(only)} may change here; leave it out, "
        f"or start a new run"
        for key, text in asked.items()
        if only is not None and key not in only and key.split(".")[0] not in only
    ]
    if overrides.problems or fixed:
        raise ConfigError("\n".join([*overrides.problems, *fixed]))
    values = _apply(_from_groups(overrides.choices, config_dir), overrides)
    config, _ = from_dict(TrainConfig, values)
    return {key: _at(config, key) for key in KEYS if key in asked or key.split(".")[0] in asked}


def _finish(values: dict[str, Any], overrides: Overrides, *, has_batches: bool) -> TrainConfig:
    """Apply the values, build the typed configuration, and check it; report everything at once."""
    config, wrong = from_dict(TrainConfig, _apply(values, overrides))
    given = {key for key, text in overrides.values.items() if _at(config, key) is not None}
    for one, other in (*EXCLUSIVE.items(), *((b, a) for a, b in EXCLUSIVE.items())):
        if one in given and other not in overrides.values:
            setattr(config, other, None)
    # A rejected key holds its default here; what follows from that is not the user's doing.
    rejected = overrides.rejected | set(wrong)
    consequences = [
        line
        for line in _checked(config, has_batches=has_batches)
        if not any(f"{key}=" in line for key in rejected)
    ]
    problems = [*overrides.problems, *wrong.values(), *consequences]
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def _checked(config: TrainConfig, *, has_batches: bool) -> list[str]:
    """Return one sentence for each thing that is wrong and can be seen before data is loaded."""
    problems = []
    try:
        check(config)
    except ConfigError as error:
        problems += str(error).splitlines()
    try:
        check_name(config.dataset.name)
        problems += table_problems(config.dataset, config.model.name)
        num_train = public_num_train(config.dataset)
    except DpexpError as error:
        return [*problems, *str(error).splitlines()]
    if has_batches and num_train is not None and num_train > 0:
        problems += size_problems(config, num_train)
    return problems


def _apply(values: dict[str, Any], overrides: Overrides) -> dict[str, Any]:
    """Return nested values with the command line's on top, interpolations resolved."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    config = OmegaConf.create(values)
    for key, text in overrides.values.items():
        OmegaConf.update(config, key, text)
    try:
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(
            f"{_first_line(error)}; the text in ${{...}} could not be filled in"
        ) from error


def _from_groups(choices: Mapping[str, str], config_dir: Path | None) -> dict[str, Any]:
    """Compose conf/train.yaml with the chosen groups."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    words = [f"{group}={option}" for group, option in choices.items()]
    if config_dir is not None:
        words.append(f"hydra.searchpath=['file://{config_dir.resolve()}']")
    try:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            config = hydra_compose("train", words)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(
            f"{' '.join(words)}: the configuration files do not fit together "
            f"({_first_line(error)}); see {config_dir or conf_folder()}"
        ) from error
    return OmegaConf.to_container(config)  # type: ignore[return-value]


def _from_file(path: Path, choices: Mapping[str, str], config_dir: Path | None) -> dict[str, Any]:
    """Load a saved configuration; a chosen group replaces its whole section."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    path = path / "config.yaml" if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(
            f"config={path}: no such file; give the config.yaml of a run folder, or the folder"
        )
    try:
        values = OmegaConf.to_container(OmegaConf.load(path))
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"config={path}: not readable as YAML ({_first_line(error)})") from error
    if not isinstance(values, dict) or not values:
        raise ConfigError(f"config={path}: holds no keys; give the config.yaml of a run folder")
    if choices:
        composed = _from_groups(choices, config_dir)
        values.update({group: composed[group] for group in choices})
    return values  # type: ignore[return-value]


def _at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
