"""`dpexp bench max-batch`: a straight line, and whether what it says fits does fit."""

import json
from dataclasses import asdict

import pytest

from dpexp.bench.max_batch import (
    MIB,
    Line,
    line_of,
    line_through,
    measure_clipped,
    measure_ordinary,
    points_of,
    row_of,
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


# Of a fake model: bytes of weights and of gradients.
SIZES = {"weights": 500, "gradients": 500}


def test_the_batch_is_doubled_until_activations_rule():
    # From 20 samples on, 45 a sample above the weights outweigh 20 a sample above the gradients.
    met = []

    def measure(count):
        met.append(count)
        return max(1000 + 20 * count, 500 + 45 * count)

    points = points_of(measure, start=4, room=1e9, **SIZES)
    assert met == [2, 4, 8, 16, 32, 8, 16, 24]
    assert [count for count, _ in points] == [8, 16, 24, 32]
    line = line_of(points)
    assert (line.slope, line.fixed) == (pytest.approx(45), pytest.approx(500))
    assert line.num_points == 2
    # Without doubling, the line of the gradients would have been carried on.
    assert line_through([(2, 1040), (4, 1080)]).slope == 20


def test_where_gradients_rule_for_ever_the_line_is_at_most_a_ninth_too_flat():
    points = points_of(lambda n: 1000 + 20 * n, start=4, room=1e9, **SIZES)
    most, held = points[-1]
    assert held >= 10 * 1000 > points[-2][1] / 2
    steepest = (held - 500) / most
    assert steepest / line_of(points).slope < 1 + 1 / 9


def test_no_more_than_the_room_is_measured():
    points = points_of(lambda n: 1000 + 20 * n, start=4, room=2400, **SIZES)
    assert points[-1] == (16, 1320)


@pytest.mark.parametrize(
    ("start", "batches"), [(8, [2, 4, 6, 8]), (32, [8, 16, 24, 32]), (2, [1, 2]), (1, [1, 2])]
)
def test_the_batches_measured(start, batches):
    points = points_of(lambda n: 500 + n, start, room=1e9, **SIZES)
    assert [count for count, _ in points] == batches


def test_what_does_not_grow_ends():
    assert len(points_of(lambda n: 7000, 1, room=1e9, **SIZES)) == 4


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
    # So small a model is planned otherwise at another batch, but for a rule that measures nothing.
    subject = prepare(request_of("model=mnist_cnn", "clipping.plan=paper", "batch=2").config)
    assert weight_bytes(subject) == 26_010 * 4
    measure = measure_ordinary(subject)
    if algorithm is not None:
        measure = measure_clipped(subject, algorithm, "flat")
    row = row_of(subject, str(algorithm), "flat", measure, room=12 * MIB)
    assert row.points[-1][0] < row.largest < 200
    assert measure(row.largest) == pytest.approx(12 * MIB, rel=0.03)


def test_the_file_holds_points_line_and_largest(tmp_path, capsys):
    words = ["model=digits_cnn", "algorithms=auto,instantiate", "memory_gib=0.5"]
    assert main(["bench", "max-batch", *words, f"output={tmp_path}"]) == 0
    found = json.loads((tmp_path / "max-batch-digits_cnn-8-batch8.json").read_text())
    assert [row["algorithm"] for row in found["rows"]] == ["ordinary", "auto", "instantiate"]
    for row in found["rows"]:
        line = line_of([tuple(point) for point in row["points"]])
        assert row["line"] == asdict(line)
        assert row["largest"] == line.largest(0.5 * 2**30)
    assert "a straight line through the points, carried on" in capsys.readouterr().out
