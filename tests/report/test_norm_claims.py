"""A10 and A11 on made-up grids: what is planted is found, and where nothing is, nothing is."""

import numpy as np
import pytest

from dpexp.claims import CLAIM
from dpexp.report.claims.judging import combine
from dpexp.report.claims.norms import judge_accuracy, judge_measure, lower_pairs, match
from dpexp.report.gather import grids_of, points_of

FLAT = {"val_accuracy": 0.6, "test_accuracy": 0.6, "test_ece": 0.10, "test_mce": 0.30}
NORMS = (0.1, 1.0, 10.0, 100.0)


def grids(runs):
    return grids_of(points_of(runs))


def verdict_of(parts):
    ((on, verdict),) = parts
    assert on == "cifar10, digits_cnn, epsilon 2"
    return verdict


def cells(changes):
    best = {0.1: {"val_accuracy": 0.602}}
    return {norm: FLAT | best.get(norm, {}) | changes.get(norm, {}) for norm in NORMS}


def a10(make_grid, changes, **options):
    return verdict_of(judge_accuracy(grids(make_grid(cells(changes), **options))))


def test_small_norms_that_win_reproduce_a10(make_grid):
    verdict = a10(make_grid, {100.0: {"test_accuracy": 0.55}})
    assert verdict.outcome == "reproduced"
    assert verdict.value == pytest.approx(-5, abs=0.3)
    assert verdict.interval[1] < 0
    assert "accuracy 60.00 % at R 0.1, 55.00 % at R 100" in verdict.ours
    assert "sign-flip p 0.25, the smallest there can be" in verdict.ours
    assert verdict.reason == ""


def test_a_large_norm_that_wins_refutes_a10(make_grid):
    verdict = a10(make_grid, {100.0: {"test_accuracy": 0.63}})
    assert verdict.outcome == "not reproduced"
    assert verdict.value == pytest.approx(3, abs=0.3)


@pytest.mark.parametrize(
    ("difference", "outcome"), [(0.0015, "reproduced"), (0.0025, "not reproduced")]
)
def test_the_margin_of_a10_is_a_fifth_of_a_point(make_grid, difference, outcome):
    verdict = a10(make_grid, {100.0: {"test_accuracy": 0.6 + difference}}, noise=0.003)
    assert verdict.outcome == outcome
    assert "so 3 seeds do not settle it; the mean decides" in verdict.reason


def test_the_small_norm_of_a10_is_chosen_on_validation(make_grid):
    changes = {0.1: {"val_accuracy": 0.7, "test_accuracy": 0.5}, 1.0: {"test_accuracy": 0.9}}
    verdict = a10(make_grid, changes)
    assert "50.00 % at R 0.1" in verdict.ours
    assert verdict.outcome == "not reproduced"


def test_a_diverged_large_norm_counts_as_guessing(make_grid):
    runs = make_grid({0.1: FLAT})
    runs += make_grid({100.0: {"test_accuracy": 0.0}}, state="diverged", noise=0)
    verdict = verdict_of(judge_accuracy(grids(runs)))
    assert verdict.outcome == "reproduced"
    assert "10.00 % at R 100 (3 diverged, counted as guessing)" in verdict.ours


@pytest.mark.parametrize(
    ("norms", "options", "reason"),
    [
        ((0.1, 10.0), {}, "the grid holds no R 100"),
        ((10.0, 100.0), {}, "the grid holds no R from 0.1 to 1 with a validation accuracy"),
        ((0.1, 100.0), {"seeds": 1}, "R 0.1 and R 100 share 1 seed; a paired interval needs two"),
    ],
)
def test_what_a10_lacks_is_said(make_grid, norms, options, reason):
    runs = make_grid(dict.fromkeys(norms, FLAT), **options)
    verdict = verdict_of(judge_accuracy(grids(runs)))
    assert (verdict.outcome, verdict.reason) == ("not testable here", reason)


