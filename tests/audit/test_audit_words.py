"""What is typed after `dpexp audit`, and what comes back."""

import json
import math

import pytest

from dpexp.audit import audit, report
from dpexp.cli.audit import read
from dpexp.cli.help import USAGES
from dpexp.cli.main import main

# What is typed, and what the one line must hold.
WRONG = {
    "misspelt key": (["audit.canarys=3"], ["did you mean audit.canaries=3?"]),
    "misspelt kind": (["audit.kind=gradiant"], ["did you mean gradient?", "one_run"]),
    "no number": (["audit.trials=many"], ["audit.trials=many", "whole number"]),
    "few canaries": (["audit.canaries=5"], ["audit.canaries=5", "at least 100"]),
    "few images": (["audit.images=5"], ["audit.images=5", "at least 100"]),
    "no steps": (["audit.steps=0"], ["audit.steps=0", "at least 1"]),
    "certain": (["audit.confidence=1"], ["audit.confidence=1", "in [0.5, 1)"]),
    "ordinary training": (["dp=off"], ["dp=off", "no finite epsilon"]),
    "no noise": (["eps=inf"], ["no noise", "give a finite eps"]),
    "shuffled": (["protocol=published"], ["protocol=published", "use protocol=valid"]),
    "other sampler": (["sampling=balls_and_bins"], ["sampling=balls_and_bins", "sampling=poisson"]),
    "resumed": (["resume=x"], ["resume=x", "an audit trains anew"]),
    "key of a run": (["clipping.norm=-1"], ["clipping.norm=-1", "above 0"]),
    "batch of all": (["batch=1438"], ["batch=1438", "N = 938", "audit.kind=gradient"]),
    "all images": (["audit.images=1438"], ["audit.images=1438", "1438 images", "give fewer"]),
}  # fmt: skip


@pytest.mark.parametrize(("words", "parts"), WRONG.values(), ids=WRONG)
def test_a_wrong_word_is_one_line_and_exit_2(capsys, tmp_path, words, parts):
    assert main(["audit", *words, f"output={tmp_path}"]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert [part for part in parts if part not in line] == []
    assert list(tmp_path.iterdir()) == []


def test_what_holds_unless_it_is_said():
    request = read([])
    assert (request.kind, request.canaries, request.images) == ("both", 40_000, 1000)
    assert (request.steps, request.trials, request.confidence) == (10, 400, 0.95)


def test_every_key_is_in_the_help(capsys):
    assert main(["audit", "--help"]) == 0
    out = capsys.readouterr().out
    for name in ("kind", "canaries", "images", "steps", "trials", "confidence"):
        assert f"audit.{name} " in USAGES["audit"]
        assert f"audit.{name} " in out
    assert "noise_multiplier" in out


def refuse_constant(text):
    raise AssertionError(f"{text} is not strict JSON")


def test_an_audit_leaves_its_document_and_pictures(capsys, tmp_path):
    words = ["steps=20", "batch=128", "noise_multiplier=1.4", "audit.canaries=500",
             "audit.images=200", "audit.steps=2", "audit.trials=20"]  # fmt: skip
    assert main(["audit", *words, f"output={tmp_path}"]) == 0
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("audit-")
    assert {p.name for p in folder.iterdir()} == {"audit.json", "gradient.png", "one_run.png"}
    text = (folder / "audit.json").read_text()
    document = json.loads(text, parse_constant=refuse_constant)
    assert document["verdict"] == "consistent"
    assert [part["name"] for part in document["gradient"]] == [
        "every step", "subsampled", "one sample",
    ]  # fmt: skip
    looks = [look for part in document["one_run"]["parts"] for look in part["looks"]]
    assert {look["num_canaries"] for look in looks} == {200, 500}
    # All looks together are wrong with chance 5 %.
    attacks = [each for part in document["gradient"] for each in part["attacks"]]
    errors = [1 - each["confidence"] for each in (*attacks, *looks)]
    assert sum(errors) == pytest.approx(0.05)
    out = capsys.readouterr().out
    assert "claim     epsilon <= 1.7 at delta" in out
    assert "verdict   consistent" in out


def test_a_violation_exits_with_1(monkeypatch):
    monkeypatch.setattr(audit, "run", lambda request: False)
    assert main(["audit"]) == 1


@pytest.mark.parametrize(
    ("epsilon", "words"), [(0.1239, "0.123"), (2.0, "2.000"), (0.0, "0.000"), (math.inf, "inf")]
)
def test_a_lower_bound_is_rounded_down(epsilon, words):
    assert f"{report._rounded_down(epsilon):.3f}" == words
