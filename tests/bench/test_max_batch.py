"""`dpexp bench max-batch`: a straight line, and whether what it says fits does fit."""

import json
from dataclasses import asdict

import pytest

from dpexp.bench.max_batch import (
    MIB,
    Line,
    clipped_row,
    line_of,
    line_through,
    ordinary_row,
    small_batches,
    weight_bytes,
)
from dpexp.bench.subject import prepare
from dpexp.cli.main import main


def test_a_line_through_fake_measurements():
    line = line_through([(2, 120), (4, 140), (8, 180)])
    assert line.fixed == pytest.approx(100)
    assert line.slope == pytest.approx(10)
    assert line.deviation == pytest.approx(0)
    assert Line(100, 10, 0.0, 3).largest(1000) == 90
    assert Line(100, 10, 0.0, 3).largest(1009.9) == 90


def test_a_point_off_the_line_is_said():
    line = line_through([(1, 10), (2, 20), (3, 36)])
    # Least squares by hand: slope 13, through the mean (2, 22).
    assert (line.slope, line.fixed) == (pytest.approx(13), pytest.approx(-4))
    assert line.deviation == pytest.approx(2 / 20)  # 22 where 20 was measured


def test_a_model_that_alone_is_too_large_fits_no_batch():
    assert Line(fixed=2000, slope=10, deviation=0.0, num_points=2).largest(1000) == 0


def test_a_line_that_does_not_rise_says_nothing():
    assert line_through([(1, 50), (2, 50)]).largest(100) is None


@pytest.mark.parametrize(
    ("most", "batches"), [(8, (2, 4, 6, 8)), (32, (8, 16, 24, 32)), (2, (1, 2)), (1, (1, 2))]
)
def test_the_batches_measured(most, batches):
    assert small_batches(most) == batches


def test_small_batches_on_a_flatter_line_are_left_out():
    # Gradients of 1000 bytes and 10 a sample, or activations of 300 a sample: 300 n wins from 4 on.
    points = [(n, max(1000 + 10 * n, 300 * n)) for n in (2, 4, 6, 8)]
    line = line_of(points)
    assert (line.slope, line.num_points) == (pytest.approx(300), 3)
    assert line_of([(1, 100), (2, 150), (3, 400)]).num_points == 2  # the last two, if nothing else
    assert line_of([(2, 120), (4, 140), (8, 180)]).num_points == 3


@pytest.mark.parametrize("algorithm", [None, "auto", "ghost"])
def test_what_is_said_to_fit_is_what_a_step_of_that_size_holds(request_of, algorithm):
    """The slow twin: measure a step of the largest batch itself."""
    room = 12 * MIB
    # So small a model is planned otherwise at another batch, but for a rule that measures nothing.
    words = ("model=mnist_cnn", "clipping.plan=paper")

    def row(*batches):
        subject = prepare(request_of(*words, f"batch={batches[-1]}").config)
        assert weight_bytes(subject) == 26_010 * 4
        if algorithm is None:
            return ordinary_row(subject, batches, room)
        return clipped_row(subject, algorithm, "flat", batches, room)

    largest = row(10, 12, 14, 16).largest
    assert 16 < largest < 200
    _, (_, held) = row(16, largest).points
    assert held == pytest.approx(room, rel=0.04)


def test_the_file_holds_points_line_and_largest(tmp_path, capsys):
    words = ["model=digits_cnn", "algorithms=auto,instantiate", "memory_gib=0.5"]
    assert main(["bench", "max-batch", *words, f"output={tmp_path}"]) == 0
    found = json.loads((tmp_path / "max-batch-digits_cnn-8-batch8.json").read_text())
    assert [row["algorithm"] for row in found["rows"]] == ["ordinary", "auto", "instantiate"]
    for row in found["rows"]:
        line = line_of([tuple(point) for point in row["points"]])
        assert row["line"] == asdict(line)
        assert row["largest"] == line.largest(0.5 * 2**30)
    assert "through the largest of batches 2, 4, 6, 8 (points)" in capsys.readouterr().out
