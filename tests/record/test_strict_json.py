"""Strict JSON: what becomes of values that JSON lacks, and of a write that fails half-way."""

import dataclasses
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from dpexp.errors import RunFolderError
from dpexp.record import strict_json
from dpexp.record.strict_json import SCHEMA, read_json, to_strict, to_text, write_json


@dataclasses.dataclass
class Point:
    x: float
    path: Path


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), None),
        (float("inf"), "inf"),
        (-float("inf"), "-inf"),
        (np.float64("inf"), "inf"),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (torch.tensor(2.0), 2.0),
        (torch.tensor([1.0, float("nan")]), [1.0, None]),
        ((1, 2), [1, 2]),
        ({1: Path("a/b")}, {"1": "a/b"}),
        (Point(float("inf"), Path("a")), {"x": "inf", "path": "a"}),
        (True, True),
    ],
)
def test_value_has_its_strict_form(value, expected):
    got = to_strict(value)
    assert got == expected
    assert type(got) is type(expected)
    json.dumps(got, allow_nan=False)


def test_what_has_no_form_is_refused_by_its_place():
    with pytest.raises(RunFolderError, match=r"value\.a\[1\] is a set, which has no form in JSON"):
        to_text({"a": [1, {2}]})


def test_document_carries_its_schema_and_comes_back(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"test/accuracy": 0.5, "text": "epsilon \u03b5"})
    assert read_json(path) == {"schema": SCHEMA, "test/accuracy": 0.5, "text": "epsilon \u03b5"}


def full_disk(_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_is_one_line_and_keeps_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "summary.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr(strict_json.os, call, lambda *_: full_disk(None))
    with pytest.raises(RunFolderError, match=r"summary\.json .*no space left.*output=") as caught:
        write_json(path, {"a": 2})
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert read_json(path)["a"] == 1
    assert os.listdir(tmp_path) == ["summary.json"]


def test_file_and_folder_are_on_the_disk_before_and_after_the_move(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def watch_fsync(handle):
        events.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        fsync(handle)

    monkeypatch.setattr(strict_json.os, "fsync", watch_fsync)
    monkeypatch.setattr(
        strict_json.os, "replace", lambda *paths: (events.append("move"), replace(*paths))
    )
    write_json(tmp_path / "a.json", {})
    assert events == ["file", "move", "folder"]


@pytest.mark.parametrize("content", ["{", "[1]", None])
def test_damaged_document_is_refused(tmp_path, content):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RunFolderError, match=r"a\.json"):
        read_json(path)
