"""dpexp report end to end, on three tiny runs on the embedded digits."""

import json
import shutil
from pathlib import Path

import pytest

from dpexp.cli import report as command
from dpexp.cli.main import main
from dpexp.errors import ConfigError
from dpexp.report.kept import run_of_file

TINY = [
    "batch=64",
    "noise_multiplier=1.0",
    "eps=null",
    "dataset.validation=0.2",
    "wandb.mode=disabled",
]
RUNS = [(0.1, 2), (10.0, 2), (10.0, 1)]  # R, steps


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("trained") / "outputs"
    for norm, steps in RUNS:
        words = [f"clipping.norm={norm}", f"steps={steps}", "epochs=null", f"output={outputs}"]
        assert main(["train", *TINY, *words]) == 0
    return outputs


@pytest.fixture
def outputs(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "outputs")
    return tmp_path / "outputs"


def files_of(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_alone_it_reports_on_outputs_and_keeps_no_runs(outputs, capsys):
    assert main(["report"]) == 0
    said = capsys.readouterr().out
    assert "read      3 runs in 1 experiment, 3 settings" in said
    assert "written   outputs/report/README.md" in said
    written = files_of(outputs / "report")
    assert {"README.md", "points.csv", "claims.md", "claims.csv", "report.html"} <= written
    assert not any(name.startswith("runs/") for name in written)
    text = (outputs / "report" / "README.md").read_text()
    assert "Made by `dpexp report` from 3 runs" in text
    assert text.count("| 10 | 1 | 1 |") == 1


def test_what_is_kept_makes_the_same_report_again(outputs):
    assert main(["report", "outputs", "output=results/tiny"]) == 0
    results = Path("results/tiny")
    first = {name: (results / name).read_bytes() for name in files_of(results)}
    assert sum(name.startswith("runs/run-") for name in first) == 3
    assert max(len(text) for name, text in first.items() if name.startswith("runs/")) < 20_000
    shutil.rmtree(outputs)
    assert main(["report", "results/tiny"]) == 0
    again = {name: (results / name).read_bytes() for name in files_of(results)}
    assert again.keys() == first.keys()
    for name in first:
        assert again[name] == first[name], name


def test_runs_join_those_that_were_kept_before(outputs, capsys):
    folders = sorted(path for path in outputs.iterdir())
    assert main(["report", str(folders[0]), "output=results"]) == 0
    assert main(["report", str(folders[1]), "output=results"]) == 0
    assert "read      2 runs" in capsys.readouterr().out
    kept = sorted(Path("results/runs").iterdir())
    assert {run_of_file(path).clip_norm for path in kept} == {0.1, 10.0}


def test_an_unfinished_run_is_said_and_left_out(outputs, capsys):
    status = next(outputs.iterdir()) / "status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"state": "interrupted"}))
    assert main(["report"]) == 0
    said = capsys.readouterr().out
    assert "read      2 runs" in said
    assert f"left out  {status.parent.name} is interrupted at step" in said


def test_one_run_folder_is_enough(outputs):
    assert main(["report", str(next(outputs.iterdir())), "output=alone"]) == 0
    assert "| digits |" in Path("alone/README.md").read_text()
    assert not Path("alone/claims.md").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nowhere"], "error: nowhere: no such folder or file, so there are no runs to report on;"),
        (["empty"], "error: empty: no run here has ended, so there is nothing to report on; give"),
        (["empty", "out=3"], "error: out=3: no such key; did you mean output=3?"),
        (["empty", "--output", "x"], "error: --output x: keys take no dashes"),
        ([], "error: report: no folder is named and there is no outputs/ here"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, monkeypatch, capsys, words, text):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    assert main(["report", *words]) == 2
    assert capsys.readouterr().err.startswith(text)
    assert files_of(tmp_path) == set()


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ConfigError) as error:
        command.read(["nowhere", "gone", "key=3"])
    assert len(str(error.value).splitlines()) == 3


def test_where_a_report_goes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("results/runs").mkdir(parents=True)
    Path("outputs").mkdir()
    kept = command.read(["results"])
    assert (kept.output, kept.keeps_runs) == (Path("results"), True)
    assert kept.command == "dpexp report results"
    alone = command.read([])
    assert (alone.paths, alone.output) == ([Path("outputs")], Path("outputs/report"))
    assert not alone.keeps_runs
    assert command.read([f"output={tmp_path}/results"]).command == "dpexp report results"
    assert command.read(["output=/nowhere/results"]).command == "dpexp report results"
    both = command.read(["outputs", "output=results"])
    assert both.paths == [Path("outputs"), Path("results")]
    assert (both.output, both.keeps_runs, both.command) == (
        Path("results"), True, "dpexp report results"
    )  # fmt: skip
