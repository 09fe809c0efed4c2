"""Ratios of times, on a clock whose hands we move and on the real one."""

import pytest
import torch

from dpexp.bench.clock import Pairs, clock_of, in_pairs, in_rounds

CPU = torch.device("cpu")


def steps(seconds):
    """Work that takes the planted seconds on the clock that comes with it, and the order of it."""
    order = []

    def clock(work):
        work()
        return next(seconds[order[-1]])

    return {name: lambda name=name: order.append(name) for name in seconds}, clock, order


def test_the_ratio_is_the_median_of_pairs_with_its_ends():
    planted = {"plain": iter([1.0, 2.0, 4.0]), "slow": iter([1.5, 4.0, 5.0])}
    works, clock, order = steps(planted)
    pairs = in_pairs(works["plain"], works["slow"], 3, clock)
    assert pairs.ratios == [1.25, 1.5, 2.0]
    assert pairs.ratio == 1.5
    assert order == ["plain", "slow", "slow", "plain", "plain", "slow"]
    assert pairs.base == (1.0, 2.0, 4.0)


def test_a_slow_machine_slows_both_and_moves_no_ratio():
    pairs = Pairs((1.0, 10.0, 1.0), (1.2, 12.0, 1.2))
    assert pairs.ratios == pytest.approx([1.2] * 3)


def test_a_planted_slow_step_is_seen_by_the_real_clock():
    matrix = torch.randn(160, 160)

    def multiply(times):
        for _ in range(times):
            matrix @ matrix

    with clock_of(CPU) as clock:
        multiply(20)
        pairs = in_pairs(lambda: multiply(20), lambda: multiply(60), 9, clock)
    assert 2 < pairs.ratio < 4.5


def test_one_thread_while_measured_and_as_many_as_before_afterwards():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with clock_of(CPU):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_first_round_of_many_does_not_count():
    works, clock, order = steps({"a": iter([9.0, 1.0, 2.0]), "b": iter([9.0, 3.0, 4.0])})
    assert in_rounds(works, 2, clock, 100.0) == {"a": [1.0, 2.0], "b": [3.0, 4.0]}
    assert order == ["a", "b"] * 3


@pytest.mark.parametrize(("most", "rounds"), [(5.0, 1), (10.0, 1), (25.0, 2)])
def test_no_round_is_begun_after_the_time_is_over(most, rounds):
    works, clock, order = steps({"a": iter([6.0] * 9), "b": iter([4.0] * 9)})
    found = in_rounds(works, 8, clock, most)
    assert found == {"a": [6.0] * rounds, "b": [4.0] * rounds}
    # Where the first round is the only one, it counts.
    assert len(order) == 2 * (rounds + (most > 10))
