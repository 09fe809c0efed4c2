"""Sweeps of tiny runs on the embedded digits; points and run folders for which nothing was run."""

import json
from pathlib import Path

from dpexp.config import TrainConfig
from dpexp.record.folder import RunFolder
from dpexp.schema import to_dict
from dpexp.sweep.point import Point
from dpexp.sweep.work import Task

TINY = [
    "steps=2", "epochs=null", "batch=64", "noise_multiplier=1", "eps=null", "evaluate_samples=32",
    "dataset.validation=100", "wandb.mode=disabled",
]  # fmt: skip


def runs_in(output) -> dict[str, dict]:
    """Run folder name -> what its status.json holds."""
    return {
        path.parent.name: json.loads(path.read_text())
        for path in sorted(Path(output).glob("*/status.json"))
    }


def entries_of(output) -> list[dict]:
    return json.loads((Path(output) / "sweep.json").read_text())["points"]


def a_point(output, given=None, **more) -> Point:
    """A point as the words of TINY and these keys describe it, composed by hand."""
    given = (given or {}) | more
    config = TrainConfig(steps=2, epochs=None, batch=64, noise_multiplier=1.0, eps=None)
    config.output, config.dataset.validation, config.wandb.mode = str(output), 100.0, "disabled"
    for key, value in given.items():
        *parts, last = key.split(".")
        holder = config
        for part in parts:
            holder = getattr(holder, part)
        setattr(holder, last, value)
    labels = {key: str(value) for key, value in given.items()}
    return Point(labels, (*TINY, *(f"{key}={text}" for key, text in labels.items())), config)


def a_task(point) -> Task:
    return Task(point.config, point.words, point.hash)


def a_run(point, state, *, step=0, steps=2, summary=None, has_checkpoint=False) -> Path:
    """The folder that a run of this point would leave."""
    command = ["dpexp", "train", *point.words]
    with RunFolder.create(point.config.output, to_dict(point.config), command) as folder:
        if state == "done":
            folder.write_document("privacy.json", {})
        if summary is not None:
            folder.write_summary(summary)
        if has_checkpoint:
            folder.state_checkpoint.touch()
        error = "RunFailedError: planted" if state in ("failed", "diverged") else None
        folder.set_status(state, step=step, steps=steps, error=error)
        return folder.path
