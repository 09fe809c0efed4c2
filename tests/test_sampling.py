"""Samplers: what they draw, and statistics that a wrong sampler fails.

Each statistical test returns a p-value; a right sampler must keep it above P_KEEP and each wrong
one push it below P_REJECT. Seeds are fixed, so the outcome is too.
"""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from dpexp import sampling
from dpexp.errors import ConfigError, EngineError
from dpexp.mechanism import Mechanism

N, Q, STEPS = 500, 0.1, 2000
P_KEEP, P_REJECT = 1e-2, 1e-6

GOLDEN_SEED = 3256623152280569268
GOLDEN_BATCH = [0, 8, 10, 12, 15, 25, 37]


def membership(batch_of_step, steps=STEPS):
    """Return a (steps, N) table: whether a step includes a sample."""
    table = np.zeros((steps, N), dtype=bool)
    for step in range(steps):
        table[step, batch_of_step(step)] = True
    return table


def p_rate(table):
    """Two-sided binomial test that the overall rate of inclusion is Q."""
    return stats.binomtest(int(table.sum()), table.size, Q).pvalue


def p_size_variance(table):
    """Two-sided chi-square test that batch sizes vary as N Q (1 - Q)."""
    statistic = ((table.sum(1) - N * Q) ** 2).sum() / (N * Q * (1 - Q))
    return 2 * min(stats.chi2.cdf(statistic, len(table)), stats.chi2.sf(statistic, len(table)))


def p_samples_alike(table):
    """Two-sided chi-square test that samples are included with equal chance, independently."""
    counts, steps = table.sum(0), len(table)
    statistic = ((counts - steps * Q) ** 2).sum() / (steps * Q * (1 - Q))
    return 2 * min(stats.chi2.cdf(statistic, N), stats.chi2.sf(statistic, N))


def p_steps_independent(table):
    """Two-sided test that inclusion in a step says nothing about the next step."""
    both = int((table[:-1] & table[1:]).sum())
    return stats.binomtest(both, table[1:].size, Q * Q).pvalue


TESTS = [p_rate, p_size_variance, p_samples_alike, p_steps_independent]


def poisson(step):
    return sampling.poisson_batch(N, Q, seed=3, step=step)


def secure(step):
    return sampling.poisson_batch(N, Q, seed=3, step=step, secure=True)


def wrong_rate(step):
    return sampling.poisson_batch(N, 1.03 * Q, seed=3, step=step)


def shuffled(step):
    return sampling.shuffled_batch(N, int(N * Q), seed=3, step=step)


def truncated(step):
    return poisson(step)[: int(N * Q) + 5]  # rising order: late samples are dropped


