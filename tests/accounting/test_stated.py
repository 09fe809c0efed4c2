"""A printed epsilon is a bound still: never below the number that it stands for."""

import math

import numpy as np
import pytest

from dpexp.accounting.stated import stated


@pytest.mark.parametrize(
    ("epsilon", "words"),
    [
        (2.0, "2"),
        (1.9987840551298541, "1.999"),
        (1.9981, "1.999"),
        (7.99701, "7.998"),
        (0.0123441, "0.01235"),
        (1234.2, "1235"),
        (0.0, "0"),
        (math.inf, "inf"),
    ],
)
def test_four_digits_rounded_up(epsilon, words):
    assert stated(epsilon) == words


def test_never_below_and_close():
    for epsilon in 10 ** np.random.default_rng(0).uniform(-6, 4, 2000):
        written = float(stated(epsilon))
        assert epsilon <= written <= epsilon * 1.001
