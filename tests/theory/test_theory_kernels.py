"""Kernels against a loop over outputs and parameters, spectra against their twin, the identity."""

import math

import pytest
import torch

from dpexp.theory import identity, kernels, states
from dpexp.theory.flow import Clip, largest_rise, losses_along, steps_of
from dpexp.theory.kernels import tangent_at
from dpexp.theory.page import cell_of
from dpexp.theory.spectra import asymmetry, distance_from_scalar, lowest_form, spectrum_of
from dpexp.theory.spectra_claims import judge_spectra, look_at, twin_gap
from dpexp.theory.subjects import Subject, all_subjects, cnn, digits, mlp, regression


@pytest.fixture(scope="module")
def subject() -> Subject:
    x, y = regression(5, 3, 2, seed=0)
    return Subject("small", lambda: mlp(3, (4,), 2, torch.nn.Tanh), x, y, "squared")


@pytest.fixture(scope="module")
def image_subject() -> Subject:
    images, labels = digits()
    return Subject("images", lambda: cnn(10), images[:3], labels[:3], "cross entropy")


def rows_by_loop(subject, model):
    """Return df/dw as a loop over samples and outputs has it: layer -> (nK, its parameters)."""
    rows: dict[str, list] = {}
    for x in subject.inputs:
        for k in range(model(x[None]).shape[1]):
            params = dict(model.named_parameters())
            grads = torch.autograd.grad(model(x[None])[0, k], list(params.values()))
            layers: dict[str, list] = {}
            for name, grad in zip(params, grads, strict=True):
                layers.setdefault(name.split(".")[0], []).append(grad.flatten())
            for layer, parts in layers.items():
                rows.setdefault(layer, []).append(torch.cat(parts))
    return {layer: torch.stack(r) for layer, r in rows.items()}


def norms_by_loop(subject, model):
    """Return |g_i| of each sample by its own backward pass, whole and by layers."""
    whole, layered = [], []
    for i in range(len(subject.inputs)):
        one = Subject("one", subject.build, subject.inputs[i : i + 1],
                      subject.targets[i : i + 1], subject.loss)  # fmt: skip
        params = dict(model.named_parameters())
        loss = one.losses(model(one.inputs)).sum()
        grads = torch.autograd.grad(loss, list(params.values()))
        squares: dict[str, float] = {}
        for name, grad in zip(params, grads, strict=True):
            layer = name.split(".")[0]
            squares[layer] = squares.get(layer, 0.0) + float(grad.square().sum())
        whole.append(math.sqrt(sum(squares.values())))
        layered.append([math.sqrt(s) for s in squares.values()])
    dtype = torch.float64
    return torch.tensor(whole, dtype=dtype), torch.tensor(layered, dtype=dtype).T


@pytest.mark.parametrize("name", ["subject", "image_subject"])
def test_kernels_and_norms_are_those_of_a_loop(name, request):
    subject = request.getfixturevalue(name)
    model = subject.network(3)
    tangent = tangent_at(model, subject)
    rows = rows_by_loop(subject, model)
    assert list(tangent.layers) == list(rows)
    for layer, row in rows.items():
        torch.testing.assert_close(tangent.layers[layer], row @ row.T, rtol=1e-12, atol=1e-14)
    whole = torch.cat(list(rows.values()), 1)
    torch.testing.assert_close(tangent.kernel, whole @ whole.T, rtol=1e-12, atol=1e-14)
    norms, layer_norms = norms_by_loop(subject, model)
    torch.testing.assert_close(tangent.norms, norms, rtol=1e-12, atol=0)
    torch.testing.assert_close(tangent.layer_norms, layer_norms, rtol=1e-12, atol=0)


