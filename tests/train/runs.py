"""Short runs, and what they leave behind."""

import json
from pathlib import Path

import torch

from dpexp.cli.compose import compose
from dpexp.train import run

# One mechanism for most tests, so that it is accounted for once.
SHORT = ("steps=3", "batch=64", "noise_multiplier=1", "wandb.mode=disabled")


def config_of(output, *words):
    return compose([*SHORT, f"output={output}", *words])


def train(output, *words) -> Path:
    """Run `words` on top of a short run in a folder of their own; return the run folder."""
    before = folders(output)
    run.run(config_of(output, *words))
    (made,) = folders(output) - before
    return made


def folders(output) -> set[Path]:
    return set(Path(output).iterdir()) if Path(output).exists() else set()


def weights(folder) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "model.pt", weights_only=True)


def refuse_constant(text):
    raise AssertionError(f"{text} is not strict JSON")


def document(folder, name) -> dict:
    return json.loads((folder / f"{name}.json").read_text(), parse_constant=refuse_constant)


def metrics(folder) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse_constant) for line in lines]


def is_same(one, other) -> bool:
    """Whether two state dicts are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
