"""The kept form of a run: one small JSON, without a path of the machine that it ran on."""

import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from dpexp.config import TrainConfig
from dpexp.errors import ConfigError, RunFolderError
from dpexp.record.config_hash import FREE_KEYS
from dpexp.record.folder import RunFolder
from dpexp.record.strict_json import SCHEMA, read_json, to_text, write_json, write_text, writing
from dpexp.report.curve import short_curve
from dpexp.report.runs import Run, experiment_of
from dpexp.schema import from_dict, to_dict

KEPT_PROVENANCE = ("command", "started", "git", "packages", "python", "cpu", "cpu_count", "gpus")
PATH_KEYS = (("dataset", "root"), ("model", "checkpoint"))
RECALIBRATION = "recalibration.json"
ENDED = ("done", "diverged")


def run_of_folder(path: Path) -> Run:
    """Return the run of a folder that dpexp train made.

    Raises:
        RunFolderError: If it has not ended, was no training, or a file of it is damaged.
        ConfigError: If a key of its configuration is unknown or wrong.
    """
    folder = RunFolder.open(path)
    status = folder.read_status()
    if not (path / "privacy.json").is_file():
        raise RunFolderError(
            f"{path} holds no privacy.json, so it is an evaluation or an audit and no training run"
        )
    if status["state"] not in ENDED:
        raise RunFolderError(
            f"{path} is {status['state']} at step {status['step']} of {status['steps']}: what it "
            f"measured is not final; dpexp train resume={path}"
        )
    provenance = folder.read_document("provenance.json")
    parts = {
        "state": status["state"],
        "config": folder.read_config(),
        "summary": folder.read_document("summary.json"),
        "privacy": folder.read_document("privacy.json"),
        "curve": short_curve(folder.read_metrics()),
        "provenance": {key: provenance.get(key) for key in KEPT_PROVENANCE},
    }
    for name in ("reliability", "calibration"):
        if (path / f"{name}.json").is_file():
            parts[name] = folder.read_document(f"{name}.json")
    return _run(path.name, parts, path / "config.yaml")


def recalibration_of(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the name of the run's folder, and what is kept of its recalibration.

    Raises:
        RunFolderError: If it has not ended, or a file of it is damaged.
    """
    folder = RunFolder.open(path)
    state = folder.read_status()["state"]
    if state != "done":
        raise RunFolderError(f"{path} is a recalibration and {state}: nothing of it is final")
    document = folder.read_document(RECALIBRATION)
    summary = folder.read_document("summary.json")
    kept = {key: document[key] for key in ("method", "epsilon", "guarantee")}
    tested = {key: value for key, value in summary.items() if key.startswith(("test/", "before/"))}
    return str(document["run"]["folder"]), kept | {"summary": tested}


def run_of_file(path: Path) -> Run:
    """Return the run of a kept file, such as `keep` writes.

    Raises:
        RunFolderError: If it cannot be read, or holds no run.
        ConfigError: If a key of its configuration is unknown or wrong.
    """
    document = read_json(path)
    if not is_kept(document):
        raise RunFolderError(
            f"{path} holds no run: config, summary and provenance belong into a kept one; name a "
            f"run folder, or a file that dpexp report wrote"
        )
    return _run(str(document.get("name", path.stem)), document, path)


def is_kept(document: Mapping[str, Any]) -> bool:
    """Return whether a document is the kept form of a run."""
    return {"config", "summary", "provenance"} <= document.keys()


def keep(run: Run, folder: Path, earlier: Path | None = None) -> Path:
    """Write the kept form of `run` into `folder`, a line a part, and return its path.

    The name is that of the experiment, without the paper, and the hash of the configuration; a
    file that was kept `earlier` keeps its own.

    Raises:
        RunFolderError: If it cannot be written.
    """
    words = re.sub(r"[^\w.-]+", "-", (run.experiment or "run").rpartition("/")[2])
    path = earlier or folder / f"{words}-{run.hash}.json"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    parts = {
        "schema": SCHEMA,
        "name": run.name,
        "state": run.state,
        "config": run.config,
        "summary": run.summary,
        "privacy": run.privacy,
        "reliability": run.reliability,
        "calibration": run.calibration,
        "recalibrations": run.recalibrations or None,
        "curve": run.curve,
        "provenance": run.provenance,
    }
    lines = [f"{to_text(key)}: {to_text(part)}" for key, part in parts.items() if part is not None]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")
    return path


def keep_theory(document: Mapping[str, Any], figures: Sequence[Path], folder: Path) -> None:
    """Write what dpexp theory found into `folder`, its pictures beside it, without paths.

    Raises:
        RunFolderError: If it cannot be written.
    """
    provenance = dict(document.get("provenance") or {})
    provenance["command"] = _without_paths(str(provenance.get("command") or ""))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for figure in figures:
            shutil.copyfile(figure, folder / figure.name)
    write_json(folder / "theory.json", {**document, "provenance": provenance})


def _run(name: str, parts: Mapping[str, Any], source: Path) -> Run:
    config, problems = from_dict(TrainConfig, parts["config"])
    if problems:
        raise ConfigError("\n".join(f"{source}: {line}" for line in problems.values()))
    provenance = dict(parts["provenance"])
    provenance["command"] = _without_paths(str(provenance.get("command") or ""))
    return Run(
        name=name,
        experiment=experiment_of(provenance["command"]),
        state=str(parts.get("state", "done")),
        config=_portable(to_dict(config)),
        summary=parts["summary"],
        privacy=parts.get("privacy") or {},
        reliability=parts.get("reliability"),
        calibration=parts.get("calibration"),
        curve=tuple(parts.get("curve") or ()),
        provenance=provenance,
        recalibrations=tuple(parts.get("recalibrations") or ()),
    )


def _portable(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration without the folders of a machine; relative ones stay."""
    defaults = to_dict(TrainConfig())
    config |= {key: defaults[key] for key in FREE_KEYS}
    for section, key in PATH_KEYS:
        value = config[section][key]
        config[section][key] = None if value is None else _relative(value)
    return config


def _relative(path: str) -> str:
    return PurePath(path).name if path.startswith(("/", "~", "..")) else path


def _without_paths(command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    pairs = [word.partition("=") for word in words]
    return shlex.join(key + equals + _relative(value) if equals else _relative(key)
                      for key, equals, value in pairs)  # fmt: skip
