"""The first steps of the default run, as they were when its mathematics was last checked."""

import json
from pathlib import Path

import pytest
from runs import document, metrics

from dpexp.cli.compose import compose
from dpexp.train import run

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "train.json").read_text())


def test_the_default_run_takes_the_steps_it_took(tmp_path):
    run.run(compose([*GOLDEN["words"], f"output={tmp_path}"]))
    (folder,) = tmp_path.iterdir()
    rows = metrics(folder)
    tolerance = GOLDEN["relative_tolerance"]
    for key in ("unsafe/loss_nats", "unsafe/grad_norm_median"):
        assert [row[key] for row in rows] == pytest.approx(GOLDEN[key], rel=tolerance)
    assert [row["unsafe/batch_size"] for row in rows] == GOLDEN["unsafe/batch_size"]
    summary = document(folder, "summary")
    assert summary["test/nll_nats"] == pytest.approx(GOLDEN["test/nll_nats"], rel=tolerance)
    # Rounding may turn a sample or two of 359 over.
    assert summary["test/accuracy"] == pytest.approx(GOLDEN["test/accuracy"], abs=2 / 359)
