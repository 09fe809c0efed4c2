"""Tests keep what they calibrate and measure to themselves: one cache for all of a session."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def session_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
