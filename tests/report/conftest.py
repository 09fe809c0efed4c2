"""Made-up runs: a configuration, a summary, and nothing trained."""

import pytest

from dpexp.config import TrainConfig
from dpexp.report.runs import Run
from dpexp.schema import to_dict

EXPERIMENT = "convergence/cifar10_cnn_grid"


def made_run(
    *,
    state="done",
    steps=1800,
    sigma=0.83,
    calibration=None,
    curve=(),
    recalibrations=(),
    started="2026-01-01T00:00:00+00:00",
    experiment=EXPERIMENT,
    keys=None,
    **measures,
):
    """Return a run: `keys` of its configuration, and measures as test_ece=..., val_accuracy=..."""
    config = to_dict(TrainConfig())
    config |= {"eps": 2.0, "seed": 0}
    config["dataset"] |= {"name": "cifar10", "validation": 5000.0}
    for key, value in (keys or {}).items():
        *parents, last = key.split(".")
        section = config
        for parent in parents:
            section = section[parent]
        section[last] = value
    summary = {name.replace("_", "/", 1): value for name, value in measures.items()}
    return Run(
        name=f"made-{config['clipping']['norm']}-{config['optimizer']['lr']}-{config['seed']}",
        experiment=experiment,
        state=state,
        config=config,
        summary={
            "privacy/noise_multiplier": sigma,
            "privacy/epsilon": 1.9,
            "privacy/guarantee": "seeded",
            **summary,
        },
        privacy={"steps_planned": steps, "noise_multiplier": sigma},
        reliability=None,
        calibration=calibration,
        curve=tuple(curve),
        provenance={
            "command": f"dpexp train experiment={experiment} output=somewhere seed=7",
            "started": started,
            "git": {"commit": "0" * 40, "dirty": False},
        },
        recalibrations=tuple(recalibrations),
    )


def made_grid(cells, *, seeds=3, noise=0.002, keys=None, **common):
    """Return runs over R: cells maps R to measures, which seeds spread by `noise` either way."""
    runs = []
    for norm, measures in cells.items():
        for seed in range(seeds):
            shift = noise * (seed - (seeds - 1) / 2)
            own = {"clipping.norm": norm, "optimizer.lr": 1 / norm, "seed": seed}
            values = {name: value + shift * (1 if seed != 1 else -1) * (1 + norm % 0.7)
                      for name, value in measures.items()}  # fmt: skip
            runs.append(made_run(keys=own | (keys or {}), **values, **common))
    return runs


@pytest.fixture
def make_run():
    return made_run


@pytest.fixture
def make_grid():
    return made_grid
