"""Which runs there are: every state, the one of several that counts, and by which hashes."""

import pytest
from tiny import a_point, a_run

from dpexp.record.folder import RunFolder
from dpexp.record.lock import FolderLock
from dpexp.schema import to_dict
from dpexp.sweep.existing import Runs, found_in, hashes_of, is_held


@pytest.mark.parametrize(
    ("written", "state", "when_held"),
    [
        ("done", "done", "done"),
        ("diverged", "diverged", "diverged"),
        ("failed", "failed", "elsewhere"),
        ("interrupted", "stopped", "elsewhere"),
        ("running", "stopped", "elsewhere"),
    ],
)
def test_a_state_is_what_was_written_and_whether_somebody_has_it(
    tmp_path, written, state, when_held
):
    path = a_run(a_point(tmp_path), written, step=1, steps=7, has_checkpoint=True)
    found = found_in(path)
    assert (found.state, found.step, found.steps) == (state, 1, 7)
    assert found.has_checkpoint
    assert (found.error is None) == (written not in ("failed", "diverged"))
    lock = FolderLock(path)
    assert found_in(path).state == when_held
    lock.release()
    assert found_in(path).state == state


def test_what_is_no_run_is_not_found(tmp_path):
    evaluation = a_run(a_point(tmp_path), "done")
    (evaluation / "privacy.json").unlink()
    assert found_in(evaluation) is None
    damaged = a_run(a_point(tmp_path), "done")
    (damaged / "status.json").write_text("{}")
    assert found_in(damaged) is None
    assert Runs(tmp_path).of(a_point(tmp_path).hash) is None
    assert Runs(tmp_path / "nowhere").of("12345678") is None


def test_of_several_runs_the_one_furthest_on_counts_and_of_equals_the_oldest(tmp_path):
    point = a_point(tmp_path)
    runs, made = Runs(tmp_path), {}
    for state in ("failed", "interrupted"):
        made[state] = a_run(point, state)
        a_run(point, state)
        assert runs.of(point.hash).path == made[state]
    lock = FolderLock(held := a_run(point, "running"))
    assert runs.of(point.hash).path == held
    for state in ("diverged", "done"):
        made[state] = a_run(point, state)
        assert runs.of(point.hash).path == made[state]
    lock.release()
    assert runs.of(a_point(tmp_path, seed=1).hash) is None


def test_a_folder_counts_once_its_run_has_begun_and_its_state_is_read_each_time(tmp_path):
    point, runs = a_point(tmp_path), Runs(tmp_path)
    path = a_run(point, "interrupted")
    status = (path / "status.json").read_text()
    (path / "status.json").unlink()
    assert runs.of(point.hash) is None
    (path / "status.json").write_text(status)
    assert runs.of(point.hash).state == "stopped"
    (path / "status.json").write_text(status.replace("interrupted", "diverged"))
    assert runs.of(point.hash).state == "diverged"


def test_a_mean_that_the_model_brought_is_left_out_and_one_that_was_asked_for_is_not(tmp_path):
    plain = a_point(tmp_path)
    mean, both = ({"dataset.mean": [0.4]}, {"dataset.mean": [0.4], "dataset.std": [0.5]})
    asked = a_point(tmp_path, both)

    def made_by(point):  # what a run leaves holds both, whoever brought them
        command = ["dpexp", "train", *point.words]
        with RunFolder.create(tmp_path, to_dict(asked.config), command) as folder:
            return set(hashes_of(folder.path))

    assert made_by(asked) == {asked.hash}
    std = a_point(tmp_path, {"dataset.std": [0.5]})
    assert made_by(std) == {asked.hash, std.hash}
    assert made_by(plain) == {plain.hash, std.hash, a_point(tmp_path, mean).hash, asked.hash}


def test_two_who_look_at_a_lock_hinder_nobody(tmp_path):
    assert not is_held(tmp_path)
    FolderLock(tmp_path).release()
    assert not is_held(tmp_path)
    lock = FolderLock(tmp_path)
    assert is_held(tmp_path)
    lock.release()
    assert not is_held(tmp_path)
