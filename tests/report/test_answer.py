"""The answer to the open question: comparisons, what else could explain them, and the words."""

import math

import pytest

from dpexp.report.answer import answer, slow_down
from dpexp.report.answer_table import COLUMNS, answer_rows
from dpexp.report.gather import grids_of, points_of
from dpexp.report.sentences import MEASURES, clear

SMALL = {"val_accuracy": 0.60, "test_accuracy": 0.6, "test_ece": 0.20, "test_nll_nats": 1.6}
LARGE = SMALL | {"val_accuracy": 0.595, "test_ece": 0.05, "test_mce": 0.3}
MCE = {"test_mce": 0.4}


def grids(runs):
    return grids_of(points_of(runs))


def of_ece(found):
    return [c for c in found.comparisons if c.measure == "ece"]


def test_every_measure_of_both_is_compared(make_grid):
    found = answer(grids(make_grid({1.0: SMALL | MCE, 10.0: LARGE})))
    assert [c.measure for c in found.comparisons] == ["ece", "mce", "nll_nats"]
    (ece,) = of_ece(found)
    assert (ece.small.clip_norm, ece.large.clip_norm, ece.keeps_accuracy) == (1.0, 10.0, True)
    assert ece.paired.difference == pytest.approx(-0.15, abs=1e-9)
    first, second, _ = found.sentences
    assert first.startswith("Yes, by ECE: ")
    assert "of 1 setting where the best R above 1 loses at most 2 points" in first
    assert "in 1 (cifar10 at epsilon 2), higher in 0, and undecided in 0" in first
    (row,) = answer_rows(found)
    assert len(row) == len(COLUMNS)
    assert row[1:3] == ("R 1: 60.0 %, ECE 20.0 %", "R 10: 60.0 %, ECE 5.0 %")
    assert row[3].startswith("-15.0 [")
    assert row[3].endswith("], 3 seeds")
    assert row[4:] == ("-", "-")
    assert "over all 3 comparisons" in second
    assert second.endswith(
        "the large R is lower in ECE (1 of 1), MCE (1 of 1); higher in none; undecided in NLL."
    )


@pytest.mark.parametrize(
    ("ece", "opening"),
    [
        (0.05, "Yes, by ECE: "),
        (0.35, "No, by ECE: "),
        (0.2, "Not shown, by ECE: "),
    ],
)
def test_the_first_word_follows_the_intervals(make_grid, ece, opening):
    found = answer(grids(make_grid({1.0: SMALL, 10.0: LARGE | {"test_ece": ece}})))
    assert found.sentences[0].startswith(opening)


def test_settings_that_disagree_are_not_a_yes(make_grid):
    runs = make_grid({1.0: SMALL, 10.0: LARGE})
    worse = {1.0: SMALL, 10.0: LARGE | {"test_ece": 0.3}}
    runs += make_grid(worse, keys={"eps": 8.0}, sigma=0.5)
    found = answer(grids(runs))
    assert found.sentences[0].startswith("Not in general, by ECE: ")
    assert (
        "in 1 (cifar10 at epsilon 2), higher in 1 (cifar10 at epsilon 8), and undecided in 0"
        in found.sentences[0]
    )
    assert len(of_ece(found)) == 2


def test_a_large_norm_that_learns_less_is_told_apart(make_grid):
    apart = {1.0: SMALL, 10.0: LARGE | {"val_accuracy": 0.5, "test_accuracy": 0.5}}
    found = answer(grids(make_grid(apart)))
    assert [c.keeps_accuracy for c in of_ece(found)] == [False]
    first, second, _ = found.sentences
    assert first.startswith("The question stays open here")
    assert first.endswith("; it loses more in 1 (cifar10 at epsilon 2).")
    assert second.startswith("By no measure can R be compared where the large one")


def test_a_large_norm_that_learns_more_is_compared(make_grid):
    better = {1.0: SMALL, 10.0: LARGE | {"val_accuracy": 0.65, "test_accuracy": 0.65}}
    found = answer(grids(make_grid(better)))
    assert [c.keeps_accuracy for c in of_ece(found)] == [True]
    assert found.sentences[0].startswith("Yes, by ECE: ")


def test_nothing_to_compare_is_one_sentence(make_grid):
    assert answer([]).sentences == (
        "The question stays open here: no runs at small and at large R of one epsilon.",
    )
    found = answer(grids(make_grid({0.1: SMALL, 1.0: SMALL})))
    assert found.sentences == (
        "The question stays open here: cifar10, digits_cnn, epsilon 2: no run at R above 1 that "
        "did not diverge.",
    )


def test_the_correlation_is_over_the_accurate_norms(make_grid):
    cells = {norm: SMALL | {"test_ece": ece} for norm, ece in ((0.1, 0.3), (1.0, 0.2), (10.0, 0.1))}
    inaccurate = {100.0: SMALL | {"val_accuracy": 0.3, "test_ece": 0.9}}
    found = answer(grids(make_grid(cells | inaccurate)))
    (ece,) = of_ece(found)
    assert ece.correlation.rho == pytest.approx(-1, abs=0.06)
    assert ece.correlation.num_runs == 9
    assert (
        "larger R goes with less ECE (1 of 1); with more none; undecided in" in found.sentences[1]
    )


