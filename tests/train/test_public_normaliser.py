"""The normaliser is public: one sample more or less in the data changes no update but its own."""

from contextlib import nullcontext

import pytest
import torch
from runs import config_of
from torch import nn

from dpexp.cli.compose import compose
from dpexp.clipping.engine import PrivacyEngine
from dpexp.errors import ConfigError
from dpexp.train.deal import Deal, make_deal
from dpexp.train.step import train_step

R = 1.0


def deal_of(num_train: int, tmp_path, *words: str) -> Deal:
    return make_deal(config_of(tmp_path, *words), num_train, sensitivity=R)


def update(mechanism, rows: torch.Tensor) -> torch.Tensor:
    """The weights after one step on these rows, under this mechanism."""
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    engine = PrivacyEngine(
        model, optimizer, mechanism=mechanism, generator=torch.Generator().manual_seed(1)
    )
    labels = torch.arange(len(rows)) % 3
    train_step(
        model, optimizer, engine, [(rows, labels)],
        expected_batch_size=mechanism.expected_batch_size, autocast=nullcontext(),
    )  # fmt: skip
    return model.weight.detach()


@pytest.mark.parametrize("other", [1437, 1439, 3000])
@pytest.mark.parametrize("size", [0, 3, 80])
def test_the_same_rows_of_a_data_set_of_another_size_give_the_same_bits(tmp_path, size, other):
    rows = torch.randn(size, 5, generator=torch.Generator().manual_seed(2))
    deals = deal_of(1438, tmp_path), deal_of(other, tmp_path)
    assert deals[0].mechanism.sampling_rate != deals[1].mechanism.sampling_rate
    first, second = (update(deal.mechanism, rows) for deal in deals)
    assert torch.equal(first, second)


def test_a_normaliser_from_the_data_would_give_other_bits(tmp_path):
    rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    mechanism = deal_of(1438, tmp_path).mechanism
    # As q N with q held: what arXiv:2605.15648 found in other libraries.
    counted = type(mechanism)(
        **{**vars(mechanism), "expected_batch_size": mechanism.sampling_rate * 1439}
    )
    assert not torch.equal(update(mechanism, rows), update(counted, rows))


@pytest.mark.parametrize("num_train", [1438, 1439])
def test_b_is_the_one_of_the_configuration(tmp_path, num_train):
    mechanism = deal_of(num_train, tmp_path).mechanism
    assert mechanism.expected_batch_size == 64
    assert mechanism.sampling_rate == 64 / num_train


@pytest.mark.parametrize("text", ["auto", "null", "0", "-1", "inf"])
def test_no_normaliser_is_left_to_the_data(text):
    with pytest.raises(ConfigError, match="batch"):
        compose([f"batch={text}"])
