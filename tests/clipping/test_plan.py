"""Which way a norm is taken: the paper's rule at its boundary, and what is fixed."""

import pytest
from networks import images, network
from reference.gradients import weighted_outputs

from dpexp.clipping.engine import PrivacyEngine
from dpexp.clipping.plan import choose_way, paper_rule, time_rule


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
    assert paper_rule(positions, inputs, outputs) == way


@pytest.mark.parametrize(
    ("positions", "inputs", "outputs", "way"),
    [
        (1, 500, 500, "ghost"),
        (1000, 10, 10, "instantiate"),  # the gradient is kept: 100 numbers for 20,000
        (10, 100, 100, "ghost"),  # 10^2 * 200 against 10 * 100 * 100
        (60, 100, 100, "instantiate"),  # 60^2 * 200 against 100 * 100, which is kept
        (45, 100, 100, "ghost"),  # 45^2 * 200 against 45 * 100 * 100: not kept
    ],
)
def test_the_rule_of_time_counts_what_a_kept_gradient_saves(positions, inputs, outputs, way):
    assert time_rule(positions, inputs, outputs) == way


def test_only_auto_heeds_the_plan():
    assert {choose_way("ghost", plan)(9, 1, 1) for plan in ("paper", "time")} == {"ghost"}
    for fixed in ("fastgradclip", "instantiate"):
        assert {choose_way(fixed, plan)(1, 9, 9) for plan in ("paper", "time")} == {"instantiate"}
    assert choose_way("mixed_ghost", "time") is choose_way("auto", "paper") is paper_rule
    assert choose_way("auto", "time") is time_rule


def test_the_engine_says_which_way_each_norm_was_taken():
    model = network()
    engine = PrivacyEngine(model, clip_norm=1.0, algorithm="mixed_ghost")
    engine.backward(weighted_outputs(model(images(3))))
    rows = {row["use"]: row for row in engine.plan_rows()}
    stem = rows["stem.weight, stem.bias in conv2d"]
    assert stem == {
        "use": "stem.weight, stem.bias in conv2d",
        "positions": 4, "inputs": 48, "outputs": 6, "way": "ghost",
    }  # fmt: skip
    assert rows["blocks.0.fc.weight, blocks.0.fc.bias in linear"]["way"] == "instantiate"
    assert len(rows) == 4
