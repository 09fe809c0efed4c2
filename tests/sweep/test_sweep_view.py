"""What a sweep shows while it runs: a line a point that ended, or a table of all of them."""

import io
import os
import sys
import time
from types import SimpleNamespace

import pytest
from rich.console import Console
from tiny import a_point, a_run

from dpexp.sweep import view
from dpexp.sweep.view import Lines, LiveTable, say, showing, summary_lines
from dpexp.sweep.work import Result, claimed

MEASURES = {
    "test/accuracy": 0.75,
    "val/accuracy": 0.51239,
    "privacy/epsilon": 3.25,
    "steps": 2,
    "time/total_seconds": 9.0,
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def drawn(table):
    """Title, and the cells of each line."""
    out = io.StringIO()
    Console(file=out, width=200).print(table)
    title, box = out.getvalue().split("┏")
    _, _, _, *lines, _ = box.splitlines()
    return " ".join(title.split()), [
        [cell.strip() for cell in line.strip("│┃").split("│")] for line in lines
    ]


def table_of(output, results, height=40):
    return LiveTable(output, results, height)


def test_each_point_that_ends_is_one_line_with_its_state(tmp_path, capsys):
    point = a_point(tmp_path, seed=0)
    folder = str(a_run(point, "done", summary=MEASURES))
    lines = Lines(7)
    for result in (
        Result("done", folder, None, 2.34),
        Result("diverged", folder, "not finite", 1.0),
        Result("failed", None, "ValueError: planted"),
        Result("interrupted", folder),
        Result("elsewhere", None, "left to job 7, which goes on"),
    ):
        lines.ended(point, result)
    assert capsys.readouterr().out.splitlines() == [
        "done        1 of 7  seed=0: val/accuracy 0.5124, test/accuracy 0.75, epsilon 3.25, 2.3 s",
        "diverged    2 of 7  seed=0: 1.0 s, not finite",
        "failed      3 of 7  seed=0: ValueError: planted",
        "interrupted 4 of 7  seed=0",
        "elsewhere   5 of 7  seed=0: left to job 7, which goes on",
    ]


def test_the_table_has_every_state_and_counts_them(tmp_path):
    states = ("done", "diverged", "failed", "interrupted", "elsewhere")
    points = [a_point(tmp_path, seed=seed) for seed in range(6)]
    folder = str(a_run(points[0], "done", summary=MEASURES))
    table = table_of(tmp_path, dict.fromkeys(points))
    for point, state in zip(points, states, strict=False):
        table.ended(point, Result(state, folder, None, 4.0))
    title, lines = drawn(table)
    counts = ", ".join(f"1 {state}" for state in (*states, "to do"))
    assert title == f"6 points: {counts}"
    assert lines[0] == ["0", "done", "2", "3.25", "val/accuracy 0.5124", "4"]
    assert lines[1] == ["1", "diverged", "", "-", "", "4"]
    assert [line[1] for line in lines] == [*states, "to do"]
    assert lines[5] == ["5", "to do", "", "-", "", ""]


def test_an_outcome_that_was_there_shows_the_seconds_of_its_run(tmp_path):
    point = a_point(tmp_path, seed=0)
    there = Result("done", str(a_run(point, "done", summary=MEASURES)))
    assert drawn(table_of(tmp_path, {point: there}))[1][0][-1] == "9"


def test_a_point_that_a_process_took_up_is_shown_at_its_step(tmp_path):
    points = [a_point(tmp_path, seed=seed) for seed in range(4)]
    begun, older, without = points[:3]
    with claimed(tmp_path, older.hash):
        pass
    lock = tmp_path / ".sweep" / older.hash / ".lock"
    os.utime(lock, (time.time() - 100,) * 2)
    table = table_of(tmp_path, dict.fromkeys(points))
    folder = a_run(begun, "running", steps=8)
    (folder / "metrics.jsonl").write_text(
        '{"step": 3, "privacy/epsilon": 1.5, "val/accuracy": 0.25}\n'
        '{"step": 4, "privacy/epsilon": 1.75}\n'
    )
    with claimed(tmp_path, begun.hash), claimed(tmp_path, without.hash):
        title, lines = drawn(table)
        assert title == "4 points: 2 running, 2 to do"
        assert lines[0][:-1] == ["0", "running", "4 of 8", "1.75", "val/accuracy 0.25"]
        assert 0 <= int(lines[0][-1]) < 60
        assert [line[1] for line in lines] == ["running", "to do", "running", "to do"]
        assert lines[2][2:-1] == ["", "", ""]
        (folder / "metrics.jsonl").unlink()
        a_run(without, "running", steps=None)
        lines = drawn(table)[1]
        assert lines[0][2:4] == ["0 of 8", "-"]
        assert lines[2][2] == "0 of ?"
        (folder / "status.json").write_text("{")
        assert drawn(table)[1][0][:-1] == ["0", "running", "", "", ""]


def test_what_does_not_fit_leaves_what_runs_and_what_failed(tmp_path):
    points = [a_point(tmp_path, seed=seed) for seed in range(8)]
    table = table_of(tmp_path, dict.fromkeys(points), height=9)
    states = dict(enumerate(["done", "failed", "done", "interrupted", "done", "diverged"]))
    for seed, state in states.items():
        table.ended(points[seed], Result(state, None))
    with claimed(tmp_path, points[7].hash):
        title, lines = drawn(table)
    assert title.startswith(
        "8 points: 3 done, 1 failed, 1 interrupted, 1 diverged, 1 to do, 1 running"
    )
    assert [line[:2] for line in lines] == [
        ["1", "failed"], ["3", "interrupted"], ["7", "running"],
    ]  # fmt: skip


def test_a_terminal_has_the_table_and_a_file_the_lines(tmp_path, monkeypatch, capsys):
    point = a_point(tmp_path, seed=0)
    with showing(tmp_path, {point: None}, 1) as shown:
        assert isinstance(shown, Lines)
        shown.ended(point, Result("diverged", None))
    assert capsys.readouterr().out == "diverged    1 of 1  seed=0\n"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    with showing(tmp_path, {point: None}, 1) as shown:
        assert isinstance(shown, LiveTable)
        shown.ended(point, Result("diverged", None))
    assert "1 points: 1 diverged" in terminal.getvalue()


@pytest.mark.parametrize("has_left", [False, True])
def test_a_reader_that_left_ends_nothing(monkeypatch, has_left):
    class Pipe(io.StringIO):
        def flush(self):
            if has_left:
                raise BrokenPipeError

        def fileno(self):
            return 99

    replaced = []
    fake = SimpleNamespace(
        open=lambda path, mode: path,
        devnull="nowhere",
        O_WRONLY=1,
        dup2=lambda *a: replaced.append(a),
    )
    monkeypatch.setattr(view, "os", fake)
    monkeypatch.setattr(sys, "stdout", pipe := Pipe())
    say("a line")
    assert pipe.getvalue() == "a line\n"
    assert replaced == [("nowhere", 99)] * has_left


def test_states_are_counted_in_the_order_they_come(tmp_path):
    done, failed = Result("done", None), Result("failed", None)
    assert summary_lines([done, failed, None, done, None]) == "2 done, 1 failed, 2 to do"