def test_clipped_kernels_are_those_of_a_loop_over_entries(subject):
    tangent = tangent_at(subject.network(1), subject)
    bound = float(tangent.norms.median())
    bounds = [float(norms.median()) for norms in tangent.layer_norms]
    flat, layered = torch.zeros(10, 10), torch.zeros(10, 10)
    flat, layered = flat.double(), layered.double()
    for a in range(10):
        for b in range(10):
            factor = min(1.0, bound / float(tangent.norms[b // 2]))
            flat[a, b] = tangent.kernel[a, b] * factor
            for r, kernel in enumerate(tangent.layers.values()):
                own = min(1.0, bounds[r] / float(tangent.layer_norms[r, b // 2]))
                layered[a, b] += kernel[a, b] * own
    assert 0 < int((tangent.norms > bound).sum()) < len(tangent.norms)
    torch.testing.assert_close(tangent.flat(bound), flat, rtol=1e-13, atol=0)
    torch.testing.assert_close(tangent.layerwise(bounds), layered, rtol=1e-13, atol=1e-15)


def test_the_whole_gradient_has_the_norm_that_the_kernel_says(subject):
    model = subject.network(2)
    tangent = tangent_at(model, subject)
    loss = subject.losses(model(subject.inputs)).sum()
    grads = torch.autograd.grad(loss, list(model.parameters()))
    norm = float(torch.cat([grad.flatten() for grad in grads]).norm())
    assert tangent.batch_norm == pytest.approx(norm, rel=1e-12)
    half = tangent.batch(norm / 2)
    torch.testing.assert_close(half, tangent.kernel / 2, rtol=1e-12, atol=0)
    assert torch.equal(tangent.batch(2 * norm), tangent.kernel)


def test_measures_of_matrices_whose_answers_are_known():
    rotation = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    assert asymmetry(rotation) == pytest.approx(2.0)
    assert spectrum_of(rotation).largest_imaginary == pytest.approx(1.0)
    assert lowest_form(torch.diag(torch.tensor([4.0, -1.0]))) == pytest.approx(-0.25)
    sheared = torch.tensor([[1.0, 4.0], [0.0, 1.0]], dtype=torch.float64)
    assert lowest_form(sheared) == pytest.approx(-1 / 3)  # (A + A^T)/2 has 3 and -1
    eye = torch.eye(2, dtype=torch.float64)
    assert distance_from_scalar(3 * eye, eye) == 0.0
    dropped = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert distance_from_scalar(dropped, eye) == pytest.approx(math.sqrt(0.5))


def test_eigenvalues_of_a_flat_kernel_are_those_of_its_symmetric_twin():
    for state in states.states(3):
        assert twin_gap(state) < 1e-12


def test_the_twin_shows_a_factor_squared(monkeypatch):
    squared = lambda norms, bound, stability: (bound / norms).clamp(max=1) ** 2  # noqa: E731
    (state,) = states.states(1)
    twin = torch.linalg.eigvalsh(state.tangent.flat_twin(state.small))
    monkeypatch.setitem(kernels.FUNCTIONS, "abadi", squared)
    wrong = torch.linalg.eigvals(state.tangent.flat(state.small)).real.sort().values
    assert float((twin - wrong).abs().max() / twin.max()) > 1e-3


@pytest.mark.parametrize("style", identity.STYLES)
def test_one_step_of_the_engine_lowers_the_loss_as_the_kernel_says(style):
    (state,) = states.states(1)
    found = identity.compare(state, style)
    assert found.judged < 1e-4
    # The error is of first order in lr.
    assert found.errors[0] / found.errors[1] == pytest.approx(10, rel=0.05)


def test_a_wrong_factor_is_found_by_the_identity(monkeypatch):
    (state,) = states.states(1)
    good = identity.compare(state, "flat")
    # Only the kernel's side is changed: the engine has looked its function up already.
    wrong = {**kernels.FUNCTIONS, "abadi": lambda norms, bound, s: bound / (norms + 0.1 * bound)}
    monkeypatch.setattr(kernels, "FUNCTIONS", wrong)
    bad = identity.compare(state, "flat")
    assert identity.judge_identity([good, _as_layerwise(good)]).verdicts[0].outcome == "reproduced"
    verdict = identity.judge_identity([bad, _as_layerwise(good)]).verdicts[0]
    assert bad.judged > 0.05
    assert verdict.outcome == "not reproduced"


def _as_layerwise(found):
    return identity.Identity("layerwise", found.errors)


def test_verdicts_on_kernels_at_a_few_states():
    looks = [look_at(state) for state in states.states(6)]
    found = judge_spectra(looks)
    outcomes = {verdict.claim: verdict.outcome for verdict in found.verdicts}
    assert outcomes == {
        "A2": "reproduced", "A3": "reproduced", "A4": "reproduced", "A17": "not reproduced",
    }  # fmt: skip
    table = found.numbers["spectra"]["table"]
    for row in ("none", "batch", "large R, flat", "large R, layerwise"):
        assert set(table[row].values()) == {6}
    assert table["small R, flat"] == {"symmetric": 0, "form": 0, "eigenvalues": 6}
    for look in looks:
        for case in look["global"]:
            is_scalar = case["distance"] < 1e-12
            assert is_scalar == (case["fraction"] in (0.0, 1.0))


def test_a_cell_says_where_a_guarantee_broke():
    assert cell_of(True, 5, 5) == "yes: 5 of 5"
    assert cell_of(True, 4, 5) == "yes: 4 of 5 **fails**"
    assert cell_of(False, 4, 5) == "no: 4 of 5"
    assert cell_of(False, 5, 5) == "no: 5 of 5 *not seen*"


def test_a_large_bound_steps_as_no_clipping_does():
    subject = all_subjects()[4]
    plain = losses_along(subject.network(0), subject, Clip(math.inf), lr=1e-3, num_steps=5)
    for style in ("flat", "layerwise"):
        clip = Clip(1e6, style=style)
        large = losses_along(subject.network(0), subject, clip, lr=1e-3, num_steps=5)
        assert large == pytest.approx(plain, rel=1e-12)
    steps = steps_of(subject.network(0), subject, Clip(1e6), lr=1e-3, num_steps=1)
    norms = next(steps).norms
    torch.testing.assert_close(norms, tangent_at(subject.network(0), subject).norms)


def test_the_largest_rise_is_over_the_lowest_loss_before():
    assert largest_rise([3.0, 2.0, 1.0]) == 0.0
    assert largest_rise([4.0, 2.0, 3.0, 1.0, 1.2]) == pytest.approx(0.5)
