"""Truncated Poisson and balls-and-bins draws: statistics, each with a wrong sampler that fails it.

Statistical tests return a p-value; a right sampler keeps it above P_KEEP and a wrong one pushes it
below P_REJECT. Seeds are fixed, so the outcome is too.
"""

from typing import get_args

import numpy as np
import pytest
from scipy import stats

from dpexp import sampling
from dpexp.accounting import samplers
from dpexp.config import Sampling
from dpexp.errors import ConfigError, EngineError
from dpexp.mechanism import SAMPLERS, Mechanism, Sampler, whole_batches

N, Q, LIMIT, STEPS = 500, 0.1, 53, 2000
NUM_BATCHES, EPOCHS = 10, 200
P_KEEP, P_REJECT = 1e-2, 1e-6


def mechanism(sampler="poisson", sampling_rate=Q, **fields):
    if sampler == "truncated_poisson":
        fields = {"batch_limit": LIMIT, "num_train": N, **fields}
    return Mechanism(
        noise_multiplier=1.0,
        clip_norm=1.0,
        sampling_rate=sampling_rate,
        num_steps=30,
        expected_batch_size=50.0,
        sampler=sampler,
        **fields,
    )


def two_sided(distribution, statistic):
    return 2 * min(distribution.cdf(statistic), distribution.sf(statistic))


# Truncated Poisson: a table says whether a step includes a sample.


def membership(batch_of_step):
    table = np.zeros((STEPS, N), dtype=bool)
    for step in range(STEPS):
        table[step, batch_of_step(step)] = True
    return table


SIZES = np.arange(N + 1)
SIZE_CHANCES = stats.binom.pmf(SIZES, N, Q)
SIZE_CHANCES[LIMIT] += SIZE_CHANCES[LIMIT + 1 :].sum()
SIZE_CHANCES[LIMIT + 1 :] = 0
RATE = (SIZES * SIZE_CHANCES).sum() / N
PAIR_RATE = (SIZES * (SIZES - 1) * SIZE_CHANCES).sum() / (N * (N - 1))


def p_sizes(table):
    """Chi-square test that sizes are those of Bin(N, Q), the larger ones cut to LIMIT."""
    edges = [0, 40, 44, 47, 50, LIMIT - 1, LIMIT, LIMIT + 1, N + 1]
    counts = np.histogram(table.sum(1), edges)[0]
    chances = np.add.reduceat(SIZE_CHANCES, edges[:-1])
    if counts[-1]:
        return 0.0  # above the limit
    return stats.chisquare(counts[:-1], STEPS * chances[:-1]).pvalue


def p_samples_alike(table):
    """Two-sided chi-square test that samples are kept with equal chance."""
    counts = table.sum(0)
    return two_sided(
        stats.chi2(N), ((counts - STEPS * RATE) ** 2).sum() / (STEPS * RATE * (1 - RATE))
    )


def p_pairs(table):
    """Two-sided test that two samples are kept together as two random ones would."""
    both = table[:, 0::2] & table[:, 1::2]
    return stats.binomtest(int(both.sum()), both.size, PAIR_RATE).pvalue


def p_steps_independent(table):
    """Two-sided test that being kept in a step says nothing about the next step."""
    both = int((table[:-1] & table[1:]).sum())
    return stats.binomtest(both, table[1:].size, RATE * RATE).pvalue


TRUNCATED_TESTS = [p_sizes, p_samples_alike, p_pairs, p_steps_independent]


def truncated(step, limit=LIMIT, **words):
    return sampling.truncated_batch(N, Q, limit, seed=3, step=step, **words)


def keeps_the_first(step):
    return sampling.poisson_batch(N, Q, seed=3, step=step)[:LIMIT]


def drops_the_whole_draw(step):
    drawn = sampling.poisson_batch(N, Q, seed=3, step=step)
    return drawn if len(drawn) <= LIMIT else drawn[:0]


