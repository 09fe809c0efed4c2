"""What `dpexp sweep` exits with, by the states that its points end in."""

from types import SimpleNamespace

import pytest

from dpexp.cli import sweep


@pytest.mark.parametrize(
    ("state", "code"),
    [("done", 0), ("diverged", 0), ("elsewhere", 0), ("failed", 1), ("interrupted", 1)],
)
def test_a_point_that_failed_or_was_stopped_is_exit_code_1(monkeypatch, tmp_path, state, code):
    rows = [SimpleNamespace(state="done"), SimpleNamespace(state=state)]
    monkeypatch.setattr(sweep, "_introduce", lambda request: None)
    monkeypatch.setattr(sweep, "_carry_out", lambda plan, request: rows)
    words = ["seed=0,1", "steps=2", f"output={tmp_path}", "wandb.mode=disabled"]
    assert sweep.run(words) == code
