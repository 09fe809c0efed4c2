"""Every style with every function against a loop over samples and groups."""

import math

import pytest
import torch
from networks import EXACT, gradients_of, images, network
from reference.clip import clipped_sum
from reference.gradients import by_loop, norms, trainable, weighted_outputs
from torch.testing import assert_close

from dpexp.clipping.engine import PrivacyEngine
from dpexp.clipping.styles import block_of, group_names, layer_of

BLOCK = ["norm.weight", "norm.bias", "fc.weight", "fc.bias"]
NAMES = list(trainable(network()))
GROUPS = {
    "flat": [NAMES],
    "layerwise": [
        ["token", "position"],
        ["stem.weight", "stem.bias"],
        *(
            [f"blocks.{i}.{name}" for name in names]
            for i in range(2)
            for names in (["scale"], BLOCK[:2], BLOCK[2:])
        ),
        ["head.weight", "head.bias"],
    ],
    "blockwise": [
        ["token"],
        ["position"],
        ["stem.weight", "stem.bias"],
        *([f"blocks.{i}.{name}" for name in ["scale", *BLOCK]] for i in range(2)),
        ["head.weight", "head.bias"],
    ],
    "paramwise": [[name] for name in NAMES],
}
FUNCTIONS = ["abadi", "global", "autos", "autov", "psac"]
STABILITY = 0.3


@pytest.mark.parametrize("split", ["equal", "per_group"])
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("style", GROUPS)
def test_each_group_is_clipped_to_its_bound(style, function, split):
    groups, grads = GROUPS[style], by_loop(network(), images(5))
    group_norms = torch.stack([norms({k: grads[k] for k in names}) for names in groups])
    bound = float(group_norms.median()) * 1.0001  # no norm is at the bound itself
    assert 0 < (group_norms > bound).sum() < group_norms.numel()
    total = bound * math.sqrt(len(groups))
    model = network()
    engine = PrivacyEngine(
        model, clip_norm=total if split == "equal" else bound, style=style, split=split,
        function=function, stability=STABILITY,
    )  # fmt: skip
    assert engine.mechanism.clip_norm == pytest.approx(total)
    assert sorted(map(sorted, engine.groups.values())) == sorted(map(sorted, groups))
    found = engine.backward(weighted_outputs(model(images(5))))
    assert_close(found, norms(grads), **EXACT)
    expected = clipped_sum(grads, groups, [bound] * len(groups), function, STABILITY)
    assert_close(gradients_of(model), expected, **EXACT)


@pytest.mark.parametrize("num_small", [0, 20, 4096])
@pytest.mark.parametrize("num_waiting", [0, 100, 2**60])
@pytest.mark.parametrize("style", GROUPS)
def test_what_waits_for_what_else_changes_nothing(style, num_waiting, num_small, monkeypatch):
    monkeypatch.setattr("dpexp.clipping.groups.WAITING_NUMBERS", num_waiting)
    monkeypatch.setattr("dpexp.clipping.groups.SMALL_NUMBERS", num_small)
    groups, grads = GROUPS[style], by_loop(network(), images(30))
    model = network()
    engine = PrivacyEngine(model, clip_norm=3.0, style=style)
    assert_close(engine.backward(weighted_outputs(model(images(30)))), norms(grads), **EXACT)
    bounds = [3.0 / math.sqrt(len(groups))] * len(groups)
    assert_close(gradients_of(model), clipped_sum(grads, groups, bounds, "abadi", 0.0), **EXACT)


@pytest.mark.parametrize("algorithm", ["mixed_ghost", "ghost", "fastgradclip", "instantiate"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_papers_algorithms_take_every_function(function, algorithm):
    grads = by_loop(network(), images(5))
    bound = float(norms(grads).median()) * 1.0001
    model = network()
    engine = PrivacyEngine(
        model, clip_norm=bound, algorithm=algorithm, function=function, stability=STABILITY
    )
    engine.backward(weighted_outputs(model(images(5))))
    expected = clipped_sum(grads, [NAMES], [bound], function, STABILITY)
    assert_close(gradients_of(model), expected, **EXACT)


@pytest.mark.parametrize("style", ["layerwise", "paramwise"])
def test_instantiate_clips_by_group_too(style):
    grads, model = by_loop(network(), images(5)), network()
    engine = PrivacyEngine(model, clip_norm=3.0, algorithm="instantiate", style=style)
    engine.backward(weighted_outputs(model(images(5))))
    bounds = [3.0 / math.sqrt(len(GROUPS[style]))] * len(GROUPS[style])
    expected = clipped_sum(grads, GROUPS[style], bounds, "abadi", 0.0)
    assert_close(gradients_of(model), expected, **EXACT)


@pytest.mark.parametrize(
    ("name", "layer", "block"),
    [
        ("head.weight", "head", "head"),
        ("cls_token", "", "cls_token"),
        ("blocks.11.attn.qkv.weight", "blocks.11.attn.qkv", "blocks.11"),
        ("stages.2.blocks.10.conv_dw.bias", "stages.2.blocks.10.conv_dw", "stages.2.blocks.10"),
        ("stages.2.downsample.0.weight", "stages.2.downsample.0", "stages.2"),
        ("layer3.1.conv2.weight", "layer3.1.conv2", "layer3.1"),
        ("features.0.weight", "features.0", "features.0"),
    ],
)
def test_layers_and_blocks_are_read_from_names(name, layer, block):
    assert (layer_of(name), block_of(name)) == (layer, block)


def test_groups_keep_the_order_of_the_model():
    names = ["b.weight", "a.weight", "b.bias"]
    assert group_names(names, "layerwise") == {"b": ["b.weight", "b.bias"], "a": ["a.weight"]}
    assert list(group_names(names, "paramwise")) == names
