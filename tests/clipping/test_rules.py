"""Every clipping rule against per-sample gradients that autograd computes alone, in float64."""

import warnings
from functools import cache

import pytest
import torch
from expression_cases import EXPRESSIONS
from layer_cases import LAYERS
from reference.gradients import by_loop, norms, trainable, weighted, weighted_outputs
from torch import Tensor, nn
from torch.testing import assert_close

from dpexp.clipping.engine import PrivacyEngine
from dpexp.clipping.groups import Group
from dpexp.clipping.per_sample import Dense, PerSampleGrad, Summed
from dpexp.clipping.plan import KEPT, Problem, Way
from dpexp.clipping.proof import uses_reached
from dpexp.clipping.rules.convolution_outer import ConvolutionOuter
from dpexp.clipping.rules.general import General
from dpexp.clipping.rules.outer import Outer

CASES = {**LAYERS, **EXPRESSIONS}
EXACT = {"rtol": 1e-10, "atol": 1e-11}
NUM_SAMPLES = 5
WEIGHTS = torch.tensor([0.0, 1.0, 0.5, 2.0, 1e-3], dtype=torch.float64)
DROPPED = torch.tensor([False, True, False, False, True])


@cache
def reference(name: str, n: int = NUM_SAMPLES) -> dict[str, Tensor]:
    return CASES[name].reference(n)


def first_way(problem: Problem) -> Way:
    return Way(problem.norms[0].name, problem.sums[0][0])


@cache
def ways(name: str) -> list[Way | None]:
    """Every way that the products of a case can be taken; None if it has no product."""
    problems: list[Problem] = []

    def note(problem: Problem) -> Way:
        problems.append(problem)
        return first_way(problem)

    case = CASES[name]
    model = case.model()
    engine = PrivacyEngine(model, clip_norm=1.0)
    engine._clipper.planner.rule = note
    engine.backward(weighted_outputs(model(case.samples(NUM_SAMPLES))))
    assert bool(problems) == case.has_ways
    if not problems:
        return [None]
    problem = problems[0]
    norm, total = first_way(problem)
    return [
        *(Way(each.name, total) for each in problem.norms),
        *(Way(norm, each) for each, _ in problem.sums[1:]),
        *(Way(each.name, KEPT) for each in problem.norms if each.name.startswith("inst")),
    ]


@cache
def handed_over(name: str, way: Way | None) -> dict[str, PerSampleGrad]:
    """What the engine is given for each parameter, in the form it comes in."""
    case = CASES[name]
    model, x = case.model(), case.samples(NUM_SAMPLES)
    terms: dict[nn.Parameter, list[PerSampleGrad]] = {}
    add = Group.add

    def recording(group, param, grad, workspace):
        terms.setdefault(param, []).append(grad)
        add(group, param, grad, workspace)

    def choose(problem: Problem) -> Way:
        names = {each.name for each in problem.norms}, {each for each, _ in problem.sums} | {KEPT}
        is_known = way is not None and way.norm in names[0] and way.sum in names[1]
        return way if way is not None and is_known else first_way(problem)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Group, "add", recording)
        engine = PrivacyEngine(model, clip_norm=1.0)
        engine._clipper.planner.rule = choose
        engine.backward(weighted_outputs(model(x)))
    taken = {(row["norm"], row["sum"]) for row in engine.plan_rows()}
    assert way in taken if way else not taken
    names = {p: n for n, p in model.named_parameters()}
    return {names[p]: t[0] if len(t) == 1 else Summed(tuple(t)) for p, t in terms.items()}


EVERY_WAY = [(name, way) for name in CASES for way in ways(name)]


@pytest.fixture(params=EVERY_WAY, ids=str)
def grads(request) -> tuple[dict[str, PerSampleGrad], dict[str, Tensor]]:
    """The gradients of every parameter of a case as the engine holds them, and as they are."""
    name, way = request.param
    return handed_over(name, way), reference(name)


@pytest.mark.parametrize("name", CASES)
def test_a_case_meets_the_operations_it_is_for(name):
    case = CASES[name]
    model = case.model()
    engine = PrivacyEngine(model, clip_norm=1.0)
    losses = weighted_outputs(model(case.samples(NUM_SAMPLES)))
    names = {p: n for n, p in model.named_parameters() if p.requires_grad}
    uses = uses_reached(losses, names).uses
    found = " ".join(use.operation.name for use in uses)
    assert found + " general" * isinstance(uses[0].operation, General) == case.uses
    assert {p for use in uses for e in use.expressions for p in e.params} == set(names)
    size = {n: norms({n: g}) for n, g in reference(name).items()}
    assert all((s.median() > 1e-3).all() for s in size.values()), "a gradient of zero tests nothing"
    engine.detach()


def test_per_sample_gradients(grads):
    held, expected = grads
    assert set(held) == set(expected)
    for name, grad in held.items():
        assert grad.num_samples == NUM_SAMPLES
        assert grad.shape == expected[name].shape[1:]
        assert_close(grad.per_sample(slice(0, NUM_SAMPLES)), expected[name], **EXACT)
        assert_close(grad.per_sample(slice(1, 3)), expected[name][1:3], **EXACT)


