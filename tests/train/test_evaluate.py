"""An evaluation heeds a request to stop, and a run that is stopped in it can go on."""

import os
import signal

import pytest
import torch

from dpexp.config import DatasetConfig, TrainConfig
from dpexp.record.folder import RunFolder
from dpexp.train import evaluate as evaluation
from dpexp.train import run


def test_stopping_within_the_last_evaluation_keeps_the_last_step(tmp_path, monkeypatch):
    config = TrainConfig(steps=2, epochs=None, batch=64, output=str(tmp_path / "stopped"))
    config.wandb.mode = "disabled"
    config.dataset = DatasetConfig(name="digits")
    config.micro_batch = 16
    through = evaluation.logits_of

    def logits_of(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return through(*args, **kwargs)

    monkeypatch.setattr(evaluation, "logits_of", logits_of)
    with pytest.raises(KeyboardInterrupt):
        run.run(config)
    (path,) = (tmp_path / "stopped").iterdir()
    status = RunFolder.open(path).read_status()
    assert (status["state"], status["step"]) == ("interrupted", 2)

    monkeypatch.setattr(evaluation, "logits_of", through)
    resumed = run.resume(path, {})
    config.output = str(tmp_path / "whole")
    whole = run.run(config)
    assert resumed["test/accuracy"] == whole["test/accuracy"]
    (other,) = (tmp_path / "whole").iterdir()
    ours, theirs = (
        torch.load(p / "checkpoints" / "model.pt", weights_only=True) for p in (path, other)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
