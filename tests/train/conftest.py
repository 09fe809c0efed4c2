"""Tests of training hear of no W&B settings from outside."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def no_wandb_mode():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_MODE", raising=False)
        yield