def keeps_couples(step):
    couples = sampling.truncated_batch(N // 2, Q, LIMIT // 2, seed=3, step=step)
    return np.concatenate([2 * couples, 2 * couples + 1])


@pytest.mark.parametrize("p_value", TRUNCATED_TESTS)
def test_truncated_draws_pass_every_statistic(p_value):
    assert p_value(membership(truncated)) > P_KEEP


@pytest.mark.parametrize("p_value", TRUNCATED_TESTS)
def test_secure_truncated_draws_pass_every_statistic(p_value):
    # Not seeded: fails by chance once in 10^6 runs per statistic.
    assert p_value(membership(lambda step: truncated(step, secure=True))) > P_REJECT


@pytest.mark.parametrize(
    ("batch_of_step", "p_value"),
    [
        (keeps_the_first, p_samples_alike),
        (lambda step: truncated(step, LIMIT + 1), p_sizes),
        (lambda step: truncated(step, LIMIT - 1), p_sizes),
        (lambda step: sampling.poisson_batch(N, Q, seed=3, step=step), p_sizes),
        (drops_the_whole_draw, p_sizes),
        (keeps_couples, p_pairs),
        (lambda step: truncated(step // 2), p_steps_independent),
    ],
)
def test_wrong_truncated_samplers_are_rejected(batch_of_step, p_value):
    assert p_value(membership(batch_of_step)) < P_REJECT


def test_a_draw_within_the_limit_is_the_poisson_draw():
    for step in range(50):
        drawn = sampling.poisson_batch(N, Q, seed=3, step=step)
        kept = truncated(step)
        assert len(kept) == min(len(drawn), LIMIT)
        assert set(kept) <= set(drawn)
        assert (np.diff(kept) > 0).all()


def test_the_kept_subset_is_uniform_among_those_of_one_draw():
    # q = 1 draws all of 5 every time, so each of the 10 pairs must stay equally often.
    kept = [tuple(sampling.truncated_batch(5, 1.0, 2, seed=8, step=k)) for k in range(3000)]
    counts = [kept.count(pair) for pair in sorted(set(kept))]
    assert len(counts) == 10
    assert stats.chisquare(counts).pvalue > P_KEEP


# Balls and bins: a table says which batch of its epoch a sample is in.


def places(batch_of_step):
    """Return an (epochs, N) table of batches; every sample is in exactly one of each epoch."""
    table = np.full((EPOCHS, N), -1)
    for epoch in range(EPOCHS):
        for position in range(NUM_BATCHES):
            batch = batch_of_step(epoch * NUM_BATCHES + position)
            assert (table[epoch, batch] == -1).all(), "a sample is in two batches"
            table[epoch, batch] = position
    assert (table >= 0).all(), "a sample is in no batch"
    return table


def p_bin_sizes(table):
    """Two-sided chi-square test that sizes vary as those of independent throws."""
    counts = np.stack([(table == t).sum(1) for t in range(NUM_BATCHES)], 1)
    expected = N / NUM_BATCHES
    statistic = ((counts - expected) ** 2).sum() / expected
    return two_sided(stats.chi2(EPOCHS * (NUM_BATCHES - 1)), statistic)


def p_bins_alike(table):
    """Chi-square test that no batch of an epoch is preferred."""
    return stats.chisquare(np.bincount(table.ravel(), minlength=NUM_BATCHES)).pvalue


def p_each_sample_uniform(table):
    """Two-sided chi-square test that each sample goes to every batch alike, over epochs."""
    counts = np.stack([(table == t).sum(0) for t in range(NUM_BATCHES)], 1)
    expected = EPOCHS / NUM_BATCHES
    statistic = ((counts - expected) ** 2).sum() / expected
    return two_sided(stats.chi2(N * (NUM_BATCHES - 1)), statistic)


def p_same_bin_next_epoch(table):
    """Two-sided test that an epoch says nothing about the next."""
    same = table[:-1] == table[1:]
    return stats.binomtest(int(same.sum()), same.size, 1 / NUM_BATCHES).pvalue


def p_neighbours_independent(table):
    """Two-sided test that two samples share a batch by chance alone."""
    same = table[:, 0::2] == table[:, 1::2]
    return stats.binomtest(int(same.sum()), same.size, 1 / NUM_BATCHES).pvalue


BINS_TESTS = [
    p_bin_sizes, p_bins_alike, p_each_sample_uniform, p_same_bin_next_epoch,
    p_neighbours_independent,
]  # fmt: skip


def balls(step):
    return sampling.balls_and_bins_batch(N, NUM_BATCHES, seed=3, step=step)


def shuffled(step):
    return sampling.shuffled_batch(N, N // NUM_BATCHES, seed=3, step=step)


def same_in_every_epoch(step):
    return balls(step % NUM_BATCHES)


def same_in_two_epochs(step):
    epoch, position = divmod(step, NUM_BATCHES)
    return balls(epoch // 2 * NUM_BATCHES + position)


def prefers_the_first(step):
    """One of ten samples of the last batch goes to the first."""
    epoch, position = divmod(step, NUM_BATCHES)
    last = balls(epoch * NUM_BATCHES + NUM_BATCHES - 1)
    if position == 0:
        return np.concatenate([balls(step), last[last % 10 == 0]])
    return last[last % 10 != 0] if position == NUM_BATCHES - 1 else balls(step)


def neighbours_go_together(step):
    couples = sampling.balls_and_bins_batch(N // 2, NUM_BATCHES, seed=3, step=step)
    return np.concatenate([2 * couples, 2 * couples + 1])


@pytest.mark.parametrize("p_value", BINS_TESTS)
def test_balls_and_bins_put_each_sample_in_one_batch_and_pass_every_statistic(p_value):
    assert p_value(places(balls)) > P_KEEP


@pytest.mark.parametrize(
    ("batch_of_step", "p_value"),
    [
        (shuffled, p_bin_sizes),
        (same_in_every_epoch, p_each_sample_uniform),
        (same_in_every_epoch, p_same_bin_next_epoch),
        (same_in_two_epochs, p_same_bin_next_epoch),
        (prefers_the_first, p_bins_alike),
        (neighbours_go_together, p_neighbours_independent),
    ],
)
def test_wrong_balls_and_bins_are_rejected(batch_of_step, p_value):
    assert p_value(places(batch_of_step)) < P_REJECT


@pytest.mark.parametrize("not_once", [lambda k: balls(k)[1:], lambda k: balls(k // 2)])
def test_a_sample_in_no_batch_or_in_two_is_noticed(not_once):
    with pytest.raises(AssertionError, match=r"a sample is in"):
        places(not_once)


@pytest.mark.parametrize("batch_of_step", [truncated, balls])
def test_a_step_can_be_drawn_alone_and_again(batch_of_step):
    forward = [batch_of_step(k) for k in range(25)]
    for k in reversed(range(25)):
        np.testing.assert_array_equal(batch_of_step(k), forward[k])
    assert len({batch.tobytes() for batch in forward}) == 25


# One sampler, one accountant.


def test_every_sampler_is_drawn_and_accounted_by_the_same_key():
    names = set(get_args(Sampler))
    assert set(SAMPLERS) == set(sampling.DRAWS) == set(samplers.ACCOUNTANTS) == names
    assert set(get_args(Sampling)) == names - {"shuffle"}


@pytest.mark.parametrize("sampler", get_args(Sampler))
def test_draw_and_epsilon_follow_from_the_mechanism_alone(sampler):
    by_name = {
        "poisson": lambda: sampling.poisson_batch(N, Q, seed=3, step=13),
        "truncated_poisson": lambda: truncated(13),
        "balls_and_bins": lambda: balls(13),
        "shuffle": lambda: shuffled(13),
    }
    made = mechanism(sampler)
    np.testing.assert_array_equal(sampling.draw(made, N, seed=3, step=13), by_name[sampler]())
    after = samplers.epsilons(made, [10, 30], 1e-5)
    assert 0 < after[0] < after[1] < np.inf


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [("poisson", None), ("truncated_poisson", None), ("balls_and_bins", 10), ("shuffle", 10)],
)
def test_batches_per_epoch_where_an_epoch_counts_whole(sampler, expected):
    assert mechanism(sampler).batches_per_epoch == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sampler": "cyclic"}, r"sampler must be one of poisson, truncated_poisson, .*'cyclic'"),
        ({"batch_limit": 60}, r"sampler 'poisson' with batch_limit=60.*knows of no limit"),
        ({"sampler": "shuffle", "num_train": N}, r"'shuffle' with batch_limit=None, num_train=500"),
        ({"sampler": "balls_and_bins", "batch_limit": 60}, r"knows of no limit; leave both out"),
        ({"sampler": "truncated_poisson", "batch_limit": None}, r"both; give the most"),
        ({"sampler": "truncated_poisson", "num_train": None}, r"its epsilon follows from both"),
        ({"sampler": "truncated_poisson", "batch_limit": 0}, r"batch_limit=0, num_train=500"),
        ({"sampler": "balls_and_bins", "sampling_rate": 0.3}, r"its rate is 1 / T; give 1 / 3"),
    ],
)  # fmt: skip
def test_a_pair_that_does_not_match_cannot_be_built(fields, message):
    with pytest.raises(ConfigError, match=message):
        mechanism(**fields)


def test_a_draw_from_another_number_of_samples_than_accounted_is_refused():
    with pytest.raises(EngineError, match=r"num_train=501, but 500 are accounted for"):
        sampling.draw(mechanism("truncated_poisson"), N + 1, seed=3, step=0)


def test_truncated_draws_may_be_secure_and_balls_and_bins_not():
    made = mechanism("truncated_poisson", batch_limit=5)
    assert len(sampling.draw(made, N, seed=3, step=0, secure=True)) == 5
    with pytest.raises(ConfigError, match=r"must be drawn again at every step of an epoch"):
        sampling.draw(mechanism("balls_and_bins"), N, seed=3, step=0, secure=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sampling.truncated_batch(10, 0.5, 0, 0, 0), r"batch_limit=0: no sample"),
        (lambda: sampling.truncated_batch(10, 1.5, 5, 0, 0), r"q is a probability in \(0, 1\]"),
        (lambda: sampling.balls_and_bins_batch(10, 0, 0, 0), r"num_batches=0"),
        (lambda: sampling.balls_and_bins_batch(0, 2, 0, 0), r"num_train=0"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.parametrize("batch", range(1, 400, 7))
def test_whole_batches_are_those_of_whole_numbers_and_of_their_own_rate(batch):
    for num_train in (400, 1797, 50000, 1281167):
        count = whole_batches(batch / num_train)
        assert count == num_train // batch
        assert whole_batches(1 / count) == count
