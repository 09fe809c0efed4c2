"""Noise in pairs, on a quadratic whose answer is known; and paths of one noise at several lr."""

import math

import pytest
import torch
from torch import nn

from dpexp.clipping.noise import StepNoise
from dpexp.theory import invariance, noise_limit
from dpexp.theory.flow import Clip, SignedNoise, losses_along
from dpexp.theory.noise_limit import AtLr, PathNoise, falls_of, judge_noise
from dpexp.theory.subjects import Subject


@pytest.fixture
def quadratic() -> Subject:
    """One sample, one weight w and no bias: L = (w - 2)^2 / 2 from w = 0.

    R = 100 clips nothing, so the expected gap of one step is (lr sigma R)^2 / 2, and of a pair the
    gap is (lr sigma R z)^2 / 2 to the last digit: the linear term cancels.
    """
    x, y = torch.ones(1, 1).double(), torch.full((1, 1), 2.0).double()

    def build() -> nn.Module:
        layer = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(layer.weight)
        return nn.Sequential(layer)

    return Subject("quadratic", build, x, y, "squared")


def end(subject, lr, num_steps, sigma=0.0, noise=None):
    clip = Clip(100.0, sigma=sigma)
    model = subject.network(0)
    return losses_along(model, subject, clip, lr=lr, num_steps=num_steps, noise=noise)[-1]


def test_a_pair_of_opposite_noise_leaves_the_square_alone(quadratic):
    base = end(quadratic, 0.1, 1)
    z = float(StepNoise(7).normal(torch.zeros(1, 1).double()))
    gaps = [
        end(quadratic, 0.1, 1, 1.0, SignedNoise(StepNoise(7), sign)) - base for sign in (1.0, -1.0)
    ]
    assert sum(gaps) / 2 == pytest.approx((0.1 * 100 * z) ** 2 / 2, rel=1e-9)
    assert gaps[0] != pytest.approx(gaps[1], rel=0.1)  # alone, each holds the linear term


def test_the_mean_gap_of_a_quadratic_is_that_of_its_recursion(quadratic):
    """Var(w) after K steps is (lr sigma R)^2 sum_k (1 - lr)^(2k), and the gap half of it."""
    lr, steps, pairs = 0.1, 5, 150
    base = end(quadratic, lr, steps)
    total = sum(
        end(quadratic, lr, steps, 1.0, SignedNoise(StepNoise(seed), sign)) - base
        for seed in range(pairs)
        for sign in (1.0, -1.0)
    )
    variance = (lr * 100) ** 2 * sum((1 - lr) ** (2 * k) for k in range(steps))
    # A gap is half a scaled chi-square of one degree: relative deviation sqrt(2 / pairs) = 12 %.
    assert total / (2 * pairs) == pytest.approx(variance / 2, rel=0.4)
    assert total / (2 * pairs) != pytest.approx(1.5**2 * variance / 2, rel=0.4)


def test_a_coarse_step_has_the_noise_of_the_fine_steps_it_covers():
    shapes = [torch.zeros(3, 2).double(), torch.zeros(4).double()]
    fine, coarse = PathNoise(5, 2, 1), PathNoise(5, 2, 10)
    sums = [torch.zeros_like(shape) for shape in shapes]
    for _ in range(10):
        for total, shape in zip(sums, shapes, strict=True):
            total += fine.normal(shape)
    for total, shape in zip(sums, shapes, strict=True):
        torch.testing.assert_close(coarse.normal(shape), total / math.sqrt(10))


def test_noise_of_a_path_is_standard_normal_at_any_step():
    like = torch.zeros(20_000).double()
    for merged in (1, 10):
        std = float(PathNoise(0, 1, merged).normal(like).std())
        assert std == pytest.approx(1.0, abs=0.025)  # five standard errors of 1/sqrt(2 n)


def test_paths_of_different_seeds_and_parameters_share_no_stream():
    like = torch.zeros(4).double()
    draws = [PathNoise(seed, 3, 1) for seed in range(4)]
    seen = [tuple(path.normal(like).tolist()) for path in draws for _ in range(3)]
    assert len(set(seen)) == 12


def at(lr, gaps, ece_gap=0.0):
    single = [g + s for g in gaps for s in (1.0, -1.0)]
    return AtLr(lr, 1, 1.0, gaps, single, 0.1, [ece_gap] * len(single), 0.5)


def outcomes(runs):
    return {v.claim: v.outcome for v in judge_noise(runs).verdicts}


def test_falls_and_verdicts_of_gaps_that_are_known():
    good = [at(0.1, [1.0, 2.0, 3.0]), at(0.01, [0.1, 0.2, 0.3], 0.002)]
    (fall,) = falls_of(good)
    assert fall == pytest.approx((10.0, 10.0, 10.0))
    spread = {"ece_gaps": [0.001, 0.003] * 3}
    good[1] = AtLr(**{**good[1].__dict__, **spread})
    assert outcomes(good) == {"A7": "reproduced", "A8": "reproduced"}
    slow = [at(0.1, [1.0, 2.0, 3.0]), at(0.01, [0.4, 0.8, 1.2], 0.02)]
    assert outcomes(slow) == {"A7": "not reproduced", "A8": "not reproduced"}


def test_both_runs_of_a_pair_count_once_in_the_interval_of_the_ece():
    # Means of pairs 0.001, 0.002 and 0.003, whatever lies between the two of one.
    gaps = [0.0, 0.002, -0.01, 0.014, 0.003, 0.003]
    runs = [at(0.1, [1.0, 2.0, 3.0]), at(0.01, [0.1, 0.2, 0.3])]
    runs[1] = AtLr(**{**runs[1].__dict__, "ece_gaps": gaps})
    verdict = next(v for v in judge_noise(runs).verdicts if v.claim == "A8")
    half = 4.302653 * 0.001 / 3**0.5
    assert verdict.value == pytest.approx(0.002)
    assert verdict.interval == pytest.approx((0.002 - half, 0.002 + half), rel=1e-6)


def test_a_fall_whose_interval_holds_the_criterion_says_so():
    def reason(gaps):
        runs = [at(0.1, [1.0, 2.0, 3.0]), at(0.01, gaps)]
        return next(v.reason for v in judge_noise(runs).verdicts if v.claim == "A7")

    assert "the means decide" not in reason([0.1, 0.2, 0.3])
    assert reason([0.3, 0.1, 0.1]).endswith("; an interval holds 5, so the means decide")


def test_runs_at_two_lr_have_gaps_that_fall():
    runs = [noise_limit.run_at(n, 4, 80) for n in (8, 80)]
    assert runs[0].lr == pytest.approx(10 * runs[1].lr)
    assert len(runs[0].gaps) == 2
    # Each pair follows one path, so each gap falls about tenfold, not only their mean.
    ratios = [a / b for a, b in zip(runs[0].gaps, runs[1].gaps, strict=True)]
    assert max(ratios) > 5


def test_only_the_product_of_lr_and_bound_counts_while_all_are_clipped(monkeypatch):
    monkeypatch.setattr(invariance, "NUM_STEPS", 10)
    pair = invariance.compare(0, 10.0, 1.0)
    assert pair.is_all_clipped
    assert pair.gap < 1e-10
    control = invariance.compare(0, 1e5, 0.0)
    assert not control.is_all_clipped
    assert control.gap > 1e-3
    found = invariance.judge_invariance([pair], control)
    assert found.verdicts[0].outcome == "reproduced"
