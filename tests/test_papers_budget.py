"""The committed table of published against sound epsilon is that of the settings as they are."""

import csv
from pathlib import Path

import pytest
from reference.scripts import load

from dpexp.accounting.papers import SETTINGS, check

pytestmark = pytest.mark.slow  # the first time; every setting, by every accountant

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "results" / "budgets" / "budgets.csv"


papers_budget = load("papers_budget")


@pytest.fixture(scope="module")
def checked():
    return [check(setting) for setting in SETTINGS]


def test_committed_rows_are_what_is_computed_now(checked):
    with TABLE.open(newline="") as file:
        committed = list(csv.DictReader(file))
    now = [papers_budget.row(each) for each in checked]
    assert len(committed) == len(now) > 10
    for old, new in zip(committed, now, strict=True):
        assert old["assumed"] == new["assumed"]
        assert (old["setting"], old["steps"]) == (new["setting"], str(new["steps"]))
        for key in ("published", "noise_multiplier", "gdp", "prv", "pld", "rdp", "shuffled"):
            assert float(old[key]) == pytest.approx(float(new[key]), rel=1e-3), (old, key)


def test_the_page_says_the_finding_first_and_marks_what_is_assumed(checked):
    page = papers_budget.page(checked, {"git": None, "packages": {"dp-accounting": "1",
                                        "prv-accountant": "2"}})  # fmt: skip
    first = page.splitlines()[2]
    assert first.startswith(
        f"* Of {len(SETTINGS)} settings of the papers and of their code, 3 stated"
    )
    assert f"{len(SETTINGS)} have a published epsilon below the true one" in first
    assert "| SNLI, BERT | 32 |" in page
    assert "| CIFAR-10 and CIFAR-100, BEiT [1] | 1000 |" in page
    assert "unknown: regression" in page
    assert "without amplification" in page


def test_an_epsilon_within_prvs_interval_is_not_called_too_low(checked):
    bounds = checked[0].poisson
    assert papers_budget.lower_end(checked[0]) == bounds.prv - 2 * bounds.prv_error < bounds.pld


def test_the_figure_can_be_drawn(checked, tmp_path):
    papers_budget.draw(checked[:3], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000
