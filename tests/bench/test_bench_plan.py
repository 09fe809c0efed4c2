"""`dpexp bench plan`: what the engine says of its plan, and sums of it."""

import json

import pytest

from dpexp.bench.plan import describe, total
from dpexp.bench.subject import prepare
from dpexp.cli.main import main
from dpexp.clipping.plan import KEPT

COSTS = {
    "norms": {"ghost": 3e-3, "instantiate": 1e-3},
    "sums": {"backward": 2e-3, "offsets": 1e-3},
    "kept": {"instantiate": 1.5e-3},
}


def row(**changes):
    sizes = {"positions": 100, "inputs": 300, "outputs": 200, "numbers_held": 70}
    ways = {"use": "a.weight, a.bias in conv2d", "problem": "a", "norm": "ghost", "sum": "backward"}
    return {**sizes, **ways, "operations": 1, "seconds": COSTS, **changes}


@pytest.mark.parametrize(
    ("changes", "seconds", "basis"),
    [
        ({}, 5e-3, "measured"),
        ({"sum": "offsets"}, 4e-3, "measured"),
        ({"norm": "instantiate", "sum": KEPT}, 1.5e-3, "measured"),
        ({"positions": 1, "inputs": 3}, 5e-3, "counted"),  # too small for a clock
        ({"seconds": None}, None, "rule"),
        ({"norm": "syrk"}, None, "measured"),  # a plan of before, whose way was not measured now
    ],
)
def test_what_a_use_costs_is_its_norm_and_its_sum(changes, seconds, basis):
    found = describe(row(**changes), batch=8)
    assert found["chosen_seconds"] == (seconds and pytest.approx(seconds))
    assert found["basis"] == basis


def test_the_total_is_the_sum_over_uses():
    rows = [row(), row(norm="instantiate", sum=KEPT, numbers_held=30), row(seconds=None)]
    found = total([describe(each, 8) for each in rows])
    assert found == {
        "numbers_held": 170, "chosen_seconds": pytest.approx(6.5e-3), "num_kept": 1,
        "num_measured": 2, "num_uses": 3,
    }  # fmt: skip


def test_every_use_is_in_the_table_and_in_the_file(tmp_path, capsys):
    words = ["model=mnist_cnn", "batch=32", f"output={tmp_path}"]
    assert main(["bench", "plan", *words]) == 0
    out = capsys.readouterr().out
    found = json.loads((tmp_path / "plan-mnist_cnn-28-batch32.json").read_text())
    assert [row["use"].split(".")[0] for row in found["rows"]] == ["head", "fc", "conv2", "conv1"]
    conv1 = found["rows"][-1]
    assert (conv1["positions"], conv1["inputs"], conv1["outputs"]) == (196, 64, 16)
    assert conv1["basis"] == "measured"
    assert set(conv1["seconds"]) == {"norms", "sums", "kept"}
    assert found["numbers_held"] == sum(row["numbers_held"] for row in found["rows"])
    for row in found["rows"]:
        assert f"  {row['problem']}: " in out
    assert out.count(">") >= len(found["rows"])  # the way chosen is marked


def test_the_papers_rule_is_not_measured_and_two_passes_hold_nothing(capsys):
    assert main(["bench", "plan", "model=digits_cnn", "clipping.algorithm=mixed_ghost"]) == 0
    out = capsys.readouterr().out
    assert "by the rule of the algorithm" in out
    assert out.count("second pass") == 2


def test_another_plan_may_be_asked_for(capsys):
    assert main(["bench", "plan", "model=digits_cnn", "clipping.plan=paper"]) == 0
    assert "auto flat, plan paper" in capsys.readouterr().out


def test_the_full_plan_is_the_plan_that_a_run_keeps_with_its_costs_added(request_of):
    subject = prepare(request_of("model=mnist_cnn", "batch=32").config)
    with subject.clipped_step("auto", "flat") as (step, engine):
        step()
        short, full = engine.plan_rows(), engine.plan_rows(is_full=True)
    for kept, each in zip(short, full, strict=True):
        assert kept == {key: each[key] for key in kept}
        assert set(each) - set(kept) == {"operations", "seconds"}
        size = each["inputs"] * each["outputs"]
        if each["norm"].startswith("instantiate"):
            assert each["operations"] == each["positions"] * size
        costs = each["seconds"]
        assert costs["kept" if each["sum"] == KEPT else "norms"][each["norm"]] > 0
