"""Tables and README from made-up runs: every claim a row, every number from the runs."""

import csv
import io
import re

import pytest

from dpexp.claims import CLAIMS
from dpexp.report.claim_tables import claims_csv, claims_markdown
from dpexp.report.collect import Found
from dpexp.report.contents import LeftOut
from dpexp.report.lines import closing, opening
from dpexp.report.readme import as_readme
from dpexp.report.report import report_of
from dpexp.report.tables import cell, points_csv, table
from dpexp.report.words import count

CELLS = {
    norm: {"val_accuracy": 0.6, "test_accuracy": 0.6, "test_ece": ece, "test_mce": 0.3}
    for norm, ece in ((0.1, 0.2), (1.0, 0.2), (100.0, 0.05))
}
THEORY = {
    "verdicts": [
        {"claim": "A2", "outcome": "reproduced", "ours": "in 40 of 40 states", "value": 0.5,
         "interval": [0.4, 0.6], "reason": "", "command": "dpexp theory claims=A2"},
        {"claim": "A7", "outcome": "not reproduced", "ours": "falls 2.1-fold", "value": None,
         "interval": None, "reason": "too slow", "command": "dpexp theory claims=A7"},
    ]
}  # fmt: skip


def found_of(runs, theory=None, left_out=(), notes=()):
    return Found(
        runs=tuple(runs),
        theory=theory,
        theory_path=None,
        theory_figures=(),
        left_out=left_out,
        notes=notes,
        files={},
    )


@pytest.fixture
def report(make_grid, make_run):
    runs = make_grid(CELLS) + make_grid(CELLS, keys={"eps": 8.0}, sigma=0.5)
    runs.append(make_run(keys={"dp": False}, sigma=None, experiment=None, test_accuracy=0.7))
    left = (LeftOut(name="x", reason="x is running at step 1 of 2"),)
    return report_of(found_of(runs, THEORY, left, ("a note",)), "dpexp report results/x")


def test_every_claim_has_a_row_in_order(report):
    assert [row.claim for row in report.rows] == list(CLAIMS)
    by_name = {row.claim.name: row for row in report.rows}
    assert by_name["A11b"].verdict.outcome == "reproduced"
    assert len(by_name["A11b"].parts) == 2
    assert by_name["A2"].verdict.interval == (0.4, 0.6)
    assert by_name["A2"].on == "small networks"
    assert by_name["A7"].verdict.outcome == "not reproduced"
    assert by_name["A1"].verdict.reason == "not among what was read; dpexp theory tests it"
    assert "cifar10_cnn_flat" in by_name["A12"].verdict.reason
    assert "BERT on SNLI needs pretrained weights" in by_name["A14"].verdict.reason


def test_markdown_and_csv_hold_the_same_claims(report):
    lines = claims_markdown(report.rows).splitlines()
    rows = [line for line in lines if re.match(r"\| A\d", line)]
    assert len(rows) == len(CLAIMS)
    assert all(len(re.split(r"(?<!\\)\|", row)) == 10 for row in rows)
    written = list(csv.DictReader(io.StringIO(claims_csv(report.rows))))
    assert [row["claim"] for row in written if row["claim"] == "A11b"] == ["A11b"] * 3
    a7 = next(row for row in written if row["claim"] == "A7")
    assert a7["verdict"] == "not reproduced: too slow"
    assert next(row for row in written if row["claim"] == "A2")["interval"] == "[0.4, 0.6]"


def test_a_cell_is_mean_and_spread_in_its_unit(report):
    point = report.grids[1].final[0]
    # Seeds at 0.5978, 0.6 and 0.6022.
    assert cell(point, "test/accuracy") == "60.00 +- 0.22"
    assert cell(point, "test/nll_nats") == "-"
    (alone,) = (p for p in report.points if p.first.experiment is None)
    assert cell(alone, "test/accuracy") == "70.00"


