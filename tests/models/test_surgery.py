"""What is changed in a network: BatchNorm, in-place layers, which parameters train."""

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d
from torch import nn
from torch.testing import assert_close

from dpexp.config import ModelConfig
from dpexp.errors import ModelError
from dpexp.models.build import build
from dpexp.models.surgery import num_groups, replace_batch_norms, switch_off_inplace
from dpexp.models.trainable import choose_trainable


@pytest.mark.parametrize(
    ("num_channels", "groups"),
    [(64, 32), (32, 16), (512, 32), (48, 24), (96, 32), (40, 20), (90, 30), (6, 3), (7, 1), (1, 1)],
)
def test_groups_divide_the_channels_and_hold_more_than_one(num_channels, groups):
    assert num_groups(num_channels) == groups


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "mobilenetv3_small_050"])
def test_no_layer_mixes_samples_after_replacement(name):
    original = timm.create_model(name)
    norms = {
        path: type(part).__name__
        for path, part in original.named_modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
    }
    built = build(ModelConfig(name=name, image_size=32), num_classes=10, seed=0)
    assert built.replaced_norms == norms
    (note,) = [note for note in built.notes if "replaced by GroupNorm" in note]
    assert note.startswith(f"{len(norms)} BatchNorm layers")
    assert next(iter(norms)) in note

    # One sample is another's neighbour in the batch, and must not be seen in its logits.
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    other = torch.cat([images[:1], 5 * images[1:]])
    with torch.no_grad():
        assert_close(built.module(images)[0], built.module(other)[0], rtol=1e-4, atol=1e-5)


def test_scale_shift_and_eps_carry_over():
    module = nn.Sequential(nn.BatchNorm2d(8, eps=0.1), nn.BatchNorm1d(6, affine=False))
    nn.init.normal_(module[0].weight)
    nn.init.normal_(module[0].bias)
    weight, bias = module[0].weight, module[0].bias
    assert replace_batch_norms(module) == {"0": "BatchNorm2d", "1": "BatchNorm1d"}
    assert isinstance(module[0], nn.GroupNorm)
    assert (module[0].num_groups, module[0].eps) == (4, 0.1)
    assert module[0].weight is weight
    assert module[0].bias is bias
    assert module[1].weight is None


def test_a_fused_activation_stays():
    norm = BatchNormAct2d(8, act_layer=nn.SiLU)
    module = nn.Sequential(norm)
    replace_batch_norms(module)
    x = torch.randn(2, 8, 3, 3)
    expected = nn.functional.silu(nn.functional.group_norm(x, 4))
    assert_close(module(x), expected)


def test_a_frozen_batch_norm_is_a_fixed_map_and_stays():
    frozen = FrozenBatchNormAct2d(8)
    module = nn.Sequential(frozen)
    assert replace_batch_norms(module) == {}
    assert module[0] is frozen


def test_a_batch_norm_of_unknown_kind_is_refused_by_name():
    class Strange(nn.BatchNorm2d):
        pass

    with pytest.raises(ModelError, match=r"0 \(Strange\): a BatchNorm of a kind"):
        replace_batch_norms(nn.Sequential(Strange(4)))


def test_batch_norm_is_kept_on_request_and_said_to_mix_samples():
    built = build(ModelConfig(name="resnet18_cifar", norm="keep"), num_classes=10, seed=0)
    assert built.replaced_norms == {}
    assert sum(isinstance(part, nn.BatchNorm2d) for part in built.module.modules()) == 20
    assert any("20 BatchNorm layers kept" in n and "will be refused" in n for n in built.notes)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_no_layer_works_in_place(name):
    built = build(ModelConfig(name=name, image_size=32), num_classes=2, seed=0)
    original = timm.create_model(name, num_classes=2)
    count = sum(getattr(part, "inplace", False) is True for part in original.modules())
    assert count > 0
    assert not any(getattr(part, "inplace", False) for part in built.module.modules())
    assert f"{count} in-place layers switched to return new tensors" in built.notes


def test_in_place_layers_are_counted():
    module = nn.Sequential(nn.ReLU(inplace=True), nn.Dropout(inplace=True), nn.ReLU(), nn.Tanh())
    assert switch_off_inplace(module) == 2
    x = torch.randn(4)
    kept = x.clone()
    module[0](x)
    assert torch.equal(x, kept)


# Trainable parameters.


def trained(name, trainable):
    built = build(ModelConfig(name=name, trainable=trainable, image_size=32), num_classes=2, seed=0)
    params = dict(built.module.named_parameters())
    names = {key for key, param in params.items() if param.requires_grad}
    assert built.num_trainable == sum(params[key].numel() for key in names)
    return built, names, set(params)


@pytest.mark.parametrize(
    ("name", "trainable", "expected"),
    [
        ("vit_tiny_patch16_224", "head", {"head.weight", "head.bias"}),
        ("resnet18", "head", {"fc.weight", "fc.bias"}),
        ("resnet18_cifar", "head", {"head.weight", "head.bias"}),
        ("resnet18", "conv1.weight, fc.*", {"conv1.weight", "fc.weight", "fc.bias"}),
    ],
)
def test_chosen_parameters_train_and_no_others(name, trainable, expected):
    built, names, every = trained(name, trainable)
    assert names == expected
    assert any(
        note.startswith(f"frozen: {len(every) - len(expected)} parameter tensors")
        for note in built.notes
    )
    assert f"trainable: {built.num_trainable:,} of {built.num_params:,}" in " ".join(built.notes)


def test_bias_means_every_bias_and_the_classifier():
    _, names, every = trained("vit_tiny_patch16_224", "bias")
    assert names == {name for name in every if name.endswith(".bias")} | {"head.weight"}


def test_all_heads_of_a_distilled_model_are_its_classifier():
    _, names, _ = trained("deit_tiny_distilled_patch16_224", "head")
    assert names == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


@pytest.mark.parametrize(
    ("trainable", "pattern"), [("nothing", "nothing"), ("fc.*,cnv1*", "cnv1"), ("", "''")]
)
def test_a_pattern_without_a_match_is_refused(trainable, pattern):
    config = ModelConfig(name="resnet18", trainable=trainable)
    with pytest.raises(ModelError, match=rf"{pattern}.* matches no parameter.*conv1.weight"):
        build(config, num_classes=2, seed=0)


def test_what_the_architecture_fixes_stays_fixed_and_is_named():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module.get_classifier = lambda: module[1]
    module[0].weight.requires_grad_(False)
    notes = choose_trainable(module, "all")
    assert not module[0].weight.requires_grad
    assert "fixed by the architecture itself: 0.weight" in notes
    choose_trainable(module, "0.weight")
    assert module[0].weight.requires_grad
    assert not module[1].weight.requires_grad
