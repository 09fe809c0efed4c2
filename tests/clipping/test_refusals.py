"""What would void the guarantee is refused, in words that say what was found and what to do."""

import pytest
import torch
from networks import images, network
from reference.gradients import randomise_, weighted_outputs
from rule_case import Apply
from torch import Tensor, nn
from torch.nn import functional as F

from dpexp.clipping.engine import PrivacyEngine
from dpexp.errors import ConfigError, CrossSampleError, EngineError, UncoveredParameterError
from dpexp.mechanism import Mechanism

NUMBERS = {"clip_norm": 1.0, "noise_multiplier": 1.0, "expected_batch_size": 4}
MECHANISM = Mechanism(**NUMBERS, sampling_rate=0.1, num_steps=3)


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1)


BAD_ARGUMENTS = {
    "clip_norm missing": (dict, {}, ConfigError, "clip_norm is missing"),
    "noise missing": (sgd, {"clip_norm": 1.0}, ConfigError, "both"),
    "mechanism and numbers": (
        sgd, {**NUMBERS, "mechanism": MECHANISM}, ConfigError, "not both",
    ),
    "mechanism and rate": (
        sgd, {"mechanism": MECHANISM, "sampling_rate": 0.1}, ConfigError, "not both",
    ),
    "clip_norm zero": (dict, {"clip_norm": 0.0}, ConfigError, "above 0, but is 0.0"),
    "sigma negative": (
        sgd, {**NUMBERS, "noise_multiplier": -1.0}, ConfigError, "at least 0, but is -1.0",
    ),
    "B zero": (
        sgd, {**NUMBERS, "expected_batch_size": 0}, ConfigError, "expected_batch_size .* is 0",
    ),
    "layerwise ghost": (
        dict, {"clip_norm": 1.0, "style": "layerwise", "algorithm": "ghost"}, ConfigError,
        "algorithm=ghost with style=layerwise.*use auto or instantiate",
    ),
    "paramwise nonprivate": (
        dict, {"clip_norm": 1.0, "style": "paramwise", "algorithm": "nonprivate"}, ConfigError,
        "algorithm=nonprivate with style=paramwise",
    ),
    "no views": (dict, {"clip_norm": 1.0, "views": 0}, ConfigError, "views=0"),
    "optimizer lacks one": (
        lambda model: torch.optim.SGD(list(model.parameters())[1:], lr=0.1), NUMBERS, EngineError,
        "lacks 1 trainable parameter.*token",
    ),
    "optimizer holds more": (
        lambda model: torch.optim.SGD([*model.parameters(), nn.Parameter(torch.ones(1))], lr=0.1),
        NUMBERS, EngineError, "holds 1 trainable parameter.*that the model lacks",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_an_engine_that_cannot_keep_its_promise_is_not_built(name):
    make_optimizer, arguments, error, text = BAD_ARGUMENTS[name]
    model = network()
    optimizer = None if make_optimizer is dict else make_optimizer(model)
    with pytest.raises(error, match=text):
        PrivacyEngine(model, optimizer, **arguments)
    assert not model._forward_pre_hooks


def test_params_that_leave_one_out_are_refused():
    model = network()
    params = [p for name, p in model.named_parameters() if name != "head.bias"]
    with pytest.raises(EngineError, match=r"leaves out 1 .*head.bias"):
        PrivacyEngine(model, clip_norm=1.0, params=params)
    PrivacyEngine(model, clip_norm=1.0, params=model.parameters())


def test_a_frozen_model_and_a_second_engine_are_refused():
    model = network()
    PrivacyEngine(model, clip_norm=1.0)
    with pytest.raises(EngineError, match=r"already has a PrivacyEngine.*detach"):
        PrivacyEngine(model, clip_norm=1.0)
    with pytest.raises(EngineError, match="no trainable parameter"):
        PrivacyEngine(network().requires_grad_(False), clip_norm=1.0)


BAD_LOSSES = {
    "sum": (lambda model: weighted_outputs(model(images(4))).sum(), "one number per sample"),
    "mean": (lambda model: weighted_outputs(model(images(4))).mean(), "reduction='none'"),
    "matrix": (lambda model: model(images(4)), r"shape \(n,\), but is \(4, 3\)"),
    "list": (lambda model: list(weighted_outputs(model(images(4)))), "but is list"),
    "detached": (lambda model: weighted_outputs(model(images(4))).detach(), "have no gradient"),
}


@pytest.mark.parametrize("name", BAD_LOSSES)
def test_losses_that_are_not_one_number_a_sample_are_refused(name):
    losses_of, text = BAD_LOSSES[name]
    model = network()
    engine = PrivacyEngine(model, clip_norm=1.0)
    losses = losses_of(model)
    with pytest.raises(EngineError, match=text):
        engine.backward(losses)
    assert all(p.grad is None for p in model.parameters())


def test_losses_under_no_grad_are_refused():
    model = network()
    engine = PrivacyEngine(model, clip_norm=1.0)
    with torch.no_grad():
        losses = weighted_outputs(model(images(4)))
    with pytest.raises(EngineError, match="under no_grad, or detached"):
        engine.backward(losses)


def test_masks_and_views_must_fit_the_losses():
    model = network()
    engine = PrivacyEngine(model, clip_norm=1.0, views=3)
    with pytest.raises(EngineError, match="4 losses are no multiple of views=3"):
        engine.backward(weighted_outputs(model(images(4))))
    losses = weighted_outputs(model(images(6)))
    with pytest.raises(EngineError, match=r"mask has shape \(6,\) for 2 samples"):
        engine.backward(losses, mask=torch.ones(6, dtype=torch.bool))


PAST_THE_ENGINE = {
    "submodule": lambda model, x: weighted_outputs(model.head(model.stem(x).mean((2, 3)))),
    "penalty": lambda model, x: weighted_outputs(model(x)) + model.head.weight.square().sum(),
    "parameter after the model": lambda model, x: weighted_outputs(model(x) @ model.head.weight),
}


@pytest.mark.parametrize("name", PAST_THE_ENGINE)
def test_a_parameter_that_gets_past_the_engine_is_named(name):
    model = network()
    engine = PrivacyEngine(model, clip_norm=1.0)
    losses = PAST_THE_ENGINE[name](model, images(4))
    with pytest.raises(UncoveredParameterError, match=r"head.weight.*Call the model itself"):
        engine.backward(losses)


MIXING = {
    "softmax over the batch, before a use": lambda x, w: F.linear(x.softmax(0), w),
    "softmax over the batch, after the last use": lambda x, w: F.linear(x, w).softmax(0),
    "mean over the batch": lambda x, w: F.linear(x - x.mean(0), w),
    "rolled": lambda x, w: F.linear(x.roll(1, 0) + x, w),
    "sum of those before": lambda x, w: F.linear(x.cumsum(0), w),
    "sum of those after": lambda x, w: F.linear(x.flip(0).cumsum(0).flip(0), w),
    "batch times batch": lambda x, w: F.linear(x @ x.transpose(0, 1) @ x, w),
}


@pytest.mark.parametrize("algorithm", ["auto", "ghost"])
@pytest.mark.parametrize("name", MIXING)
def test_a_model_that_mixes_samples_is_refused(name, algorithm):
    model = randomise_(Apply(MIXING[name], w=(3, 4)).double())
    engine = PrivacyEngine(model, clip_norm=1.0, algorithm=algorithm)
    with pytest.raises(CrossSampleError, match="cannot be clipped alone"):
        engine.backward(weighted_outputs(model(torch.randn(4, 4, dtype=torch.float64))))
    assert not any(p.grad is not None and p.grad.any() for p in model.parameters())


def test_batch_normalisation_in_training_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    PrivacyEngine(model, clip_norm=1.0)
    with pytest.raises(CrossSampleError, match=r"batch normalisation.*model.norm=groupnorm"):
        model(torch.randn(4, 4))


MIXING_LOSSES = {
    "contrastive": lambda y: F.cross_entropy(y @ y.T, torch.arange(4), reduction="none"),
    "sum of those before": lambda y: weighted_outputs(y).cumsum(0),
    "sum of those after": lambda y: weighted_outputs(y).flip(0).cumsum(0).flip(0),
    "hidden state kept elsewhere": lambda y: weighted_outputs(y) + STATE[0].mean(),
}
STATE: list[Tensor] = []


@pytest.mark.parametrize("name", MIXING_LOSSES)
def test_a_loss_that_mixes_samples_is_refused(name):
    model = network()
    engine = PrivacyEngine(model, clip_norm=1.0)
    model.head.register_forward_pre_hook(lambda module, args: STATE.insert(0, args[0]))
    losses = MIXING_LOSSES[name](model(images(4)))
    with pytest.raises(CrossSampleError, match=r"the loss of one sample depends on other"):
        engine.backward(losses)


def test_the_check_of_the_losses_waits_for_a_finite_batch():
    model = network()
    engine = PrivacyEngine(model, clip_norm=1.0)
    engine.backward(weighted_outputs(model(images(4) * torch.inf)).cumsum(0))
    with pytest.raises(CrossSampleError, match="the loss of one sample"):
        engine.backward(weighted_outputs(model(images(4))).cumsum(0))


@pytest.mark.parametrize("options", [{"scale_grad_by_freq": True}, {"max_norm": 1.0}])
def test_an_embedding_that_counts_over_the_batch_is_refused(options):
    model = nn.Embedding(5, 3, **options)
    PrivacyEngine(model, clip_norm=1.0)
    with pytest.raises(CrossSampleError, match=f"embedding with {next(iter(options))}"):
        model(torch.arange(5)[:, None])


@pytest.fixture
def attached():
    model = network()
    optimizer = sgd(model)
    return model, optimizer, PrivacyEngine(model, optimizer, **NUMBERS)


def test_somebody_elses_gradient_is_refused_by_backward_and_by_step(attached):
    model, optimizer, engine = attached
    weighted_outputs(model(images(4))).sum().backward()
    with pytest.raises(EngineError, match="was not written by this engine"):
        engine.backward(weighted_outputs(model(images(4))))
    before = model.head.weight.clone()
    with pytest.raises(EngineError, match="was not written by this engine"):
        optimizer.step()
    assert torch.equal(model.head.weight, before)
    assert engine.num_steps == 0
    optimizer.zero_grad(set_to_none=False)  # zero is as good as none
    engine.backward(weighted_outputs(model(images(4))))


def test_a_gradient_changed_since_is_refused(attached):
    model, optimizer, engine = attached
    engine.backward(weighted_outputs(model(images(4))))
    weighted_outputs(model(images(4))).sum().backward()
    with pytest.raises(EngineError, match="or was changed since"):
        optimizer.step()


def test_a_second_step_on_the_same_noise_is_refused(attached):
    model, optimizer, engine = attached
    engine.backward(weighted_outputs(model(images(4))))
    optimizer.step()
    with pytest.raises(EngineError, match="zero_grad"):
        optimizer.step()
    assert engine.num_steps == 1


@pytest.mark.parametrize("call", [lambda o, f: o.step(f), lambda o, f: o.step(closure=f)])
def test_a_closure_is_refused(attached, call):
    _, optimizer, engine = attached
    with pytest.raises(EngineError, match="without a closure"):
        call(optimizer, lambda: 0.0)
    assert engine.num_steps == 0


def test_losses_of_another_model_are_refused():
    model, other = nn.Linear(4, 3), nn.Linear(4, 3)
    engine = PrivacyEngine(model, clip_norm=1.0)
    with pytest.raises(UncoveredParameterError, match="no trainable parameter of the model"):
        engine.backward(other(torch.randn(2, 4)).sum(1))


def test_an_operation_that_is_random_or_looks_at_the_whole_batch_is_refused():
    class Attention(nn.MultiheadAttention):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x, x, x, need_weights=False)[0]

    model = randomise_(Attention(4, 2, dropout=0.5, batch_first=True).double())
    engine = PrivacyEngine(model, clip_norm=1.0)
    x = torch.randn(4, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(CrossSampleError, match=r"multi_head_attention_forward.* or is random"):
        engine.backward(weighted_outputs(model(x)))
