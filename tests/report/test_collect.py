"""Runs from folders and kept files: the round trip, what is left out, and what is said of it."""

import json
from pathlib import Path

import pytest

from dpexp.config import TrainConfig
from dpexp.errors import ConfigError, RunFolderError
from dpexp.record.folder import RunFolder
from dpexp.report.collect import collect
from dpexp.report.curve import short_curve
from dpexp.report.kept import keep, keep_theory, run_of_file, run_of_folder
from dpexp.report.runs import experiment_of
from dpexp.schema import to_dict

COMMAND = ["dpexp", "train", "experiment=convergence/digits_grid", "dataset.root=/home/me/data/x"]


def write_folder(root, *, state="done", seed=0, privacy=True, **keys):
    config = to_dict(TrainConfig()) | {"seed": seed, "output": "/home/me/outputs"} | keys
    config["dataset"]["root"] = "/home/me/data/x"
    with RunFolder.create(str(root), config, COMMAND) as folder:
        for step in range(1, 11):
            folder.log_metrics(step, {"unsafe/loss_nats": 1.0 / step, "time/step_seconds": 1.0})
        folder.write_summary({"test/accuracy": 0.9, "steps": 10})
        if privacy:
            folder.write_document("privacy.json", {"epsilon": 4.0, "steps_planned": 10})
        folder.write_document("reliability.json", {"edges": [0, 1], "count": [3]})
        folder.set_status(state, step=10, steps=10)
    return folder.path


def test_the_kept_form_reads_back_as_the_run(tmp_path):
    run = run_of_folder(write_folder(tmp_path / "outputs"))
    path = keep(run, tmp_path / "runs")
    assert path.name == f"digits_grid-{run.hash}.json"
    again = run_of_file(path)
    for part in ("name", "experiment", "state", "config", "summary", "privacy", "reliability",
                 "curve", "provenance", "hash", "steps", "recalibrations"):  # fmt: skip
        assert getattr(again, part) == getattr(run, part), part
    assert keep(again, tmp_path, path).read_text() == keep(run, tmp_path / "other").read_text()


def test_no_path_of_the_machine_is_kept(tmp_path):
    run = run_of_folder(write_folder(tmp_path / "outputs"))
    text = keep(run, tmp_path / "runs").read_text()
    assert "/home" not in text
    assert str(tmp_path) not in text
    assert run.config["dataset"]["root"] == "x"
    assert run.provenance["command"].endswith("dataset.root=x")
    assert run.experiment == "convergence/digits_grid"


def test_a_new_key_at_its_default_leaves_the_hash(tmp_path):
    path = keep(run_of_folder(write_folder(tmp_path / "outputs")), tmp_path / "runs")
    document = json.loads(path.read_text())
    del document["config"]["clipping"]["tail_norm"]
    (tmp_path / "older.json").write_text(json.dumps(document))
    assert run_of_file(tmp_path / "older.json").hash == run_of_file(path).hash
    document["config"]["clipping"]["norm"] = 3.0
    (tmp_path / "older.json").write_text(json.dumps(document))
    assert run_of_file(tmp_path / "older.json").hash != run_of_file(path).hash


def test_folders_and_kept_files_are_found_at_any_depth(tmp_path):
    outputs = tmp_path / "outputs"
    write_folder(outputs / "a" / "b", seed=0)
    kept = run_of_folder(write_folder(tmp_path / "elsewhere", seed=1))
    keep(kept, outputs / "results" / "runs")
    (outputs / "results" / "other.json").write_text("[]")
    found = collect([outputs])
    assert [run.seed for run in found.runs] == [0, 1]
    assert (found.left_out, found.notes, found.theory) == ((), (), None)
    assert found.kept_at(found.runs[0], outputs) is None
    assert found.kept_at(found.runs[1], outputs).parent.name == "runs"
    assert found.kept_at(found.runs[1], tmp_path / "new") is None


