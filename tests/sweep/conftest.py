"""Sweeps hear of no W&B settings from outside."""

import pytest


@pytest.fixture
def output(tmp_path, monkeypatch):
    """A folder for a sweep."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return tmp_path / "grid"