@pytest.mark.parametrize(
    "keys", [{"clipping.style": "layerwise"}, {"clipping.function": "autos"}, {"eps": float("inf")},
             {"clipping.tail_norm": 9.0}, {"dp": False}]
)  # fmt: skip
def test_other_clipping_is_not_judged(make_grid, keys):
    assert list(judge_accuracy(grids(make_grid(cells({}), keys=keys)))) == []


def a11(make_grid, changes, measure="ece", **options):
    found = grids(make_grid(cells(changes), **options))
    return verdict_of(judge_measure(found, "A11b", measure))


def test_a_planted_improvement_reproduces_a11(make_grid):
    verdict = a11(make_grid, {10.0: {"test_ece": 0.05, "val_accuracy": 0.605}})
    assert verdict.outcome == "reproduced"
    assert verdict.value == pytest.approx(-5, abs=0.3)
    assert "ECE 10.00 % at R 0.1, 5.00 % at R 10" in verdict.ours
    assert "of 4 pairs of a small and a large R 2 lower and 0 higher" in verdict.ours
    assert "clipping.norm" not in verdict.command
    assert "dpexp sweep experiment=convergence/cifar10_cnn_grid seed=0,1,2" in verdict.command


def test_mce_is_judged_apart_from_ece(make_grid):
    changes = {10.0: {"test_mce": 0.2, "val_accuracy": 0.605}}
    assert a11(make_grid, changes, "mce").outcome == "reproduced"
    assert a11(make_grid, changes, "ece").outcome == "not reproduced"


def test_a_planted_loss_refutes_a11(make_grid):
    verdict = a11(make_grid, {10.0: {"test_ece": 0.15, "val_accuracy": 0.605}})
    assert (verdict.outcome, verdict.reason) == ("not reproduced", "it is higher at R 10")


def test_noise_without_an_effect_hardly_ever_reproduces_a11(make_run):
    generator = np.random.default_rng(0)
    outcomes = []
    for _ in range(200):
        runs = [
            make_run(
                keys={"clipping.norm": norm, "seed": seed},
                test_ece=0.1 + 0.01 * generator.normal(),
                test_accuracy=0.6,
                val_accuracy=0.6,
            )
            for norm in (1.0, 10.0)
            for seed in range(3)
        ]
        outcomes.append(verdict_of(judge_measure(grids(runs), "A11b", "ece")))
    false = sum(verdict.outcome == "reproduced" for verdict in outcomes)
    # One side of a 95 % interval: 2.5 %, 5 of 200; 13 or more has a chance below 0.2 %.
    assert false < 13
    undecided = "the interval holds 0, so 3 seeds neither show nor refute it"
    assert sum(verdict.reason == undecided for verdict in outcomes) > 170


def test_without_an_accurate_large_norm_a11_is_not_testable(make_grid):
    worse = {"val_accuracy": 0.57, "test_ece": 0.01}
    verdict = a11(make_grid, {10.0: worse, 100.0: worse | {"val_accuracy": 0.4}})
    assert verdict.outcome == "not testable here"
    assert verdict.reason == (
        "the best R above 1, R 10, is 3.2 points below R 0.1 in validation accuracy (60.2 %), and "
        "the claim is of models within 2"
    )


def test_a_more_accurate_large_norm_is_compared_with_the_best_small_one(make_grid):
    better = {"val_accuracy": 0.66, "test_accuracy": 0.66, "test_ece": 0.01}
    verdict = a11(make_grid, {10.0: better})
    assert verdict.outcome == "reproduced"
    assert "of 1 pairs of a small and a large R 1 lower and 0 higher" in verdict.ours


def test_two_points_are_of_validation_accuracy(make_grid):
    near = {"val_accuracy": 0.587, "test_accuracy": 0.4, "test_ece": 0.01}
    (grid,) = grids(make_grid(cells({10.0: near, 100.0: near | {"val_accuracy": 0.58}}), noise=0))
    pair = match(grid)
    assert pair.keeps_accuracy
    assert [point.clip_norm for point in pair.accurate] == [0.1, 1.0, 10.0]
    assert (pair.small.clip_norm, pair.large.clip_norm) == (0.1, 10.0)


