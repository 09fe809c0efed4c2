"""Sweeps of tiny runs on the embedded digits."""

import json
from pathlib import Path

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
