"""The check of a model: right about what is exact, and able to find what is not."""

import pytest
import torch

from dpexp import selfcheck
from dpexp.cli.compose import compose
from dpexp.cli.main import main
from dpexp.clipping.per_sample import Dense
from dpexp.clipping.rules.linear import Linear
from dpexp.errors import ModelError

PASSES = {"auto": 1, "mixed_ghost": 2, "ghost": 2, "fastgradclip": 2, "instantiate": 1,
          "nonprivate": 1}  # fmt: skip


@pytest.fixture
def small():
    return compose(["model=digits_cnn"], command="selfcheck")


def table(capsys):
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    return {row[0]: row[1:] for row in rows if row[0] in PASSES}


def test_a_small_model_is_exact_and_each_algorithm_shows_its_passes(small, capsys):
    assert selfcheck.run(small) is True
    rows = table(capsys)
    assert {name: int(row[0]) for name, row in rows.items()} == PASSES
    assert all(float(row[1]) < 1e-12 and float(row[2]) < 1e-12 for row in rows.values())
    assert all(float(row[3]) > 0 for row in rows.values())


def test_every_parameter_counts_in_the_comparison(small):
    built, images = selfcheck.smallest(small)
    selfcheck.randomise(built.module)
    reference = selfcheck.reference_of(built.module, images, torch.arange(3))
    assert set(reference.clipped) == {name for name, _ in built.module.named_parameters()}
    assert selfcheck.tiny_gradients(reference) == []
    assert 0 < int((reference.norms > reference.clip_norm).sum()) < 3  # both sides of the clip


class Unmeasured(Dense):
    """A planted fault: a gradient that is left out of the norm."""

    def squared_norms(self, workspace):
        return torch.zeros(self.num_samples, dtype=torch.float64)


class Doubled(Dense):
    """A planted fault: a gradient that is summed twice."""

    def weighted_sum(self, weights):
        return 2 * super().weighted_sum(weights)


def plant(monkeypatch, fault):
    """Give the bias of every linear layer a faulty gradient."""
    right = Linear.param_grads

    def param_grads(self, saved, grad_y, axes, choose):
        weight, bias = right(self, saved, grad_y, axes, choose)
        return [weight, fault(bias.grads)]

    monkeypatch.setattr(Linear, "param_grads", param_grads)


def test_a_bias_left_out_of_the_norm_is_found(small, capsys, monkeypatch):
    plant(monkeypatch, Unmeasured)
    assert selfcheck.run(small) is False
    out = capsys.readouterr().out
    assert "verdict   NOT exact" in out
    for line in out.splitlines():
        if line.startswith(("auto ", "ghost ")):
            assert float(line.split()[2]) > 1e-4  # the norm itself is wrong
            assert "NOT EXACT" in line
        if line.startswith("nonprivate"):
            assert "NOT EXACT" not in line


def test_a_wrong_sum_is_found_and_the_parameter_named(small, capsys, monkeypatch):
    plant(monkeypatch, Doubled)
    assert selfcheck.run(small) is False
    (auto,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("auto")]
    assert auto.endswith("NOT EXACT: head.bias")


def test_the_command_exits_by_the_verdict(capsys, monkeypatch):
    assert main(["selfcheck"]) == 0
    plant(monkeypatch, Unmeasured)
    assert main(["selfcheck"]) == 1


def test_a_model_that_cannot_be_checked_is_one_line(capsys):
    assert main(["selfcheck", "model.name=nosuch"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "model.name=nosuch" in line


def test_a_network_that_does_not_run_on_one_sample_is_one_line(capsys):
    words = ["model.name=test_resnet", "model.norm=keep", "model.pretrained=false"]
    with pytest.raises(ModelError, match="does not run on one sample alone"):
        selfcheck.run(compose(words, command="selfcheck"))
