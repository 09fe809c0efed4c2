"""The accountants' grid: its judges find what is wrong, and its committed rows meet the lines."""

import importlib
import math
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
accountants = importlib.import_module("accountants")
accountants_page = importlib.import_module("accountants_page")
sys.path.remove(str(ROOT / "scripts"))

SETTING = {"q": 0.02, "steps": 150, "delta": 1e-5, "target": 1.0}
MADE_BY = {"git": None, "packages": {"dp-accounting": "1", "prv-accountant": "2"}, "cpu": "one"}


def test_grid_covers_the_ranges():
    grid = accountants.grid()
    assert len({tuple(row.values()) for row in grid}) == len(grid) >= 200
    for key, low, high in (("q", 1e-4, 0.5), ("steps", 1, 1e5), ("target", 0.1, 50)):
        values = [row[key] for row in grid]
        assert (min(values), max(values)) == (low, high)
    assert min(row["delta"] for row in grid) <= 1e-9
    assert max(row["delta"] for row in grid) == 1e-3


def test_random_settings_are_always_the_same():
    first, second = (accountants.random_settings() for _ in "12")
    assert [next(first) for _ in range(5)] == [next(second) for _ in range(5)]


# Origin: sigma 1.2684 is the root of a PLD with interval 1e-4 at epsilon 1.
@pytest.mark.parametrize(
    ("factor", "is_over", "excess"),
    [(1.002, False, 0.002), (1.02, False, 0.02), (0.99, True, -0.01)],
)
def test_judges_find_a_sigma_that_is_too_large_or_too_small(factor, is_over, excess):
    found = accountants.judge(1.2684 * factor, 0.001, SETTING)
    assert (found["fine"] > 1) == is_over
    assert found["excess"] == pytest.approx(excess, abs=5e-4)
    assert found["proved"] == (factor < 1.005)


def test_a_setting_that_hangs_or_dies_is_a_row(monkeypatch):
    monkeypatch.setattr(accountants, "LIMIT_SECONDS", 0.01)
    assert accountants.measure_apart(SETTING)["notes"].startswith("HUNG")
    monkeypatch.setattr(accountants, "LIMIT_SECONDS", 60)
    assert accountants.measure_apart({**SETTING, "q": 7})["notes"].startswith("DIED")


def test_a_process_of_its_own_changes_nothing_of_what_is_found():
    apart, here = accountants.measure_apart(SETTING), accountants.measure_here(SETTING)
    assert {key: apart[key] for key in ("sigma", "source", "notes", "epsilon", "fine")} == {
        key: here[key] for key in ("sigma", "source", "notes", "epsilon", "fine")
    }
    assert 50 < apart["peak_mib"] < 1024


def test_rows_are_written_once_and_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(accountants, "TARGET", tmp_path)
    for _ in "12":
        found = {"sigma": 1.5, "proved": False}
        accountants.run_settings("grid", iter([SETTING]), math.inf, lambda _, f=found: f)
    (row,) = accountants.read_rows()
    assert (row["sigma"], row["target"], row["proved"], row["rdp"]) == (1.5, 1.0, False, None)


@pytest.fixture
def rows():
    return [row for row in accountants.read_rows() if row["kind"] == "grid"]


def verdicts(rows):
    """Whether each pass line is met, by its name."""
    lines = accountants_page.summary(rows, [])[2:]
    return {line.split(" | ")[0].strip("| "): line.endswith("| yes |") for line in lines}


def test_committed_rows_meet_every_line(rows):
    assert len(rows) >= 200
    assert [name for name, is_met in verdicts(rows).items() if not is_met] == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"fine": 99.0}, "over the target"),
        ({"excess": 0.006}, "sigma over the smallest possible"),
        ({"rdp": 1e-3}, "RDP over PLD"),
        ({"peak_mib": 1100.0}, "memory"),
        ({"sigma": None}, "hung or died"),
        ({"prv": 99.0, "notes": ""}, "PRV's estimate and PLD"),
    ],
)
def test_one_bad_row_fails_its_line(rows, change, line):
    sound = next(i for i, row in enumerate(rows) if row["source"] == "prv")
    rows[sound] = {**rows[sound], **change}
    assert [name for name, is_met in verdicts(rows).items() if not is_met] == [line]


def test_a_committed_row_is_what_is_computed_now(rows):
    from dpexp.accounting.calibrate import calibrate

    row = min(rows, key=lambda r: r["cpu_seconds"])
    found = calibrate(row["target"], row["delta"], row["q"], int(row["steps"]))
    assert found.noise_multiplier == row["sigma"]
    assert found.bounds.epsilon == pytest.approx(row["epsilon"], rel=1e-6)


def test_page_names_what_was_caught(rows):
    page = accountants_page.page(rows, [], MADE_BY)
    assert "| PRV's grid would be too large; epsilon is PLD's |" in page
    assert "| other | 0 |  |" in page
    assert "None were run." in page


def test_random_settings_beyond_the_line_are_named(rows):
    sound = next(row for row in rows if row["source"] == "prv" and not row["notes"])
    note = "PRV's estimate and PLD differ by +0.6, above 0.02; the larger bound is reported"
    wide = {**sound, "kind": "random", "q": 0.123, "excess": 0.009, "notes": note}
    wide["prv"] += 0.6
    text = "\n".join(accountants_page.random_lines([{**sound, "kind": "random"}, wide]))
    assert "2 settings" in text
    assert "smallest possible in 1." in text
    assert "In 1 it is more, 0.90% at most; in 1 of these PRV's estimate" in text
    assert "0.123, " in text