def same_seed_every_step(step):
    return sampling.poisson_batch(N, Q, seed=3, step=step // 2)


@pytest.mark.parametrize("p_value", TESTS)
def test_poisson_draws_pass_every_statistic(p_value):
    assert p_value(membership(poisson)) > P_KEEP


@pytest.mark.parametrize("p_value", TESTS)
def test_secure_draws_pass_every_statistic(p_value):
    # Not seeded: fails by chance once in 10^6 runs per statistic.
    assert p_value(membership(secure)) > P_REJECT


@pytest.mark.parametrize(
    ("batch_of_step", "p_value"),
    [
        (wrong_rate, p_rate),
        (shuffled, p_size_variance),
        (shuffled, p_samples_alike),
        (shuffled, p_steps_independent),
        (truncated, p_rate),
        (truncated, p_size_variance),
        (truncated, p_samples_alike),
        (same_seed_every_step, p_steps_independent),
    ],
)
def test_wrong_samplers_are_rejected(batch_of_step, p_value):
    assert p_value(membership(batch_of_step)) < P_REJECT


def test_rate_is_used_as_given_not_as_a_rounded_size():
    rate = 0.4 / N  # a rounded batch size would be 0
    sizes = [len(sampling.poisson_batch(N, rate, seed=1, step=k)) for k in range(5000)]
    assert stats.binomtest(sum(sizes), 5000 * N, rate).pvalue > P_KEEP
    assert min(sizes) == 0  # empty batches occur, and are returned


def test_rate_one_includes_every_sample():
    np.testing.assert_array_equal(sampling.poisson_batch(7, 1.0, seed=0, step=0), np.arange(7))


def test_poisson_indices_rise_and_do_not_repeat():
    batch = poisson(0)
    assert (np.diff(batch) > 0).all()
    assert batch.dtype == np.int64


def test_a_step_can_be_drawn_alone_and_again():
    forward = [poisson(k) for k in range(5)]
    for k in reversed(range(5)):
        np.testing.assert_array_equal(poisson(k), forward[k])


def test_seeds_and_steps_give_different_draws():
    draws = {poisson(k).tobytes() for k in range(50)}
    draws |= {sampling.poisson_batch(N, Q, seed=s, step=0).tobytes() for s in range(4, 54)}
    assert len(draws) == 100


def test_secure_draws_do_not_repeat():
    assert secure(0).tobytes() != secure(0).tobytes()


def test_shuffled_epoch_visits_each_sample_once():
    batches = [sampling.shuffled_batch(100, 20, seed=0, step=k) for k in range(10)]
    for epoch in (batches[:5], batches[5:]):
        np.testing.assert_array_equal(np.sort(np.concatenate(epoch)), np.arange(100))
    assert batches[0].tobytes() != batches[5].tobytes()


def test_shuffled_drops_the_incomplete_batch():
    batches = [sampling.shuffled_batch(107, 20, seed=0, step=k) for k in range(5)]
    assert {len(batch) for batch in batches} == {20}
    assert len(np.unique(np.concatenate(batches))) == 100
    assert sampling.num_dropped(107, 20) == 7


def mechanism(sampler="poisson", expected_batch_size=50.0):
    return Mechanism(
        noise_multiplier=1.0,
        clip_norm=1.0,
        sampling_rate=Q,
        num_steps=10,
        expected_batch_size=expected_batch_size,
        sampler=sampler,
    )


def test_draw_follows_the_mechanism():
    np.testing.assert_array_equal(sampling.draw(mechanism(), N, seed=3, step=4), poisson(4))
    np.testing.assert_array_equal(
        sampling.draw(mechanism("shuffle"), N, seed=3, step=4), shuffled(4)
    )


@pytest.mark.parametrize("step", [-1, 10])
def test_draw_refuses_a_step_that_is_not_accounted_for(step):
    with pytest.raises(EngineError, match=r"outside the 10 steps that are accounted for"):
        sampling.draw(mechanism(), N, seed=3, step=step)


def test_draw_refuses_secure_shuffling():
    with pytest.raises(ConfigError, match=r"use protocol=valid"):
        sampling.draw(mechanism("shuffle"), N, seed=3, step=0, secure=True)


def test_draw_refuses_a_fractional_shuffled_batch():
    with pytest.raises(ConfigError, match=r"whole number of samples"):
        sampling.draw(mechanism("shuffle", 50.5), N, seed=3, step=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sampling.poisson_batch(10, 1.5, 0, 0), r"q is a probability in \(0, 1\]"),
        (lambda: sampling.poisson_batch(10, 0.0, 0, 0), r"q is a probability in \(0, 1\]"),
        (lambda: sampling.poisson_batch(0, 0.5, 0, 0), r"no sample to draw"),
        (lambda: sampling.shuffled_batch(10, 11, 0, 0), r"use a smaller batch"),
        (lambda: sampling.micro_batches(np.arange(3), 0), r"at least 1 sample"),
        (lambda: sampling.derive_seed(-1, "noise"), r"at least 0"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.parametrize(("size", "limit"), [(1, 1), (10, 3), (10, 10), (11, 10), (256, 100)])
def test_micro_batches_are_near_equal_and_lose_nothing(size, limit):
    indices = np.arange(size)[::-1]
    pieces = sampling.micro_batches(indices, limit)
    sizes = [len(piece) for piece in pieces]
    assert max(sizes) <= limit
    assert max(sizes) - min(sizes) <= 1
    assert len(pieces) == -(-size // limit)
    np.testing.assert_array_equal(np.concatenate(pieces), indices)


def test_empty_draw_has_no_micro_batches():
    assert sampling.micro_batches(np.arange(0), 4) == []


def test_derived_seeds_differ_by_seed_purpose_and_step():
    steps = [0, 1, 2**32, 2**32 + 1]
    seeds = {
        sampling.derive_seed(seed, purpose, step)
        for seed in (0, 1, 2**32, 2**64)
        for purpose in ("noise", "initialization", "augmentation", "sampling")
        for step in steps
    }
    assert len(seeds) == 64
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_derived_seeds_stay_the_same_across_releases():
    # Own values: a change here means that no earlier run can be repeated or resumed.
    assert sampling.derive_seed(0, "noise", 0) == GOLDEN_SEED
    assert sampling.poisson_batch(40, 0.1, seed=0, step=0).tolist() == GOLDEN_BATCH


def test_sampling_imports_neither_torch_nor_scipy():
    code = "import sys, dpexp.sampling; print({'torch', 'scipy'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
