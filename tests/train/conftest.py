"""Tests of training share one cache of accounting, and hear of no W&B settings from outside."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def training_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("WANDB_MODE", raising=False)
        yield
