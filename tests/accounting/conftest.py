"""Accounting tests share the cache of the session, but for those that ask for an empty one."""

import pytest


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A cache with nothing in it; returns its folder, which does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "dpexp" / "accounting"
