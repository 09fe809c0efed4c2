"""What would give a clipped gradient that is silently wrong, each seen once without an error."""

import math

import pytest
import torch
from networks import EXACT, check_clipping, images, network
from reference.gradients import randomise_, weighted_outputs
from rule_case import Apply
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from dpexp.clipping.engine import PrivacyEngine
from dpexp.clipping.proof import parts
from dpexp.clipping.rules.decompose import attention
from dpexp.errors import ConfigError, CrossSampleError, EngineError, UncoveredParameterError

NUMBERS = {"clip_norm": 1.0, "noise_multiplier": 1.0, "expected_batch_size": 4}


def batch(n: int = 4, t: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, t, 5, generator=generator, dtype=torch.float64)


def apply(function, **shapes):
    return randomise_(Apply(function, **shapes).double())


def cat_sequence_first(x: Tensor, token: Tensor) -> Tensor:
    x = x.transpose(0, 1)
    return torch.cat([x, token.expand(*x.shape[:2], 3)], 2).transpose(0, 1)


ELSEWHERE = {
    "cat": lambda: apply(cat_sequence_first, token=(8, 1, 3)),
    "conv1d": lambda: apply(
        lambda x, w: F.conv1d(x.permute(1, 2, 0), w).permute(2, 0, 1), w=(3, 5, 1)
    ),
    "elementwise": lambda: apply(
        lambda x, p: (x.transpose(0, 1) + p.expand(x.shape[0], 5)).transpose(0, 1), p=(1, 5)
    ),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_rule_that_takes_samples_first_refuses_them_elsewhere(name):
    model = ELSEWHERE[name]()
    engine = PrivacyEngine(model, clip_norm=1.0)
    with pytest.raises(CrossSampleError, match=f"{name}.* with the samples along axis"):
        engine.backward(weighted_outputs(model(batch())))


def branch_sequence_first(x: Tensor, w: Tensor, z: Tensor, v: Tensor, b: Tensor, u: Tensor):
    hidden = F.linear(F.linear(x, z).transpose(0, 1), v, b).transpose(0, 1)
    return F.linear(x, w) + F.linear(hidden.relu(), u)


def test_the_sample_axis_is_found_where_nothing_moves():
    shapes = {"w": (3, 5), "z": (5, 5), "v": (5, 5), "b": (5,), "u": (3, 5)}
    model = Apply(branch_sequence_first, **shapes).double()
    randomise_(model)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        model.z.zero_()
        model.u.zero_()
    x = batch(4, 12)
    engine = PrivacyEngine(model, clip_norm=1e9)
    engine.backward(weighted_outputs(model(x)))
    model.load_state_dict(start)
    model.zero_grad()
    norms = engine.backward(weighted_outputs(model(x)))
    for i in range(4):
        grads = torch.autograd.grad(
            weighted_outputs(model(x[i : i + 1])).sum(), list(model.parameters())
        )
        expected = math.sqrt(sum(float(g.square().sum()) for g in grads))
        assert float(norms[i]) == pytest.approx(expected, rel=1e-10)


ONE_LOSS = {
    "mean": lambda losses: losses.mean().unsqueeze(0),
    "pairs": lambda losses: losses.view(2, 2).mean(1),
}


@pytest.mark.parametrize("name", ONE_LOSS)
def test_a_loss_of_several_samples_is_refused(name):
    model = network()
    engine = PrivacyEngine(model, clip_norm=1.0)
    losses = ONE_LOSS[name](weighted_outputs(model(images(4))))
    with pytest.raises(EngineError, match="every sample needs a loss of its own"):
        engine.backward(losses)


@pytest.mark.parametrize("n", [2, 3, 6, 17, 256])
def test_parts_tell_every_two_samples_apart(n):
    table = torch.stack(list(parts(n))).double()
    apart = table.T @ (1 - table)  # (i, j): parts with i and without j
    assert (apart + torch.eye(n) > 0).all()
    assert len(table) <= 11


def test_a_loss_that_mixes_two_samples_alone_is_refused():
    model = network()
    engine = PrivacyEngine(model, clip_norm=1.0)
    losses = weighted_outputs(model(images(4)))
    with pytest.raises(CrossSampleError, match="the loss of one sample"):
        engine.backward(losses + F.pad(losses[2:3], (1, 2)))


def test_another_loss_is_proved_again():
    model = network()
    engine = PrivacyEngine(model, clip_norm=1.0)
    engine.backward(weighted_outputs(model(images(4))))
    with pytest.raises(CrossSampleError, match="the loss of one sample"):
        engine.backward(weighted_outputs(model(images(4))).cumsum(0))


LATER = {
    "in a larger batch": lambda x, w: F.linear(x - x.mean(0) if len(x) > 3 else x, w),
    "without a gradient": lambda x, w: (lambda y: y - y.detach().mean(0))(F.linear(x, w)),
}


@pytest.mark.parametrize("name", LATER)
def test_mixing_that_leaves_no_gradient_is_refused(name):
    model = apply(LATER[name], w=(3, 5))
    engine = PrivacyEngine(model, clip_norm=1.0)
    with pytest.raises(CrossSampleError, match="the model mixes samples"):
        engine.backward(weighted_outputs(model(batch())))


def test_other_calls_with_the_same_uses_are_proved_again():
    mixes = []
    model = apply(lambda x, w: F.linear(x - x.mean(0) if mixes else x, w), w=(3, 5))
    engine = PrivacyEngine(model, clip_norm=1.0)
    engine.backward(weighted_outputs(model(batch())))
    mixes.append(True)
    with pytest.raises(CrossSampleError, match="the model mixes samples"):
        engine.backward(weighted_outputs(model(batch())))


def test_a_loop_over_pieces_of_the_batch_is_refused():
    model = apply(lambda x, w: torch.cat([F.linear(y, w) for y in x.split(3)]), w=(3, 5))
    engine = PrivacyEngine(model, clip_norm=1.0)
    with pytest.raises(CrossSampleError, match="number of its inputs"):
        engine.backward(weighted_outputs(model(batch(4))))


def test_a_buffer_that_takes_in_the_samples_is_refused_and_the_proof_leaves_none():
    model = nn.InstanceNorm1d(8, affine=True, track_running_stats=True).double()
    engine = PrivacyEngine(model, clip_norm=1.0)
    losses = weighted_outputs(model(batch()))
    before = model.running_mean.clone()
    with pytest.raises(EngineError, match=r"buffer running_mean.*without noise"):
        engine.backward(losses)
    assert torch.equal(model.running_mean, before)


def test_buffers_made_of_parameters_alone_are_allowed():
    model = nn.utils.parametrizations.spectral_norm(nn.Linear(5, 3).double())
    engine = PrivacyEngine(model, clip_norm=1.0)
    assert engine.backward(weighted_outputs(model(batch()))).shape == (4,)


def test_complex_numbers_are_refused():
    def filtered(x: Tensor, w: Tensor) -> Tensor:
        return x + torch.fft.irfft(torch.fft.rfft(x) * torch.view_as_complex(w), n=5)

    PrivacyEngine(model := apply(filtered, w=(3, 2)), clip_norm=1.0)
    with pytest.raises(UncoveredParameterError, match=r"w in mul computes with complex numbers"):
        model(batch())


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrence_over_packed_sequences_is_refused(layer):
    class Packed(layer):
        def forward(self, x: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, [8, 7, 5, 2], batch_first=True)
            return nn.utils.rnn.pad_packed_sequence(super().forward(packed)[0], True)[0]

    model = Packed(5, 3, batch_first=True).double()
    PrivacyEngine(model, clip_norm=1.0)
    with pytest.raises(UncoveredParameterError, match=r"packed sequences .* freeze the layer"):
        model(batch())


def mixed_experts(x: Tensor, experts: Tensor) -> Tensor:
    """A convolution whose kernel each sample mixes for itself, samples as its groups."""
    n = len(x)
    kernels = (x.mean((2, 3)) @ experts).view(-1, 2, 3, 3)
    return F.conv2d(x.reshape(1, -1, 4, 4), kernels, groups=n).view(n, 3, 2, 2)


@pytest.mark.parametrize("algorithm", ["auto", "mixed_ghost", "instantiate"])
def test_kernels_that_each_sample_mixes_for_itself(algorithm):
    x = torch.randn(5, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    check_clipping(apply(mixed_experts, experts=(2, 54)), x, algorithm=algorithm)


def test_a_query_that_may_look_at_nothing_gets_zero_and_gives_no_gradient():
    generator = torch.Generator().manual_seed(3)
    query, key, value = torch.randn(3, 2, 4, 5, generator=generator, dtype=torch.float64)
    mask = torch.ones(4, 4, dtype=torch.bool).tril()
    mask[1] = False
    query.requires_grad_()
    found = attention(query, key, value, attn_mask=mask)
    assert_close(found, F.scaled_dot_product_attention(query, key, value, attn_mask=mask), **EXACT)
    (grad,) = torch.autograd.grad(found.square().sum(), query)
    assert grad.isfinite().all()
    assert grad[:, 2].any()
    assert not grad[:, 1].any()


def test_matrix_products_by_keyword():
    check_clipping(apply(lambda x, w: torch.matmul(input=x, other=w), w=(5, 3)), batch())


def test_a_model_that_calls_itself_is_refused_and_no_longer_watched():
    class Twice(nn.Linear):
        def forward(self, x: Tensor, *, is_inner: bool = False) -> Tensor:
            return super().forward(x) if is_inner else self(x, is_inner=True)

    PrivacyEngine(model := Twice(5, 3).double(), clip_norm=1.0)
    with pytest.raises(EngineError, match="calls itself"):
        model(batch())
    assert not torch.overrides._get_current_function_mode_stack()


@pytest.mark.parametrize("algorithm", ["auto", "ghost"])
@pytest.mark.parametrize("is_trainable_first", [False, True])
def test_a_parameter_frozen_or_unfrozen_later_is_refused(algorithm, is_trainable_first):
    model = network()
    weight = model.head.weight.requires_grad_(is_trainable_first)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    engine = PrivacyEngine(model, optimizer, algorithm=algorithm, **NUMBERS)
    weight.requires_grad_(not is_trainable_first)
    with pytest.raises(EngineError, match=r"frozen, unfrozen or replaced.*head.weight"):
        engine.backward(weighted_outputs(model(images(4))))
    with pytest.raises(EngineError, match=r"head.weight"):
        optimizer.step()


def test_a_gradient_of_a_parameter_the_engine_does_not_know_is_refused():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    PrivacyEngine(model, optimizer, **NUMBERS)
    other = nn.Parameter(torch.zeros(3))
    optimizer.add_param_group({"params": [other]})
    other.grad = torch.ones(3)
    with pytest.raises(EngineError, match=r"one of shape \(3,\)"):
        optimizer.step()
    assert not other.any()


def test_no_epsilon_is_claimed_where_nothing_is_clipped_or_noised():
    def epsilon(optimizer_of, **options):
        model = network()
        optimizer = optimizer_of(model)
        engine = PrivacyEngine(model, optimizer, sampling_rate=0.01, **NUMBERS, **options)
        engine.backward(weighted_outputs(model(images(4))))
        if optimizer is not None:
            optimizer.step()
        return engine.epsilon(1e-5)

    def sgd(model: nn.Module) -> torch.optim.SGD:
        return torch.optim.SGD(model.parameters(), lr=0.1)

    assert epsilon(sgd, algorithm="nonprivate") == math.inf
    assert epsilon(sgd) < 1
    with pytest.raises(EngineError, match="has no optimizer"):
        epsilon(lambda model: None)


BAD_OPTIONS = {
    "function": "foo", "style": "foo", "algorithm": "mixed-ghost", "split": "pergroup",
    "plan": "fast", "stability": -0.5, "workspace_mib": 0, "views": 1.5,
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_options_that_mean_nothing_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name}=.*{BAD_OPTIONS[name]}"):
        PrivacyEngine(network(), clip_norm=1.0, **{name: BAD_OPTIONS[name]})