def test_no_trend_is_none(make_grid):
    cells = {norm: SMALL | {"test_ece": ece} for norm, ece in ((0.1, 0.3), (1.0, 0.1), (10.0, 0.2))}
    second = answer(grids(make_grid(cells))).sentences[1]
    assert "larger R goes with less none; with more none; undecided in ECE" in second


def test_clear_differences_are_adjusted_over_all(make_run):
    values = {1.0: (0.10, 0.11, 0.12), 10.0: (0.05, 0.05, 0.09)}
    measures = [name for name in MEASURES if name != "nll_nats"]

    def signs(names):
        runs = [
            make_run(
                keys={"clipping.norm": norm, "seed": seed},
                val_accuracy=0.6,
                test_accuracy=0.6,
                **{f"test_{name}": value for name in names},
            )
            for norm, each in values.items()
            for seed, value in enumerate(each)
        ]
        return set(clear(answer(grids(runs)).comparisons).values())

    assert signs(measures[:1]) == {-1}
    assert signs(measures) == {0}


def band(value, top):
    return {"measures": {"mce": {"value": value, "null_low": 0.0, "null_high": top}}}


@pytest.mark.parametrize(
    ("top", "inside", "words"), [(0.5, True, "In 1 of 1 settings"), (0.35, False, "In 0 of 1")]
)
def test_mce_within_its_null_band_is_chance(make_grid, top, inside, words):
    runs = make_grid({1.0: SMALL | MCE}, calibration=band(0.4, top))
    runs += make_grid({10.0: LARGE}, calibration=band(0.3, top))
    found = answer(grids(runs))
    (mce,) = [c for c in found.comparisons if c.measure == "mce"]
    assert mce.is_in_null_band is inside
    assert found.sentences[2].startswith(words)


def test_without_a_band_that_is_said(make_grid):
    third = answer(grids(make_grid({1.0: SMALL, 10.0: LARGE}))).sentences[2]
    assert third.startswith("What MCE a perfectly calibrated model would show was not measured")
    assert third.endswith("temperature scaling, which a large R must beat, was not among the runs.")


def scaling(epsilon, ece, method="temperature"):
    return {"method": method, "epsilon": epsilon, "summary": {"test/ece": ece}}


def test_temperature_scaling_is_what_a_large_norm_must_beat(make_grid):
    fits = [scaling("inf", 0.01), scaling(2.3, 0.03), scaling(2.1, 0.0, "platt")]
    runs = make_grid({1.0: SMALL}, recalibrations=fits) + make_grid({10.0: LARGE})
    found = answer(grids(runs))
    (ece,) = of_ece(found)
    assert (ece.recalibrated, ece.recalibrated_epsilon) == (pytest.approx(0.03), 2.3)
    assert (
        "after temperature scaling the small R has a lower ECE than the large one in 1 of 1, for "
        "at most 0.3 more of epsilon." in found.sentences[2]
    )
    assert answer_rows(found)[0][5] == "3.0 % (epsilon 2.3)"


def test_a_scaling_without_noise_is_marked(make_grid):
    runs = make_grid({1.0: SMALL}, recalibrations=[scaling("inf", 0.06)])
    found = answer(grids(runs + make_grid({10.0: LARGE})))
    (ece,) = of_ece(found)
    assert ece.recalibrated_epsilon == math.inf
    assert found.sentences[2].endswith("in 0 of 1, some fitted without noise.")
    assert answer_rows(found)[0][5] == "6.0 % (no guarantee)"


def test_a_scaling_of_some_seeds_is_none(make_grid):
    runs = make_grid({1.0: SMALL}, seeds=1, recalibrations=[scaling("inf", 0.06)])
    runs += make_grid({1.0: SMALL})[1:] + make_grid({10.0: LARGE})
    (ece,) = of_ece(answer(grids(runs)))
    assert (ece.recalibrated, ece.recalibrated_epsilon) == (None, None)


def searched(make_run, norm, lr, accuracy, ece=0.1):
    return make_run(
        keys={"clipping.norm": norm, "optimizer.lr": lr, "epochs": 2.5},
        steps=450,
        val_accuracy=accuracy,
        test_accuracy=accuracy,
        test_ece=ece,
    )


def test_a_small_norm_is_slowed_down_to_the_accuracy_of_the_large(make_grid, make_run):
    runs = make_grid({1.0: SMALL, 10.0: LARGE})
    runs += [searched(make_run, 10.0, 0.1, 0.40, 0.02), searched(make_run, 10.0, 0.2, 0.35)]
    runs += [searched(make_run, 1.0, lr, accuracy, 0.07) for lr, accuracy in
             ((1.0, 0.30), (2.0, 0.39), (4.0, 0.45), (8.0, 0.395))]  # fmt: skip
    (grid,) = grids(runs)
    found = slow_down(grid)
    assert (found.large.lr, found.small.lr) == (0.1, 2.0)
    whole = answer([grid])
    assert (
        "beside a small R whose lr makes it no more accurate, the large R has the lower ECE in 1 "
        "of 1;" in whole.sentences[2]
    )
    assert answer_rows(whole)[0][4] == (
        "R 10, lr 0.1: 40.0 %, ECE 2.0 %; R 1, lr 2: 39.0 %, ECE 7.0 % (450 steps, 1 seed)"
    )


def test_one_lr_each_slows_nothing_down(make_grid):
    (grid,) = grids(make_grid({1.0: SMALL, 10.0: LARGE}))
    assert slow_down(grid) is None
