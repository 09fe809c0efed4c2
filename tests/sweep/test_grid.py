"""Words with several values become points: order, protection, lists in step, problems."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpexp.errors import ConfigError
from dpexp.sweep.grid import read_grid, split_values, varying

NUMBERS = st.lists(st.integers(1, 99).map(str), min_size=1, max_size=4, unique=True)


def expand(words):
    return [list(place.words) for place in read_grid(words).places()]


@given(st.dictionaries(st.sampled_from(["seed", "batch", "steps"]), NUMBERS, min_size=1))
def test_points_are_the_product_with_the_last_axis_fastest(lists):
    points = expand([f"{key}={','.join(values)}" for key, values in lists.items()])
    expected = [
        [f"{key}={value}" for key, value in zip(lists, row, strict=True)]
        for row in itertools.product(*lists.values())
    ]
    assert points == expected


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2", ["1", "2"]),
        ("[0.9,0.99]", ["[0.9,0.99]"]),
        ("[0,1],[1,0]", ["[0,1]", "[1,0]"]),
        ("'a,b',c", ["'a,b'", "c"]),
        ('"x,[y",z', ['"x,[y"', "z"]),
        ("", [""]),
    ],
)
def test_brackets_and_quotes_protect_commas(text, values):
    assert split_values(text) == values


def test_a_zip_walks_its_lists_in_step():
    points = expand(
        ["clipping.norm=1,2", "seed=0,1", "optimizer.lr=4,8", "zip=clipping.norm,optimizer.lr"]
    )
    assert points == [
        ["clipping.norm=1", "seed=0", "optimizer.lr=4"],
        ["clipping.norm=1", "seed=1", "optimizer.lr=4"],
        ["clipping.norm=2", "seed=0", "optimizer.lr=8"],
        ["clipping.norm=2", "seed=1", "optimizer.lr=8"],
    ]


def test_a_learning_rate_may_be_given_as_its_product_with_the_norm():
    points = expand(["clipping.norm=0.1,10", "lr_times_norm=0.3,2"])
    assert points == [
        ["clipping.norm=0.1", "optimizer.lr=3"],
        ["clipping.norm=0.1", "optimizer.lr=20"],
        ["clipping.norm=10", "optimizer.lr=0.03"],
        ["clipping.norm=10", "optimizer.lr=0.2"],
    ]


def test_points_that_are_no_product_are_labelled_by_what_differs():
    places = varying([["seed=0", "eps=1", "batch=8"], ["seed=1", "eps=1"]])
    assert [dict(place.labels) for place in places] == [
        {"seed": "0", "batch": "8"},
        {"seed": "1", "batch": ""},
    ]


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (["seed=0,"], ["seed=0,: nothing stands before or after a comma"]),
        (["seed=1,1"], ["seed=1,1: 1 is there twice, and would be the same run twice"]),
        (["seed=0,1", "seed=2,3"], ["seed is given 2 times", "seed is given 2 times"]),
        (
            ["seed=0,1", "eps=1,2,3", "zip=seed,eps"],
            ["the lists must be equally long, but seed has 2, eps has 3 values"],
        ),
        (["seed=0,1", "zip=seed,eps"], ["eps has not several values here"]),
        (["seed=0,1", "zip=seed"], ["one list has nothing to go with"]),
        (["lr_times_norm=1"], ["is that over clipping.norm, which is not among the words"]),
        (["lr_times_norm=1", "clipping.norm=1", "optimizer.lr=2"], ["give one of the two"]),
        (["lr_times_norm=x", "clipping.norm=0"], ["lr_times_norm=x: ", "clipping.norm=0: "]),
        (["seed=1,1", "eps=2,"], ["seed=1,1", "eps=2,"]),
    ],
)
def test_what_makes_no_grid_is_said_at_once(words, texts):
    with pytest.raises(ConfigError) as caught:
        read_grid(words)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(texts)
    for line, text in zip(lines, texts, strict=True):
        assert text in line
