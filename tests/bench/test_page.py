"""The results page: goals beside numbers, and who meets them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from reference.scripts import load

from dpexp.cli.main import main

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "bench_page.py"


bench_page = load("bench_page")


def document(*rows, **setting):
    given = {"model": "resnet18", "image_size": 32, "batch": 32, "precision": "float32",
             "device": "cpu", "plan": "balanced", "num_params": 5, "num_trainable": 5}  # fmt: skip
    return {"part": "step", "setting": given | setting, "rows": list(rows)}


def row(time, memory, style="flat", algorithm="auto"):
    numbers = {"time_ratio": time, "time_ratio_min": 1.0, "time_ratio_max": 9.0}
    return {"algorithm": algorithm, "style": style, "counted_ratio": 1.1, "memory_ratio": memory,
            **numbers}  # fmt: skip


@pytest.mark.parametrize(
    ("time", "memory", "words"),
    [
        (1.2, 0.9, "yes"),
        (1.25, 1.0, "yes"),
        (1.251, 1.0, "not time"),
        (1.2, 1.01, "not memory"),
        (2.0, 2.0, "not time, memory"),
    ],
)
def test_goals_are_met_or_named(time, memory, words):
    cells = bench_page.cells(document(row(time, memory)), row(time, memory))
    assert (cells[8], cells[11], cells[-1]) == ("1.25", "1.00", words)
    assert cells[6] == f"{time:.3f}"


def test_layerwise_is_held_against_flat():
    flat = row(1.3, 1.0)
    for time, words in ((1.29, "yes"), (1.31, "not time")):
        other = row(time, 0.5, style="layerwise")
        assert bench_page.cells(document(flat, other), other)[-1] == words
    alone = row(1.0, 0.5, style="layerwise")
    assert bench_page.cells(document(alone), alone)[-1] == ""


@pytest.mark.parametrize(
    "setting",
    [
        {"precision": "bf16"},
        {"device": "cuda"},
        {"num_trainable": 4},
        {"batch": 8},
        {"model": "x"},
        {"plan": "time"},
    ],
    ids=str,
)
def test_a_goal_holds_only_for_what_it_was_set_for(setting):
    assert bench_page.goal_of(document(**setting), row(1.0, 1.0)) is None
    assert bench_page.goal_of(document(), row(1.0, 1.0, algorithm="ghost")) is None
    assert bench_page.goal_of(document(), row(1.0, 1.0)) == (1.25, 1.0)


def test_the_tag_of_weights_is_no_part_of_the_name():
    tagged = document(model="convnext_atto.d2_in1k", image_size=64, batch=16)
    assert bench_page.goal_of(tagged, row(1.0, 1.0)) == (1.30, 1.10)


def test_the_page_holds_what_the_command_wrote(tmp_path, capsys):
    words = ["model=digits_cnn", "batch=4", "rounds=1", "styles=flat,layerwise"]
    assert main(["bench", "step", *words, f"output={tmp_path}"]) == 0
    assert main(["bench", "plan", "model=digits_cnn", f"output={tmp_path}"]) == 0
    subprocess.run([sys.executable, SCRIPT, tmp_path], check=True, cwd=ROOT)
    text = (tmp_path / "README.md").read_text()
    found = json.loads((tmp_path / "step-digits_cnn-8-batch4.json").read_text())
    for measured in found["rows"]:
        assert f"| {measured['style']} | balanced | {measured['time_ratio']:.3f} |" in text
    assert found["provenance"]["git"]["commit"][:12] in text
    assert "`dpexp bench step model=digits_cnn batch=4 rounds=1 " in text
    assert text.count("`dpexp bench") == 1  # of the steps alone


def test_a_missed_goal_is_taken_apart_and_what_memory_would_buy_is_said():
    norms = {"multiply_adds": {"norms": 2e9, "ordinary": 2e10}}
    missed = document(row(1.3, 1.0) | norms)
    kept = document(row(1.15, 1.4) | {"counted_ratio": 1.0}, plan="time")
    lines = bench_page._reading([missed, kept])
    assert lines[-1] == (
        "* resnet18, goal 1.25: 30.0% above ordinary training, of which 10.0% is counted in "
        "multiply-adds (2.00 of 20.0 billion). With every gradient kept that saves time: 1.150, "
        "counted 1.000, at 1.40 times the memory."
    )
    assert len(bench_page._reading([document(row(1.2, 1.0) | norms)])) < len(lines)


def test_a_folder_without_results_says_what_to_run(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True)
    assert done.returncode == 1
    assert "run dpexp bench step output=" in done.stderr


def test_the_makefile_measures_every_goal():
    text = (ROOT / "Makefile").read_text()
    for name, size, batch in bench_page.GOALS:
        line, *_ = [x for x in text.splitlines() if f"model.name={name} " in x]
        assert "clipping.plan" not in line
        assert f"batch={batch} " in line
        assert "224" in name or f"model.image_size={size} " in line
        assert "styles=flat,layerwise" in text
