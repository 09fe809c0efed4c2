"""When groups of parameters are clipped: those that hold much together, those of little last."""

import pytest
import torch
from torch import nn

from dpexp.clipping.groups import Group, Waiting, may_have
from dpexp.clipping.per_sample import Dense


def group(num_samples: int, num_numbers: int, num_held: int) -> Group:
    """A complete group of one parameter, which holds `num_held` numbers for all samples."""
    param = nn.Parameter(torch.zeros(num_numbers))
    complete = Group({param: 1}, is_kept=True)
    complete.add(param, Dense(torch.ones(num_samples, num_held // num_samples)), workspace=100)
    assert complete.is_complete
    return complete


def test_groups_wait_in_the_order_in_which_they_were_completed(monkeypatch):
    monkeypatch.setattr("dpexp.clipping.groups.WAITING_NUMBERS", 100)
    monkeypatch.setattr("dpexp.clipping.groups.SMALL_NUMBERS", 0)
    waiting = Waiting()
    small = [group(2, 10, 8) for _ in range(3)]  # hold less than their gradients will take
    large = [group(2, 10, 40) for _ in range(4)]
    assert waiting.after(small[0]) == []
    assert waiting.after(large[0]) == []
    assert waiting.after(small[1]) == []
    assert waiting.after(large[1]) == []
    assert waiting.after(large[2]) == large[:3]  # 120 numbers
    assert waiting.after(large[3]) == []  # counted anew
    assert waiting.after(small[2]) == []
    assert waiting.rest() == [large[3], *small]


def test_a_group_that_holds_as_much_as_its_gradients_is_not_small(monkeypatch):
    monkeypatch.setattr("dpexp.clipping.groups.WAITING_NUMBERS", 0)
    monkeypatch.setattr("dpexp.clipping.groups.SMALL_NUMBERS", 0)
    waiting = Waiting()
    assert waiting.after(group(2, 10, 8)) == []
    assert len(waiting.after(group(2, 10, 10))) == 1


@pytest.mark.parametrize("dropped", [[False, False], [True, False], [True, True]])
def test_a_sample_may_be_dropped_where_one_is(dropped):
    assert may_have(torch.tensor(dropped)) is any(dropped)
    assert may_have(torch.tensor(dropped, device="meta")) is True  # not looked at


def test_small_gradients_wait_to_the_end(monkeypatch):
    monkeypatch.setattr("dpexp.clipping.groups.WAITING_NUMBERS", 0)
    waiting, small = Waiting(), group(2, 10, 10)
    assert waiting.after(small) == []
    assert waiting.rest() == [small]
