"""The crash script finds what it is there to find, on folders that were damaged by hand."""

import json
import random

import pytest
import torch
from reference.scripts import load

from dpexp.accounting.ledger_file import LedgerFile
from dpexp.record.strict_json import write_json

crash = load("crash")


def steps_file(folder, *lines):
    path = folder / "steps.jsonl"
    names = ("noise", "weights", "batch")
    path.write_text(
        "".join(json.dumps(dict(zip(names, line, strict=True))) + "\n" for line in lines)
    )
    return path


@pytest.mark.parametrize(
    ("kind", "lines", "found"),
    [
        ("seeded", [("z1", "w1", "b1"), ("z2", "w2", "b2"), ("z1", "w1", "b1")], []),
        ("seeded", [("z1", "w1", "b1"), ("z1", "w2", "b1")], ["1 noise draws served two"]),
        ("seeded", [("z1", "w1", "b1"), ("z1", "w1", "b2")], ["1 noise draws served two"]),
        ("secure", [("z1", "w1", "b1"), ("z1", "w1", "b1")], ["noise from the operating system"]),
        ("secure", [("z1", "w1", "b1"), ("z2", "w1", "b2")], []),
    ],
)
def test_noise_that_serves_two_steps_is_found(tmp_path, kind, lines, found):
    tally = crash.Tally(kind)
    crash.check_noise(tally, steps_file(tmp_path, *lines))
    assert [
        sentence[: len(f)] for sentence, f in zip(tally.mismatches, found, strict=True)
    ] == found
    assert tally.steps_taken == [len(lines)]


def run_folder(folder, **changes):
    """A folder of a secure run: 8 steps, of which 6 to 8 were taken again; 10 planned."""
    ledger = LedgerFile(folder / "ledger.jsonl")
    for entry in (
        {"entry": "terms"},
        {"entry": "begin", "step": 0},
        {"entry": "charge", "to": 8},
        {"entry": "begin", "step": 6},
        {"entry": "charge", "to": 9},
        {"entry": "untaken", "to": 8},
    ):
        ledger.append(entry)
    privacy = {"steps_charged": 10, "steps_done": 8, "epsilon": 2.0, "attempts": 2}
    write_json(folder / "privacy.json", {**privacy, **changes})
    write_json(folder / "status.json", {"state": changes.get("state", "done")})
    return folder


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, []),
        ({"state": "running"}, ["state is running"]),
        ({"steps_charged": 8}, ["statement and ledger count differently"]),
        ({"epsilon": 2.5}, ["epsilon 2.5 above 2.0"]),
        ({"steps_done": 11}, ["more steps done than charged"]),
    ],
    ids=str,
)
def test_a_run_beyond_its_budget_is_found(tmp_path, changes, found):
    tally = crash.Tally("secure")
    crash.check_within_budget(tally, run_folder(tmp_path, **changes), planned=10, budget=2.0)
    assert tally.mismatches == found
    crash.check_within_budget(tally, tmp_path, planned=9, budget=9.0)
    assert "10 steps charged of 9" in tally.mismatches


def finished(folder, bias=0.0, accuracy=0.5):
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({"bias": torch.tensor([bias])}, folder / "checkpoints" / "model.pt")
    for name in ("summary", "privacy", "reliability", "plan"):
        write_json(
            folder / f"{name}.json", {"accuracy": accuracy, "time/total_seconds": id(folder)}
        )
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "accuracy": accuracy}) + "\n")
    return folder


def test_a_run_that_differs_in_one_bit_is_found(tmp_path):
    whole = finished(tmp_path / "whole")
    tally = crash.Tally("seeded")
    crash.check_same(tally, finished(tmp_path / "same"), whole)
    assert tally.mismatches == []
    crash.check_same(tally, finished(tmp_path / "weights", bias=1e-30), whole)
    assert tally.mismatches == ["weights differ"]
    crash.check_same(tally, finished(tmp_path / "record", accuracy=0.6), whole)
    assert "metrics.jsonl differs" in tally.mismatches
    assert "privacy.json differs" in tally.mismatches


@pytest.mark.slow
def test_a_few_kills_of_a_real_run(tmp_path, monkeypatch):
    short = ("steps=40", "batch=64", "noise_multiplier=1", "wandb.mode=disabled")
    monkeypatch.setattr(crash, "WORDS", short)
    monkeypatch.setattr(crash, "SHARE", 0.9)  # of so short a run the beginning is the longest part
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        tally = crash.campaign("secure", 3, tmp_path, random.Random(3))
    finally:
        torch.set_num_threads(threads)
    assert tally.mismatches == []
    assert tally.kills >= 3
    assert "| secure | " in crash.page([tally], "command")
