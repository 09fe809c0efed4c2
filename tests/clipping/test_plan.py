"""Which way a product is taken: the paper's rule at its boundary, what is fixed, what costs say."""

from collections.abc import Callable
from math import inf
from typing import Any

import pytest
import torch
from networks import gradients_of, images, network
from reference.gradients import weighted_outputs
from torch import Tensor
from torch.testing import assert_close

from dpexp.clipping.engine import PrivacyEngine
from dpexp.clipping.plan import (
    KEPT,
    Costs,
    NormWay,
    Problem,
    Way,
    cheapest,
    counted,
    paper_rule,
    solve,
)
from dpexp.clipping.planner import Planner
from dpexp.clipping.rules.outer import outer_problem
from dpexp.errors import CrossSampleError, EngineError


@pytest.mark.parametrize(
    ("positions", "inputs", "outputs", "way"),
    [
        (4, 8, 4, "ghost"),  # 2 * 4^2 = 8 * 4
        (4, 31, 1, "instantiate"),
        (1, 2, 1, "ghost"),
        # Table of the paper's VGG-11 at 224 pixels: first layer, and the last convolution.
        (224 * 224, 3 * 9, 64, "instantiate"),
        (14 * 14, 512 * 9, 512, "ghost"),
    ],
)
def test_the_papers_rule_is_ghost_up_to_the_boundary(positions, inputs, outputs, way):
    assert paper_rule(outer_problem(positions, inputs, outputs)).norm == way


@pytest.mark.parametrize(
    ("positions", "inputs", "outputs", "way"),
    [
        (1, 500, 500, Way("ghost", "product")),
        (1000, 10, 10, Way("instantiate", KEPT)),  # 100 numbers for 20,000
        (10, 100, 100, Way("ghost", "product")),  # 10^2 * 200 against 10 * 100 * 100
        (60, 100, 100, Way("instantiate", KEPT)),  # 60^2 * 200 against 100 * 100
        (45, 100, 100, Way("ghost", "product")),  # the gradient is larger than the pair
    ],
)
def test_operation_counts_say_what_a_kept_gradient_saves(positions, inputs, outputs, way):
    problem = outer_problem(positions, inputs, outputs)
    assert cheapest(problem, counted(problem, 2**26)) == way


def test_only_auto_heeds_the_plan():
    def norms(algorithm, plan, *shape):
        planner = Planner(algorithm, plan, "flat", 2**26)
        return planner.choose("a use", outer_problem(*shape)).norm

    for plan in ("paper", "time", "memory", "balanced"):
        assert norms("ghost", plan, 9, 1, 1) == "ghost"
        assert norms("fastgradclip", plan, 1, 9, 9) == "instantiate"
        assert norms("instantiate", plan, 1, 9, 9) == "instantiate"
        assert norms("mixed_ghost", plan, 45, 100, 100) == "ghost"
    # 2 * 6^2 <= 10 * 10, but 6^2 * 20 > 6 * 10 * 10
    assert norms("auto", "paper", 6, 10, 10) == norms("auto", "memory", 6, 10, 10) == "ghost"
    assert norms("auto", "time", 6, 10, 10) == norms("auto", "balanced", 6, 10, 10) == "instantiate"


def test_a_way_that_does_not_fit_the_workspace_is_not_counted_unless_none_does():
    # A 7x7 convolution of 100 M weights: its gradient is 400 MB a sample.
    problem = outer_problem(49, 10_000, 10_000)
    assert list(counted(problem, 2**20).norms) == ["ghost"]
    assert list(counted(problem, 2**27).norms) == ["ghost", "instantiate"]
    assert list(counted(problem, 1).norms) == ["ghost"]


def product(name: str, num_held: int, num_gradient: int) -> Problem:
    norms = (NormWay("ghost", 1, 1), NormWay("instantiate", 1, num_gradient))
    return Problem(name, 9, 1, 1, num_held, norms, (("product", 1),), num_gradient)


def costs(ghost: float, instantiate: float, total: float, kept: float) -> Costs:
    norms = {"ghost": ghost, "instantiate": instantiate}
    return Costs(norms, {"product": total}, {"instantiate": kept})


SMALL, LARGE, LARGEST = product("a", 100, 90), product("b", 100, 110), product("c", 100, 150)
COSTS = {
    SMALL: costs(1.0, 9.0, 1.0, 3.0),  # dearer to keep, though it holds less
    LARGE: costs(1.0, 9.0, 3.0, 2.0),  # saves 2 for 10 numbers
    LARGEST: costs(1.0, 9.0, 3.0, 1.0),  # saves 3 for 50 numbers
}
APART, TOGETHER = Way("ghost", "product"), Way("instantiate", KEPT)


@pytest.mark.parametrize(
    ("slack", "ways"),
    [
        (0.0, [APART, APART, APART]),
        (0.04, [APART, TOGETHER, APART]),  # 12 numbers more may be held
        (0.2, [APART, TOGETHER, TOGETHER]),  # 60
        (0.19, [APART, TOGETHER, APART]),  # 57: what saves most for a number comes first
        (inf, [APART, TOGETHER, TOGETHER]),
    ],
)
def test_larger_gradients_are_kept_while_the_slack_lasts(slack, ways):
    uses = {problem: ["a use"] for problem in COSTS}
    assert solve(COSTS, uses, slack) == {("a use", p): w for p, w in zip(COSTS, ways, strict=True)}


