"""What a search costs in epsilon: which mechanism is priced, and when none can be."""

import math

import pytest
from tiny import a_point

from dpexp.errors import ConfigError
from dpexp.sweep import price
from dpexp.sweep.price import search_price
from dpexp.train import deal

N = 1438 - 100  # digits less what TINY holds out


@pytest.fixture
def asked(monkeypatch):
    """What the accountant was asked for, in its place."""
    calls = []
    # Of a run itself: seconds a point, and nothing of them is priced.
    monkeypatch.setattr(deal, "epsilon_bounds", lambda *given, **more: None)
    monkeypatch.setattr(deal, "spent_table", lambda *given, **more: None)
    monkeypatch.setattr(price, "price_of_search", lambda *given: calls.append(given) or "the price")
    return calls


def test_points_of_one_mechanism_are_priced_as_it_as_many_times(tmp_path, asked):
    points = [a_point(tmp_path, {"optimizer.lr": lr, "clipping.norm": 1 / lr}) for lr in (1, 2, 4)]
    assert search_price(points) == ("the price", "")
    assert asked == [(1.0, 64 / N, 2, 3, 1e-5)]


def test_points_of_several_are_priced_as_the_worst_in_each_number(tmp_path, asked):
    points = [
        a_point(tmp_path, noise_multiplier=2.0, batch=128),
        a_point(tmp_path, noise_multiplier=1.5, steps=5),
        a_point(tmp_path, noise_multiplier=3.0, delta=1e-6),
        a_point(tmp_path, noise_multiplier=2.5),
    ]
    found, note = search_price(points)
    assert (found, note) == ("the price", "priced as the worst of them in sigma, q, K and delta")
    assert asked == [(1.5, 128 / N, 5, 4, 1e-6)]


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"noise_multiplier": 0.0}, "a point without noise bounds nothing, and so does a choice"),
        ({"noise_multiplier": None, "eps": math.inf}, "a point without noise bounds nothing"),
        ({"dp": False}, "a point without noise bounds nothing"),
        ({"protocol": "published"}, "protocol=published carries no guarantee"),
        ({"sampling": "balls_and_bins"}, "the bounds on a search are for sampling=poisson"),
        ({"dataset.name": "imagefolder"}, "give dataset.num_train to know it now"),
    ],
)
def test_one_point_that_cannot_be_priced_leaves_all_without_a_price(tmp_path, asked, keys, text):
    found, why = search_price([a_point(tmp_path), a_point(tmp_path, keys)])
    assert found is None
    assert text in why
    assert asked == []


def test_a_data_set_of_its_own_is_priced_by_the_size_given(tmp_path, asked):
    keys = {"dataset.name": "imagefolder", "dataset.num_train": 2100}
    assert search_price([a_point(tmp_path, keys)])[0] == "the price"
    assert asked == [(1.0, 64 / 2000, 2, 1, 1e-5)]


def test_what_no_noise_can_meet_is_told_of_every_such_point(tmp_path, asked):
    points = [a_point(tmp_path, batch=batch) for batch in (64, 2000, 3000)]
    with pytest.raises(ConfigError) as caught:
        search_price(points)
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["batch=2000", "batch=3000"]
    assert f"larger than the training set of N = {N}" in lines[0]
    assert asked == []