@pytest.mark.parametrize("state", ["running", "failed", "interrupted"])
def test_what_has_not_ended_is_left_out_and_said(tmp_path, state):
    path = write_folder(tmp_path, state=state)
    found = collect([tmp_path])
    assert found.runs == ()
    (entry,) = found.left_out
    assert entry.name == path.name
    assert entry.reason.startswith(
        f"{path.name} is {state} at step 10 of 10: what it measured is not final; dpexp train"
    )


def test_a_diverged_run_is_used(tmp_path):
    write_folder(tmp_path, state="diverged")
    (run,) = collect([tmp_path]).runs
    assert run.has_diverged


def test_an_evaluation_and_a_damaged_folder_are_left_out(tmp_path):
    write_folder(tmp_path / "a", privacy=False)
    damaged = write_folder(tmp_path / "b")
    (damaged / "summary.json").write_text("{")
    unknown = write_folder(tmp_path / "c")
    text = (unknown / "config.yaml").read_text()
    (unknown / "config.yaml").write_text(text + "nosuch: 1\n")
    reasons = [entry.reason for entry in collect([tmp_path]).left_out]
    assert "holds no privacy.json, so it is an evaluation or an audit and no training" in reasons[0]
    assert f"{damaged.name}/summary.json cannot be read" in reasons[1]
    assert "nosuch: no such key" in reasons[2]
    assert all("/home" not in reason and str(tmp_path) not in reason for reason in reasons)


def test_of_a_run_made_twice_the_newest_is_used_and_said(tmp_path):
    for accuracy, started in ((0.1, "2026-01-02"), (0.2, "2026-01-03"), (0.3, "2026-01-01")):
        path = write_folder(tmp_path)
        for name, key, value in (("summary", "test/accuracy", accuracy),
                                 ("provenance", "started", started)):  # fmt: skip
            document = json.loads((path / f"{name}.json").read_text())
            (path / f"{name}.json").write_text(json.dumps(document | {key: value}))
    found = collect([tmp_path])
    (run,) = found.runs
    assert run.measure("test/accuracy") == 0.2
    (note,) = found.notes
    assert "one of 3 runs of the same configuration (R 1, lr 1, seed 0)" in note
    assert note.endswith("the newest, of 2026-01-03, is used")


def test_a_folder_and_its_kept_file_are_one_run(tmp_path):
    run = run_of_folder(write_folder(tmp_path / "outputs"))
    keep(run, tmp_path / "runs")
    found = collect([tmp_path / "outputs", tmp_path / "runs"])
    assert (len(found.runs), found.notes) == (1, ())


def test_a_recalibration_joins_its_run(tmp_path):
    run = write_folder(tmp_path)
    config = to_dict(TrainConfig())
    for name in (run.name, "gone"):
        with RunFolder.create(str(tmp_path), config, ["dpexp", "eval"]) as folder:
            document = {"method": "temperature", "epsilon": "inf", "guarantee": "none"}
            folder.write_document("recalibration.json", document | {"run": {"folder": name}})
            folder.write_summary({"test/ece": 0.01, "privacy/epsilon": 1.0})
            folder.set_status("done", step=0, steps=0)
    found = collect([tmp_path])
    (only,) = found.runs
    expected = {"method": "temperature", "epsilon": "inf", "guarantee": "none"}
    assert only.recalibrations == ({**expected, "summary": {"test/ece": 0.01}},)
    assert [(e.name, e.reason) for e in found.left_out] == [
        ("gone", "recalibrated, but the run itself is not among these")
    ]
    assert run_of_file(keep(only, tmp_path / "runs")).recalibrations == only.recalibrations


def write_theory(folder, started):
    folder.mkdir(parents=True, exist_ok=True)
    provenance = {"started": started, "command": "dpexp theory output=/home/me/theory"}
    text = json.dumps({"verdicts": [], "provenance": provenance})
    (folder / "theory.json").write_text(text)
    for name in ("b.png", "a.png"):
        (folder / name).write_bytes(b"png")