def test_a_diverged_run_is_counted_and_its_guess_not_averaged(make_run):
    runs = [
        make_run(keys={"seed": seed}, test_accuracy=accuracy, val_accuracy=accuracy, test_ece=ece,
                 state=state)
        for seed, accuracy, ece, state in ((0, 0.6, 0.2, "done"), (1, 0.02, None, "diverged"),
                                           (2, 0.7, 0.3, "done"))
    ]  # fmt: skip
    report = report_of(found_of(runs), "dpexp report")
    (point,) = report.points
    assert cell(point, "test/accuracy") == "65.00 +- 7.07 (1 diverged)"
    assert cell(point, "test/ece") == "25.00 +- 7.07 (1 diverged)"
    assert "over seeds, diverged ones left out and counted, on the test set." in as_readme(
        report, []
    )
    (row,) = csv.DictReader(io.StringIO(points_csv(report)))
    assert (row["seeds"], row["diverged"]) == ("0 1 2", "1")
    assert (row["test/accuracy mean"], row["val/accuracy mean"]) == ("0.65", "0.65")


def test_where_every_run_diverged_there_is_no_number(make_run):
    runs = [make_run(keys={"seed": s}, test_accuracy=0.02, state="diverged") for s in (0, 1)]
    report = report_of(found_of(runs), "dpexp report")
    assert cell(report.points[0], "test/accuracy") == "diverged"
    (row,) = csv.DictReader(io.StringIO(points_csv(report)))
    assert (row["test/accuracy mean"], row["test/accuracy sd"], row["diverged"]) == ("", "", "2")
    assert "10.00" not in as_readme(report, [])


def test_the_word_diverged_stands_where_a_run_did(report):
    assert "diverged" not in as_readme(report, [])


def test_an_epsilon_that_was_spent_is_rounded_up(make_run, make_grid):
    spent = {"keys": {"eps": None, "noise_multiplier": 1.0}, "privacy_epsilon": 4.2511}
    lone = report_of(found_of([make_run(**spent, test_accuracy=0.6)]), "dpexp report")
    assert "| 4.252 | 1 | 60.00 |" in as_readme(lone, [])
    assert "4.252" in points_csv(lone).splitlines()[1].split(",")
    cells = {norm: {"val_accuracy": 0.6, "test_accuracy": 0.6} for norm in (1.0, 10.0)}
    runs = make_grid(cells, **spent) + make_grid(cells, sigma=0.5, keys={"eps": 8.0})
    text = as_readme(report_of(found_of(runs), "dpexp report"), [])
    assert "| R | epsilon 4.252 | epsilon 8 |" in text
    assert "Epsilon 4.252, sigma 0.83" in text


def test_the_csv_holds_both_parts_of_ece(make_run):
    runs = [make_run(test_overconfidence=0.03, test_underconfidence=0.01)]
    (row,) = csv.DictReader(io.StringIO(points_csv(report_of(found_of(runs), "dpexp report"))))
    assert (row["test/overconfidence mean"], row["test/underconfidence mean"]) == ("0.03", "0.01")
    assert "under-confidence" not in as_readme(report_of(found_of(runs), "dpexp report"), [])


def test_what_intervals_leave_out_is_said(report):
    text = claims_markdown(report.rows)
    assert "of A13 the mean rise (nats), while the smallest decides" in text
    assert "the best of several on validation, from the same trained networks." in text


def test_the_readme_holds_answer_claims_grids_and_remarks(report):
    text = as_readme(report, [])
    for sentence in report.answer.sentences:
        assert sentence in text
    assert "| R | epsilon 2 | epsilon 8 |" in text
    assert "| 100 | 60.00 +- 0.32 / 5.00 +- 0.32 | 60.00 +- 0.32 / 5.00 +- 0.32 |" in text
    assert "Epsilon 8, sigma 0.5, 1,800 steps:" in text
    assert "| - | cifar10 | none | - | 1 | none | 1 | 70.00 |" in text
    assert "* a note." in text
    assert "Left out: 1 unfinished or unreadable run." in text
    assert "Runs were made at commit 000000000000." in text