def test_of_the_uses_that_pose_a_problem_as_many_keep_as_the_slack_allows():
    uses = {SMALL: ["a"], LARGE: ["b", "c", "d", "e"], LARGEST: ["f"]}
    found = solve(COSTS, uses, 0.04)  # 24 numbers: two gradients of 10 more than their pairs
    assert [label for label in "bcde" if found[label, LARGE] == TOGETHER] == ["b", "c"]
    assert found["f", LARGEST] == APART


def test_the_engine_says_which_way_each_product_was_taken():
    model = network()
    engine = PrivacyEngine(model, clip_norm=1.0, algorithm="mixed_ghost")
    engine.backward(weighted_outputs(model(images(3))))
    rows = {row["use"]: row for row in engine.plan_rows()}
    stem = rows["stem.weight, stem.bias in conv2d"]
    assert stem == {
        "use": "stem.weight, stem.bias in conv2d",
        "problem": "conv2d 4x4, stride 4, padding 0, at 8x8 T=4 D=48 p=6",
        "positions": 4, "inputs": 48, "outputs": 6, "norm": "ghost", "sum": "backward",
        "numbers_held": 192 + 24,
    }  # fmt: skip
    fc = rows["blocks.0.fc.weight, blocks.0.fc.bias in linear"]
    assert fc["norm"] == "instantiate"
    assert len(rows) == 4


def test_a_plan_of_another_engine_is_followed():
    model = network()
    engine = PrivacyEngine(model, clip_norm=1.0)
    engine.backward(weighted_outputs(model(images(3))))
    rows = [{**row, "norm": "instantiate"} for row in engine.plan_rows()]
    engine.detach()
    model.zero_grad()
    follower = PrivacyEngine(model, clip_norm=1.0)
    follower.load_plan(rows)
    follower.backward(weighted_outputs(model(images(3))))
    assert follower.plan_rows() == rows
    assert {row["norm"] for row in rows} == {"instantiate"}


def sums_of(rows: list[dict[str, Any]] | None = None) -> tuple[dict[str, Tensor], list]:
    """Clipped sums in float32 of a run that follows a plan, and the plan of that run."""
    model, x = network().float(), images(9).float()
    engine = PrivacyEngine(model, clip_norm=1.0)
    if rows is not None:
        engine.load_plan(rows)
    engine.backward(weighted_outputs(model(x)))
    return gradients_of(model), engine.plan_rows()


def costs_that_favour(norm: str) -> Callable[..., Costs]:
    """Costs as if measured on a machine where one way is by far the fastest."""

    def measured(product: Any, workspace: int) -> Costs:
        names = [way.name for way in product.problem.norms]
        sums = {name: 1.0 for name, _ in product.problem.sums}
        return Costs({name: 1.0 + (name != norm) for name in names}, sums, {"instantiate": 1.5})

    return measured


def test_a_plan_taken_up_again_gives_bitwise_the_same_sums_on_another_machine(monkeypatch):
    monkeypatch.setattr("dpexp.clipping.clipper.measured", costs_that_favour("ghost"))
    monkeypatch.setattr("dpexp.clipping.planner.SLACKS", {"balanced": 0.0})
    sums, rows = sums_of()
    monkeypatch.setattr("dpexp.clipping.clipper.measured", costs_that_favour("instantiate"))
    monkeypatch.setattr("dpexp.clipping.planner.SLACKS", {"balanced": inf})
    resumed, same_rows = sums_of(rows)
    assert same_rows == rows
    assert all(torch.equal(resumed[name], g) for name, g in sums.items())
    # Without it, that machine's plan is another, and its sums round in another way.
    others, other_rows = sums_of()
    assert other_rows != rows
    assert not all(torch.equal(others[name], g) for name, g in sums.items())
    assert_close(others, sums, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("row", [{"use": "a", "problem": "b", "norm": "ghost"}, {}, None])
def test_a_damaged_plan_is_refused(row):
    with pytest.raises(EngineError, match=r"the plan has a row without.*Delete plan.json"):
        PrivacyEngine(network(), clip_norm=1.0).load_plan([row])


def test_a_rehearsal_leaves_no_gradient_and_decides_nothing(monkeypatch):
    calls = []
    plain = costs_that_favour("ghost")

    def measured(product: Any, workspace: int) -> Costs:
        calls.append(product.num_samples)
        return plain(product, workspace)

    monkeypatch.setattr("dpexp.clipping.clipper.measured", measured)
    model = network()
    engine = PrivacyEngine(model, clip_norm=1.0)
    engine.rehearse(weighted_outputs(model(images(2))))
    assert all(p.grad is None for p in model.parameters())
    assert not calls
    engine.backward(weighted_outputs(model(images(9))))
    assert set(calls) == {9}
    model_alone = network()
    alone = PrivacyEngine(model_alone, clip_norm=1.0)
    alone.backward(weighted_outputs(model_alone(images(9))))
    assert engine.plan_rows() == alone.plan_rows()
    model.zero_grad()
    engine.rehearse(weighted_outputs(model(images(0))))  # refuses nothing, and finds nothing
    assert all(p.grad is None for p in model.parameters())


def test_a_rehearsal_refuses_what_a_step_would():
    model = network()
    engine = PrivacyEngine(model, clip_norm=1.0)
    with pytest.raises(EngineError, match="shape"):
        engine.rehearse(weighted_outputs(model(images(2))).mean())
    with pytest.raises(CrossSampleError, match="the loss of one sample"):
        engine.rehearse(weighted_outputs(model(images(4))).cumsum(0))
