"""Recurrent layers, fused by torch and taken apart by the engine: same values, exact gradients."""

from typing import Any

import pytest
import torch
from networks import EXACT, check_clipping
from reference.gradients import randomise_
from torch import Tensor, nn
from torch.testing import assert_close

from dpexp.clipping.engine import PrivacyEngine


class Network(nn.Module):
    """A recurrent layer, its last states beside its outputs."""

    def __init__(self, layer: type[nn.RNNBase], *, has_state: bool = False, **options: Any) -> None:
        super().__init__()
        self.layer, self.has_state = layer(5, 3, **options), has_state

    def start(self, x: Tensor) -> Any:
        if not self.has_state:
            return None
        runs = self.layer.num_layers * (1 + self.layer.bidirectional)
        state = torch.stack([x[:, run % 4, :3] for run in range(runs)])
        return (state, 0.5 * state) if isinstance(self.layer, nn.LSTM) else state

    def forward(self, x: Tensor) -> Tensor:
        swapped = x if self.layer.batch_first else x.transpose(0, 1)
        y, end = self.layer(swapped, self.start(x))
        y = y if self.layer.batch_first else y.transpose(0, 1)
        ends = [end] if isinstance(end, Tensor) else end
        return torch.cat([y.flatten(1), *(e.transpose(0, 1).flatten(1) for e in ends)], 1)


NETWORKS = {
    "lstm": lambda: Network(nn.LSTM),
    "lstm-batch-first-both-ways": lambda: Network(nn.LSTM, batch_first=True, bidirectional=True),
    "lstm-two-layers-no-bias": lambda: Network(nn.LSTM, num_layers=2, bias=False, has_state=True),
    "lstm-projection": lambda: Network(nn.LSTM, proj_size=2, num_layers=2, bidirectional=True),
    "gru": lambda: Network(nn.GRU, has_state=True),
    "gru-two-layers-both-ways": lambda: Network(nn.GRU, num_layers=2, bidirectional=True),
    "gru-no-bias": lambda: Network(nn.GRU, bias=False, batch_first=True),
    "tanh": lambda: Network(nn.RNN, num_layers=2, has_state=True),
    "relu": lambda: Network(nn.RNN, nonlinearity="relu", batch_first=True),
}


def sequences(n: int) -> Tensor:
    return torch.randn(n, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("algorithm", ["auto", "mixed_ghost", "instantiate"])
@pytest.mark.parametrize("name", NETWORKS)
def test_recurrence_is_exact(name, algorithm):
    check_clipping(randomise_(NETWORKS[name]().double()), sequences(5), algorithm=algorithm)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_taken_apart_has_the_values_of_the_fused_operation(name):
    model = randomise_(NETWORKS[name]().double())
    fused = model(sequences(5))
    engine = PrivacyEngine(model, clip_norm=1.0)
    assert_close(model(sequences(5)), fused, **EXACT)
    assert engine._clipper.tap.forward_pass is None


def test_dropout_between_layers_is_kept():
    model = Network(nn.LSTM, num_layers=2, dropout=1.0).double()
    PrivacyEngine(model, clip_norm=1.0)
    first, second = sequences(2), sequences(2) + 1
    outputs = model(first)[:, :12]
    assert outputs.all()  # none after the last layer
    assert_close(outputs, model(second)[:, :12])  # nothing of the input gets through
    assert not torch.equal(model.eval()(first), model(second))