@pytest.mark.parametrize("workspace", [1, 2**30])
def test_squared_norms(grads, workspace):
    held, expected = grads
    for name, grad in held.items():
        squares = norms({name: expected[name]}).square()
        assert_close(grad.squared_norms(workspace), squares, **EXACT)


def test_weighted_sums(grads):
    held, expected = grads
    sums = {name: grad.weighted_sum(WEIGHTS) for name, grad in held.items()}
    assert_close(sums, weighted(expected, WEIGHTS), **EXACT)


@pytest.mark.parametrize("num_instantiated", [1, 2**20])
def test_compact_forms_are_the_same_gradients_and_no_larger_unless_the_plan_keeps_them(
    grads, num_instantiated, monkeypatch
):
    monkeypatch.setattr("dpexp.clipping.per_sample.INSTANTIATED", num_instantiated)
    held, expected = grads
    for name, grad in held.items():
        compact = grad.compact()
        is_kept = isinstance(grad, Outer | ConvolutionOuter) and grad.way.sum == KEPT
        assert isinstance(compact, Dense) if is_kept else compact.num_held <= grad.num_held
        assert_close(compact.per_sample(slice(0, NUM_SAMPLES)), expected[name], **EXACT)
        assert_close(compact.squared_norms(64), norms({name: expected[name]}).square(), **EXACT)
        wanted = weighted({name: expected[name]}, WEIGHTS)[name]
        assert_close(compact.weighted_sum(WEIGHTS), wanted, **EXACT)


@pytest.mark.parametrize("is_compact", [False, True])
def test_dropped_samples_are_zero_and_others_unchanged(grads, is_compact):
    held, expected = grads
    kept = (~DROPPED).double()
    for name, grad in held.items():
        left = (grad.compact() if is_compact else grad).zero_where(DROPPED)
        found = left.per_sample(slice(0, NUM_SAMPLES))
        assert not found[DROPPED].any()
        assert_close(found[~DROPPED], expected[name][~DROPPED], **EXACT)
        wanted = weighted({name: expected[name]}, kept)[name]
        assert_close(left.weighted_sum(torch.ones_like(kept)), wanted, **EXACT)


@pytest.mark.parametrize(
    ("algorithm", "n"), [("auto", 1), ("auto", 5), ("mixed_ghost", 5), ("instantiate", 5)]
)
@pytest.mark.parametrize("name", CASES)
def test_the_engine_clips_each_case_to_the_median_norm(name, algorithm, n):
    case, expected = CASES[name], reference(name, n)
    model = case.model()
    size = norms(expected)
    bound = float(size.median()) if n > 1 else 0.5 * float(size)
    assert 0 < (size > bound).sum() < max(n, 2)
    engine = PrivacyEngine(model, clip_norm=bound, algorithm=algorithm)
    found = engine.backward(weighted_outputs(model(case.samples(n))))
    assert_close(found, size, **EXACT)
    wanted = weighted(expected, (bound / size).clamp(max=1))
    assert_close({k: model.get_parameter(k).grad for k in wanted}, wanted, **EXACT)


def watched_or_not(name: str, model: nn.Module) -> tuple[Tensor, ...]:
    """Outputs of a case, and the gradient of its inputs where they have one."""
    x = CASES[name].samples(NUM_SAMPLES)
    y = model(x.requires_grad_(x.is_floating_point()))
    if not x.requires_grad:
        return (y,)
    return y, *torch.autograd.grad(y.sin().sum(), [x], materialize_grads=True)


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_input_gradients_are_those_of_the_plain_model(name):
    expected = watched_or_not(name, CASES[name].model())
    PrivacyEngine(model := CASES[name].model(), clip_norm=1.0)
    assert_close(watched_or_not(name, model), expected, **EXACT)


@pytest.mark.parametrize("name", CASES)
def test_under_autocast_norms_are_those_of_the_same_loop(name):
    case = CASES[name]
    model, x = case.model().float(), case.samples(NUM_SAMPLES)
    x = x.float() if x.is_floating_point() else x
    with torch.autocast("cpu", torch.bfloat16):
        expected = norms(by_loop(model, x, lambda y: weighted_outputs(y.float())))
        engine = PrivacyEngine(model, clip_norm=1e-3)
        losses = weighted_outputs(model(x).float())
    found = engine.backward(losses)
    assert found.dtype == torch.float32
    # The general way takes gradients in float32, which the loop does not.
    assert_close(found, expected, rtol=0.1 if "multi_head" in case.uses else 2e-2, atol=0)
    added = norms({n: p.grad[None] for n, p in trainable(model).items()})
    assert added <= 1e-3 * NUM_SAMPLES * (1 + 1e-5)


@pytest.mark.parametrize("name", CASES)
def test_an_empty_batch_of_each_case_has_a_gradient_of_zero(name):
    case = CASES[name]
    model = case.model()
    engine = PrivacyEngine(model, clip_norm=1.0)
    with warnings.catch_warnings(action="ignore"):  # torch's, of a variance of nothing
        losses = weighted_outputs(model(case.samples(NUM_SAMPLES)[:0]))
    assert engine.backward(losses).shape == (0,)
    assert all(not p.grad.any() for p in model.parameters() if p.requires_grad)