def test_theory_is_read_with_the_pictures_beside_it_and_kept(tmp_path):
    write_theory(tmp_path / "theory", "2026-01-02")
    found = collect([tmp_path / "theory"])
    assert found.theory["provenance"]["started"] == "2026-01-02"
    assert [path.name for path in found.theory_figures] == ["a.png", "b.png"]
    assert found.holds_theory(tmp_path)
    assert not found.holds_theory(tmp_path / "results")
    keep_theory(found.theory, found.theory_figures, tmp_path / "results" / "theory")
    again = collect([tmp_path / "results"])
    assert again.theory["provenance"]["command"] == "dpexp theory output=theory"
    assert [path.name for path in again.theory_figures] == ["a.png", "b.png"]
    assert again.theory["verdicts"] == found.theory["verdicts"]


def test_of_two_theories_the_newest_is_used(tmp_path):
    for name, started in (("a", "2026-01-03"), ("b", "2026-01-02")):
        write_theory(tmp_path / name, started)
    found = collect([tmp_path])
    assert found.theory_path.parent.name == "a"
    assert found.notes == ("of 2 files theory.json the newest is used",)
    write_theory(tmp_path / "b", "2026-01-03")
    assert collect([tmp_path]).notes == ()


def test_a_damaged_theory_is_left_out_and_said(tmp_path):
    write_theory(tmp_path / "a", "2026-01-02")
    write_theory(tmp_path / "b", "2026-01-03")
    (tmp_path / "b" / "theory.json").write_text("{")
    found = collect([tmp_path])
    assert found.theory_path.parent.name == "a"
    (entry,) = found.left_out
    assert entry.reason.startswith("theory.json cannot be read")
    with pytest.raises(ConfigError, match="cannot be read"):
        collect([tmp_path / "b" / "theory.json"])


def test_a_place_that_is_named_twice_is_read_once(tmp_path):
    write_folder(tmp_path / "outputs", state="running")
    for again in (tmp_path / "outputs", tmp_path / "outputs" / ".."):
        assert len(collect([tmp_path, again]).left_out) == 1


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds no run: config, summary and provenance belong"):
        collect([tmp_path / "notes.json"])
    with pytest.raises(RunFolderError, match="name a run folder, or a file that dpexp report"):
        run_of_file(tmp_path / "notes.json")
    with pytest.raises(ConfigError, match="nowhere: no such folder or file; nothing to report on"):
        collect([Path("nowhere")])


def test_results_of_the_older_form_are_read():
    (run,) = collect([Path(__file__).parents[2] / "results" / "digits" / "seed_0.json"]).runs
    assert (run.name, run.data, run.seed, run.eps, run.steps) == ("seed_0", "digits", 0, 4.0, 112)
    assert (run.curve, run.experiment, run.calibration) == ((), None, None)
    assert run.measure("test/accuracy") == pytest.approx(0.969, abs=1e-3)


@pytest.mark.parametrize(
    ("command", "experiment"),
    [("dpexp train experiment=a/b seed=1", "a/b"), ("dpexp train", None), ("dpexp 'x", None)],
)
def test_the_experiment_is_that_of_the_command(command, experiment):
    assert experiment_of(command) == experiment


def test_a_short_curve_means_over_its_windows():
    rows = [{"step": i, "unsafe/loss_nats": float(i)} for i in range(1, 101)]
    rows[33] |= {"test/ece": 0.123456, "test/mce": 0.5, "val/accuracy": 0.4}
    rows[60]["unsafe/loss_nats"] = None
    kept = short_curve(rows, windows=10)
    assert [row["step"] for row in kept] == [10, 20, 30, 34, 40, 50, 60, 70, 80, 90, 100]
    assert kept[0]["unsafe/loss_nats"] == 5.5
    assert kept[3] == {"step": 34, "unsafe/loss_nats": 32.5, "test/ece": 0.12346,
                       "val/accuracy": 0.4}  # fmt: skip
    assert kept[4]["unsafe/loss_nats"] == 37.5
    assert kept[7]["unsafe/loss_nats"] == pytest.approx((65.5 * 10 - 61) / 9, rel=1e-4)
    assert short_curve([]) == []