def test_the_readme_says_how_short_a_search_chose_the_learning_rate(make_grid):
    cells = {norm: {"val_accuracy": 0.6, "test_accuracy": 0.6} for norm in (1.0, 10.0)}
    search = make_grid(cells, seeds=1, steps=450, keys={"epochs": 2.5})
    text = as_readme(report_of(found_of(make_grid(cells) + search), "dpexp report"), [])
    assert "that validation chose in a search of 450 steps on 1 seed; mean +- s.d." in text
    text = as_readme(report_of(found_of(make_grid(cells)), "dpexp report"), [])
    assert "Each R at the one lr that was run; mean" in text
    worse = {1.0: {"val_accuracy": 0.5, "test_accuracy": 0.5}}
    slower = make_grid(worse, keys={"optimizer.lr": 0.01})
    text = as_readme(report_of(found_of(make_grid(cells) + slower), "dpexp report"), [])
    assert "Each R at the learning rate that is best on validation; mean" in text
    unchosen = {norm: {"test_accuracy": 0.6} for norm in cells}
    text = as_readme(report_of(found_of(make_grid(unchosen)), "dpexp report"), [])
    assert "Each R at one learning rate, without a validation part to choose it on; mean" in text


def test_an_epsilon_without_a_guarantee_is_marked(make_run):
    run = make_run(test_accuracy=0.6, privacy_guarantee="none")
    assert "| 2, no guarantee | 1 |" in as_readme(report_of(found_of([run]), "dpexp report"), [])


def test_every_setting_is_a_line_of_the_csv(report):
    rows = list(csv.DictReader(io.StringIO(points_csv(report))))
    assert len(rows) == len(report.points) == 7
    row = next(r for r in rows if (r["clip_norm"], r["epsilon"]) == ("100", "2"))
    assert (row["role"], row["seeds"], row["test/ece mean"]) == ("final", "0 1 2", "0.05")
    assert float(row["test/ece sd"]) == pytest.approx(0.0032, abs=1e-4)


def test_runs_that_bear_on_no_claim_have_tables_alone(make_run):
    runs = [make_run(keys={"seed": seed}, experiment=None, test_accuracy=0.9) for seed in (0, 1)]
    report = report_of(found_of(runs), "dpexp report")
    assert (report.rows, report.title) == ((), "Runs")
    text = as_readme(report, [])
    assert "## Claims" not in text
    assert "calibrate better" not in text
    assert "| 2 | 90.00 +- 0.00 |" in text


def test_what_is_printed_says_what_was_read_and_found(report):
    lines = opening(report)
    assert lines[:2] == ["read      19 runs in 2 experiments, 7 settings", "theory    2 verdicts"]
    assert "left out  x is running at step 1 of 2" in lines
    assert lines[-1] == "note      a note"
    printed = closing(report, [])
    assert all(len(line) <= 100 for line in printed)
    assert any(
        line.startswith("A11b      reproduced: Large R gives a lower ECE") for line in printed
    )
    assert sum(line.startswith("answer") for line in printed) == 3


def test_many_left_out_are_counted():
    left = tuple(LeftOut(name=str(i), reason=f"{i} is running") for i in range(14))
    lines = opening(report_of(found_of([], None, left), "dpexp report"))
    assert len(lines) == 12
    assert lines[-1] == "left out  4 more"


def test_a_bar_in_a_cell_does_not_end_it():
    assert table(["a"], [["|g|\nb"]])[-1] == "| \\|g\\| b |"
    assert (count(1, "run"), count(2000, "run")) == ("1 run", "2,000 runs")


def test_regression_has_its_own_columns_and_no_claim(make_grid):
    cells = {norm: {"val_mse": 9.0, "test_mse": 4.0, "test_r2": 0.4} for norm in (1.0, 10.0)}
    keys = {"dataset.name": "diabetes"}
    runs = make_grid(cells, keys=keys) + make_grid(cells, keys=keys | {"eps": 8.0}, sigma=0.5)
    report = report_of(found_of(runs), "dpexp report")
    assert report.rows == ()
    assert report.answer.comparisons == ()
    text = as_readme(report, [])
    assert "| R | lr | seeds | MSE | R2 |" in text
    assert "MSE, by R and epsilon:" in text
    assert "accuracy (%)" not in text
