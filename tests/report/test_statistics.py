"""Paired statistics against scipy's own and against obvious loops."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from dpexp.report.statistics import holm, mean_interval, paired, rank_correlation


def by_seed(values):
    return dict(enumerate(values))


@pytest.fixture(params=[2, 3, 5, 9])
def samples(request):
    generator = np.random.default_rng(request.param)
    first = generator.normal(size=request.param)
    return first, first + 0.4 + generator.normal(size=request.param)


def test_the_t_test_is_that_of_scipy(samples):
    first, second = samples
    found = paired(by_seed(first), by_seed(second))
    expected = stats.ttest_rel(second, first)
    assert found.p_t == pytest.approx(expected.pvalue, rel=1e-9)
    low, high = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)
    assert found.difference == pytest.approx(np.mean(second - first), rel=1e-12)
    assert (found.first, found.second) == pytest.approx((first.mean(), second.mean()))
    assert found.effect == pytest.approx(expected.statistic / math.sqrt(len(first)), rel=1e-9)


def test_sign_flips_are_all_counted(samples):
    first, second = samples
    differences = second - first
    means = [
        np.mean(differences * signs)
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    as_extreme = np.abs(means) >= abs(differences.mean()) - 1e-12
    found = paired(by_seed(first), by_seed(second))
    assert found.p_exact == pytest.approx(as_extreme.mean(), rel=1e-12)
    assert found.smallest_p == 2 / 2 ** len(differences) <= found.p_exact


def test_many_seeds_are_flipped_at_random():
    generator = np.random.default_rng(0)
    first = generator.normal(size=20)
    second = first + 0.3 + 0.6 * generator.normal(size=20)
    found = paired(by_seed(first), by_seed(second))
    assert found.p_exact == pytest.approx(found.p_t, abs=0.02)


def test_only_seeds_of_both_are_paired():
    found = paired({0: 1.0, 1: 2.0, 2: 30.0}, {3: 9.0, 1: 2.5, 0: 1.25})
    assert (found.num_seeds, found.difference) == (2, 0.375)
    assert paired({0: 1.0, 1: 2.0}, {1: 2.0, 2: 3.0}) is None


@pytest.mark.parametrize(
    ("difference", "p", "effect"), [(0.0, 1.0, 0.0), (-0.1, 0.25, -math.inf), (0.1, 0.25, math.inf)]
)
def test_equal_differences_have_a_point_for_an_interval(difference, p, effect):
    found = paired(by_seed([1.0, 2.0, 3.0]), by_seed([x + difference for x in (1.0, 2.0, 3.0)]))
    assert found.low == found.high == pytest.approx(difference)
    assert (found.p_t, found.effect) == (p, effect)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(1)
    covered, wrong = 0, 0
    for _ in range(1500):
        first = generator.normal(size=4)
        found = paired(by_seed(first), by_seed(first + 0.5 + generator.normal(size=4)))
        covered += found.low <= 0.5 <= found.high
        wrong += found.low <= 1.8 <= found.high
    # 3.4 standard deviations either side of 95 %; a false value is covered far less often.
    assert 0.931 < covered / 1500 < 0.969
    assert wrong / 1500 < 0.8


def test_lower_and_higher_need_an_interval_without_zero():
    clear = paired(by_seed([1.0, 1.1, 0.9]), by_seed([0.5, 0.61, 0.41]))
    assert clear.is_lower
    assert not clear.is_higher
    unclear = paired(by_seed([1.0, 1.1, 0.9]), by_seed([0.5, 1.3, 0.8]))
    assert not unclear.is_lower
    assert not unclear.is_higher


def test_a_mean_has_its_interval():
    values = [0.1, 0.4, 0.3]
    expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected)
    assert mean_interval([0.1]) is None
    assert mean_interval([0.1, 0.1]) == (0.1, 0.1)


def test_holm_is_its_definition():
    p_values = [0.01, 0.04, 0.03, 0.005, 0.5]
    # Holm rejects at level a while the k-th smallest is at most a / (m - k + 1).
    for level in (0.01, 0.02, 0.025, 0.04, 0.09, 0.2, 0.6):
        rejected = set()
        for k, i in enumerate(sorted(range(5), key=p_values.__getitem__)):
            if p_values[i] > level / (5 - k):
                break
            rejected.add(i)
        assert {i for i, p in enumerate(holm(p_values)) if p <= level} == rejected
    assert holm([]) == []
    assert holm([0.9, 0.9]) == [1.0, 1.0]


def test_equal_differences_show_no_direction():
    found = paired({0: 0.2, 1: 0.3}, {0: 0.15, 1: 0.25})
    assert found.is_constant
    assert not found.is_lower
    assert not found.is_higher


def test_rank_correlation_is_that_of_scipy():
    generator = np.random.default_rng(3)
    pairs = [(float(x), float(generator.normal() - 0.4 * x)) for x in [0, 1, 2, 3, 3, 1] * 3]
    found = rank_correlation([pairs])
    expected = stats.spearmanr(*zip(*pairs, strict=True))
    assert found.rho == pytest.approx(expected.statistic, rel=1e-9)
    assert found.p == pytest.approx(expected.pvalue, abs=0.01)
    assert found.num_runs == 18


def test_rank_correlation_permutes_within_blocks_alone():
    # Within each seed y has the one order that x has; all of the rest is the seeds' own.
    blocks = [[(x, x + 100.0 * seed) for x in (0.0, 1.0, 2.0)] for seed in range(2)]
    found = rank_correlation(blocks)
    orders = list(itertools.permutations(range(3)))
    rhos = [
        stats.spearmanr(
            [x for block in blocks for x, _ in block],
            [blocks[b][i][1] for b, order in enumerate(pair) for i in order],
        ).statistic
        for pair in itertools.product(orders, orders)
    ]
    exact = np.mean(np.abs(rhos) >= abs(found.rho) - 1e-12)
    assert found.p == pytest.approx(exact, abs=0.012)


@pytest.mark.parametrize(
    "pairs", [[(0.0, 1.0), (1.0, 2.0)], [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0)], []]
)
def test_rank_correlation_needs_three_norms_and_a_spread(pairs):
    assert rank_correlation([pairs]) is None
