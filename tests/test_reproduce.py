"""The reproduction of paper A: experiment files run, lr is chosen per R, rows hold together."""

import json
from types import SimpleNamespace

import pytest
from reference.scripts import load

from dpexp.claims import CLAIM
from dpexp.cli.compose import compose
from dpexp.config import TrainConfig
from dpexp.theory.request import TESTED


@pytest.fixture(scope="module")
def script():
    return load("reproduce")


@pytest.fixture(scope="module")
def document(script):
    return script.tomllib.loads(script.ROWS.read_text())


def rows_of(script, document):
    return [script.Row(**entry) for entry in document["row"]]


def test_every_experiment_file_takes_two_steps(script, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script.smoke(tmp_path / "smoke")
    count = len(list(script.EXPERIMENTS.glob("*.yaml")))
    assert f"PASS      {count} experiment files took two steps each" in capsys.readouterr().out


def test_every_point_of_every_row_composes(script, document, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for row in rows_of(script, document):
        chosen = {(eps, norm): "0.5" for eps in row.eps for norm in row.norms}
        for words in [*row.search()[:2], *row.final(chosen)[:2], *row.plain()[:5]]:
            assert isinstance(compose(words), TrainConfig), row.name


def test_a_search_has_the_noise_of_the_run_it_is_for(script, document, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    row = next(row for row in rows_of(script, document) if row.name == "digits_grid")
    points = row.search()
    assert len(points) == len(row.eps) * len(row.norms) * len(row.products)
    config = compose(points[-1])
    assert config.optimizer.lr * config.clipping.norm == pytest.approx(row.products[-1])
    assert config.noise_multiplier == pytest.approx(row.sigma(row.eps[-1]), rel=1e-4)
    assert config.dataset.validation > 0


def test_the_best_learning_rate_is_chosen_for_each_norm_and_epsilon(script, document):
    row = script.Row(name="x", data="digits", num_train=9, scales=[], seeds=1,
                     eps=[1, 2], norms=[1, 10, 100], products=[1, 2])  # fmt: skip
    points = [[f"optimizer.lr={lr}"] for lr in range(12)]
    accuracies = [0.1, 0.2, 0.4, 0.3, None, None, 0.5, 0.5, None, 0.1, 0.0, None]
    found = [
        SimpleNamespace(state="failed", measures={}) if value is None
        else SimpleNamespace(state="done", measures={"val/accuracy": value})
        for value in accuracies
    ]  # fmt: skip
    assert script.choose(row, points, found) == {
        (1, 1): "1", (1, 10): "2", (2, 1): "6", (2, 10): "9", (2, 100): "10",
    }  # fmt: skip


def test_expectations_name_claims(script, document):
    assert document["expected"].keys() == set(TESTED)
    for row in rows_of(script, document):
        assert row.expected.keys() <= CLAIM.keys() - set(TESTED)


@pytest.mark.parametrize(("state", "failed"), [("failed", 3), ("done", 0), ("diverged", 0)])
def test_runs_that_failed_are_counted(script, monkeypatch, tmp_path, state, failed):
    ended = SimpleNamespace(state=state, measures={"val/accuracy": 0.5})
    monkeypatch.setattr(script, "run_points", lambda points, **where: [ended] * len(points))
    plain = script.Row(name="x", data="digits", num_train=1438, scales=[], seeds=3, variants=[[]])
    assert script.reproduce(plain, tmp_path, None) == failed
    monkeypatch.setattr(script.Row, "sigma", lambda row, eps: 1.0)
    grid = script.Row(name="x", data="digits", num_train=1438, scales=[], seeds=1, eps=[1],
                      norms=[1], products=[1, 2], search_epochs=1)  # fmt: skip
    assert script.reproduce(grid, tmp_path, None) == (2 if failed else 0)


def test_an_expectation_that_is_not_met_fails(script, monkeypatch, capsys):
    rows = [SimpleNamespace(claim=SimpleNamespace(name="A1"),
                            verdict=SimpleNamespace(outcome="reproduced"))]  # fmt: skip
    monkeypatch.setattr(script, "collect", lambda paths: None)
    monkeypatch.setattr(script, "report_of", lambda found, command: SimpleNamespace(rows=rows))
    assert script.judge("theory", "x", {"A1": "reproduced"})
    assert not script.judge("theory", "x", {"A1": "not reproduced"})
    assert not script.judge("theory", "x", {"A1": "reproduced", "A2": "reproduced"})
    assert "FAIL      theory, A2: not run, expected reproduced" in capsys.readouterr().out
    assert script.judge("vit_grid", "x", {})
    assert "done      vit_grid: no outcome is expected" in capsys.readouterr().out


def test_a_row_that_wants_another_scale_is_said(script, monkeypatch, capsys):
    monkeypatch.setattr(script.sys, "argv", ["reproduce.py", "--row", "vit_grid"])
    with pytest.raises(SystemExit, match="FAIL      nothing to run at this scale"):
        script.main()
    assert "left out  vit_grid: wants SCALE=gpu, paper, and this is cpu" in capsys.readouterr().out


def test_a_temperature_is_fitted_once_to_each_run_of_a_grid(script, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    row = script.Row(name="x", experiment="convergence/digits_grid", data="digits", num_train=1438,
                     scales=[], seeds=1, eps=[4], norms=[1], products=[1], search_epochs=1,
                     words=["steps=2", "epochs=null"], recalibration_eps=0.5)  # fmt: skip
    monkeypatch.setattr(script.Row, "search", lambda row: [[*row.common, "optimizer.lr=1"]])
    for _ in range(2):
        assert script.reproduce(row, tmp_path, script.Settings("inprocess", 1)) == 0
    (fitted,) = (tmp_path / "x" / "recalibrated").iterdir()
    (run,) = (path.parent for path in (tmp_path / "x" / "final").glob("*/summary.json"))
    document = json.loads((fitted / "recalibration.json").read_text())
    assert document["run"]["folder"] == run.name
    assert 0.49 < document["fit"]["epsilon"] <= 0.5
    command = (fitted / "command.txt").read_text()
    assert "recalibration=temperature recalibration.eps=0.5" in command
