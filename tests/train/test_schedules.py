"""Learning rates by their formula, and that a run takes its steps at them."""

import math

import pytest
from runs import metrics, train

from dpexp.config import OptimizerConfig, ScheduleConfig
from dpexp.train.optimization import build_optimizer, lr_factor


def factors(num_steps, **keys):
    return [lr_factor(ScheduleConfig(**keys), step, num_steps) for step in range(num_steps)]


def test_constant_is_one():
    assert factors(3) == [1.0, 1.0, 1.0]


def test_warmup_rises_by_equal_amounts_and_reaches_one():
    assert factors(5, warmup_steps=3) == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 1])


def test_cosine_falls_along_half_a_cosine():
    expected = [(1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    assert factors(8, name="cosine") == pytest.approx(expected)


def test_cosine_after_warmup_falls_to_its_final_factor():
    found = factors(10, name="cosine", warmup_steps=2, final_factor=0.2)
    assert found[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert found[6] == pytest.approx(0.2 + 0.8 / 2)  # half way
    assert found[9] == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi * 7 / 8)) / 2)


def test_a_run_takes_its_steps_at_the_scheduled_rate(tmp_path):
    folder = train(tmp_path, "schedule=cosine", "optimizer.lr=0.4")
    expected = [0.4 * (1 + math.cos(math.pi * step / 3)) / 2 for step in range(3)]
    assert [row["lr"] for row in metrics(folder)] == pytest.approx(expected)


def test_a_warmup_that_outlasts_the_run_is_said(tmp_path, capsys):
    train(tmp_path, "schedule.warmup_steps=9")
    assert "warmup_steps=9 is no shorter than the run: the learning rate gets to 0.3" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_every_number_reaches_the_optimizer(name):
    config = OptimizerConfig(
        name, lr=0.3, momentum=0.0 if name != "sgd" else 0.8, weight_decay=0.1, betas=[0.5, 0.6],
        adam_eps=1e-3,
    )  # fmt: skip
    import torch

    optimizer = build_optimizer(config, [torch.nn.Parameter(torch.zeros(1))])
    assert type(optimizer).__name__.lower() == name
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.3, 0.1)
    if name == "sgd":
        assert (group["momentum"], group["dampening"], group["nesterov"]) == (0.8, 0, False)
    else:
        assert (group["betas"], group["eps"]) == ((0.5, 0.6), 1e-3)