def test_an_epsilon_without_a_guarantee_is_no_ground_for_a_verdict(make_grid):
    (grid,) = grids(make_grid(dict.fromkeys(NORMS, FLAT)))
    (unsound,) = grids(make_grid(dict.fromkeys(NORMS, FLAT), privacy_guarantee="none"))
    assert list(judge_accuracy([grid])) != []
    assert list(judge_accuracy([unsound])) == []
    assert list(judge_measure([unsound], "A11b", "ece")) == []
    assert unsound.label == f"{grid.label} without a guarantee"


def test_without_validation_nothing_is_chosen(make_grid):
    unchosen = {"test_ece": 0.1, "test_accuracy": 0.6}
    runs = make_grid(dict.fromkeys(NORMS, unchosen))
    reason = verdict_of(judge_measure(grids(runs), "A11b", "ece")).reason
    assert reason.startswith("no run has a validation part (dataset.validation) to choose R on")
    runs = make_grid({0.1: FLAT, 1.0: FLAT})
    reason = verdict_of(judge_measure(grids(runs), "A11b", "ece")).reason
    assert reason == "no run at R above 1 that did not diverge"


def test_pairs_are_adjusted_for_their_number(make_run):
    # Each p is 0.05 / 3: below 5 % alone, and above it among four.
    values = {0.1: (0.10, 0.11, 0.12), 10.0: (0.05, 0.05, 0.09)}
    runs = [
        make_run(keys={"clipping.norm": norm, "seed": seed}, test_ece=value)
        for norm in NORMS
        for seed, value in enumerate(values[0.1 if norm <= 1 else 10.0])
    ]
    (grid,) = grids(runs)
    two = [grid.chosen[0.1], grid.chosen[10.0]]
    assert lower_pairs(two, "test/ece") == (1, 1, 0)
    assert lower_pairs(list(grid.chosen.values()), "test/ece") == (4, 0, 0)


def test_a_claim_holds_if_it_holds_wherever_it_was_judged(make_grid):
    better = cells({100.0: {"test_accuracy": 0.55}})
    worse = cells({100.0: {"test_accuracy": 0.65}})
    one = make_grid(better)
    two = make_grid(worse, keys={"eps": 8.0}, sigma=0.54)
    untested = make_grid({0.1: FLAT, 1.0: FLAT}, keys={"batch": 7})
    parts = list(judge_accuracy(grids(one + two + untested)))
    verdict, on = combine("A10", parts, "nothing")
    assert verdict.outcome == "not reproduced"
    assert verdict.ours.startswith("met in 1 of 2 settings. ")
    assert "the grid holds no R 100" in verdict.reason
    assert on.count("cifar10") == 2
    verdict, on = combine("A10", list(judge_accuracy(grids(one))), "nothing")
    assert verdict.outcome == "reproduced"
    verdict, on = combine("A10", [], "nothing was run")
    assert (verdict.outcome, verdict.reason, on) == ("not testable here", "nothing was run", "")
    assert CLAIM["A10"].name == verdict.claim


def test_equal_differences_settle_nothing(make_grid):
    for change, claim in (({"test_accuracy": 0.5}, a10), ({"test_ece": 0.05}, a11)):
        verdict = claim(make_grid, {100.0: change, 10.0: change}, noise=0)
        assert "all differences are equal, which tells nothing of their spread" in verdict.reason
    assert verdict.outcome == "not reproduced"


def test_a_run_that_says_nothing_of_a_guarantee_decides_nothing(make_grid):
    (grid,) = grids(make_grid(dict.fromkeys(NORMS, FLAT), privacy_guarantee=None))
    assert list(judge_accuracy([grid])) == []
