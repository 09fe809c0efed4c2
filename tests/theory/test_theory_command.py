"""`dpexp theory` as typed: errors, and a tiny run of all of it."""

import json

import pytest

from dpexp.accounting.bounds import Bounds
from dpexp.accounting.papers import SETTINGS, Checked
from dpexp.claims import CLAIMS
from dpexp.cli.main import main
from dpexp.theory import invariance, noise_limit, privacy_claims, trajectories
from dpexp.theory.request import TESTED

WRONG = {
    "no such claim": ("claims=A99", "claims=A99: no such claim;"),
    "of training runs": ("claims=A1,A10", "claims=A10: is put to the test by training runs"),
    "odd seeds": ("seeds=5", "seeds=5: seeds come in pairs of opposite noise"),
    "one pair": ("seeds=2", "give an even number from 4"),
    "no states": ("states=0", "states=0: a claim needs a state"),
    "misspelt": ("claim=A1", "did you mean claims=A1?"),
    "key of a run": ("eps=1", "eps=1: no such key"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line(case, capsys):
    word, text = WRONG[case]
    assert main(["theory", word]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert text in line


def test_the_claims_tested_are_of_the_list():
    assert set(TESTED) < {claim.name for claim in CLAIMS}
    assert list(TESTED) == [claim.name for claim in CLAIMS if claim.name in TESTED]


def test_a_tiny_run_settles_every_claim(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(noise_limit, "STEPS", (8, 80))
    monkeypatch.setattr(trajectories, "NUM_STEPS", 40)
    monkeypatch.setattr(trajectories, "SEEDS", (1,))
    monkeypatch.setattr(invariance, "NUM_STEPS", 10)
    monkeypatch.setattr(invariance, "SEEDS", (0,))
    # The accountants of this setting take half a minute; tests of the papers' budgets have them.
    bounds = Bounds(
        epsilon=7.0, source="prv", prv=7.0, prv_error=0.1, pld=6.0, rdp=8.0, gdp=1.3
    )  # fmt: skip
    checked = Checked(
        setting=SETTINGS[0], noise_multiplier=0.4, num_steps=54_000, num_epochs=4, claimed=1.3,
        poisson=bounds, shuffled=99.0,
    )  # fmt: skip
    monkeypatch.setattr(privacy_claims, "snli", lambda: checked)
    assert main(["theory", "states=6", "seeds=4", f"output={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines[:-1]} == set(TESTED)
    document = json.loads((tmp_path / "theory.json").read_text())
    assert [v["claim"] for v in document["verdicts"]] == list(TESTED)
    found = {v["claim"]: v["outcome"] for v in document["verdicts"]}
    assert {name for name in found if found[name] != "reproduced"} <= {"A7", "A8", "A16", "A17"}
    assert found["A16"] == found["A17"] == "not reproduced"
    assert document["schema"] == 1
    assert document["settings"]["states"] == 6
    page = (tmp_path / "README.md").read_text()
    for name in TESTED:
        assert f"\n| {name} | " in page
    for figure in tmp_path.glob("*.png"):
        assert f"({figure.name})" in page
    assert len(list(tmp_path.glob("*.png"))) == 5


def test_only_the_claims_asked_for_are_tested(tmp_path, capsys):
    assert main(["theory", "claims=A15", f"output={tmp_path}"]) == 0
    assert capsys.readouterr().out.startswith("A15  reproduced ")
    document = json.loads((tmp_path / "theory.json").read_text())
    assert [v["claim"] for v in document["verdicts"]] == ["A15"]
    assert list(document["numbers"]) == ["bounds"]
