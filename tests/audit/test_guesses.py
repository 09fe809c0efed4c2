"""Guesses in one run, against sums written out, randomized response and a simulation."""

import math

import numpy as np
import pytest

from dpexp.audit.guesses import Guesses, chance_of, epsilon_of_guesses, guess


def binomial(r, k, p):
    return math.comb(r, k) * p**k * (1 - p) ** (r - k)


def chance_written_out(m, r, v, epsilon, delta):
    """Theorem 5.2 of Steinke et al., with every sum written out."""
    p = math.exp(epsilon) / (1 + math.exp(epsilon))
    above = math.fsum(binomial(r, k, p) for k in range(v, r + 1))
    slack = max(
        math.fsum(binomial(r, k, p) for k in range(max(0, v - i), v)) / i for i in range(1, m + 1)
    )
    return min(1.0, above + 2 * m * delta * slack)


@pytest.mark.parametrize("epsilon", [0.0, 0.7, 3.0])
@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-2])
@pytest.mark.parametrize(("m", "r", "v"), [(20, 20, 0), (20, 20, 13), (50, 10, 10), (40, 30, 29)])
def test_the_chance_is_the_theorem_written_out(m, r, v, epsilon, delta):
    found = chance_of(Guesses(m, r, v), epsilon, delta)
    assert found == pytest.approx(chance_written_out(m, r, v, epsilon, delta), rel=1e-9)


@pytest.mark.parametrize("delta", [0.0, 1e-5])
def test_epsilon_is_where_the_chance_is_the_error(delta):
    guesses = Guesses(1000, 100, 92)
    epsilon = epsilon_of_guesses(guesses, delta, 0.05)
    assert chance_of(guesses, epsilon, delta) < 0.05 <= chance_of(guesses, epsilon + 2e-4, delta)


def test_all_right_without_delta_is_solved_by_hand():
    # (e^eps / (1 + e^eps))^r = error.
    epsilon = epsilon_of_guesses(Guesses(100, 100, 100), 0.0, 0.05)
    accuracy = 0.05 ** (1 / 100)
    assert epsilon == pytest.approx(math.log(accuracy / (1 - accuracy)), abs=1e-4)


@pytest.mark.parametrize("right", [0, 50, 55])
def test_guesses_that_could_be_luck_prove_nothing(right):
    assert epsilon_of_guesses(Guesses(100, 100, right), 1e-5, 0.05) == 0


def test_more_right_guesses_and_less_delta_prove_more():
    proven = [epsilon_of_guesses(Guesses(1000, 200, v), 1e-5, 0.05) for v in (120, 160, 190, 200)]
    assert proven == sorted(proven)
    assert proven[0] > 0
    by_delta = [epsilon_of_guesses(Guesses(1000, 200, 190), d, 0.05) for d in (1e-2, 1e-5, 0.0)]
    assert by_delta == sorted(by_delta)


def test_the_highest_are_guessed_in_and_the_lowest_out():
    scores = np.array([5.0, -5.0, 0.1, 4.0, -4.0, 0.0])
    is_in = np.array([True, False, False, False, True, True])
    assert guess(scores, is_in, 2) == Guesses(6, 2, 2)
    assert guess(scores, is_in, 4) == Guesses(6, 4, 2)
    assert guess(scores, is_in, 1) == Guesses(6, 1, 1)  # an odd one guesses in


def test_randomized_response_is_rarely_and_half_its_noise_often_above_its_epsilon():
    # Each coin is told truly with chance e^eps / (1 + e^eps): the mechanism that is worst.
    rng = np.random.default_rng(0)

    def share_above(truth, claimed):
        above = 0
        for _ in range(300):
            is_in = rng.random(200) < 0.5
            told = np.where(rng.random(200) < 1 / (1 + math.exp(-truth)), is_in, ~is_in)
            found = guess(told.astype(float), is_in, 200)
            above += epsilon_of_guesses(found, 0.0, 0.05) > claimed
        return above / 300

    assert share_above(truth=1.0, claimed=1.0) <= 0.09
    assert share_above(truth=2.0, claimed=1.0) > 0.9
