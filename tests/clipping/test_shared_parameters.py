"""Parameters used twice, not at all, or in two manners: the norm is that of the sum of uses."""

import pytest
import torch
from networks import check_clipping
from reference.gradients import randomise_, trainable
from rule_case import Apply
from torch import Tensor, nn
from torch.nn import functional as F


class Tied(nn.Module):
    """The table of the embedding is also the weight of the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding(x).tanh())


class Recurrent(nn.Module):
    """One layer called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.fc(x).tanh()
        return x


class Unused(nn.Module):
    """A layer that this step does not call, and a parameter that only its shape is used of."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)
        self.shape = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x + torch.zeros_like(self.shape))


def by_rule_and_raw(x: Tensor, w: Tensor) -> Tensor:
    return F.linear(x, w) * w.norm() + torch.einsum("nti,oi->nto", x, w) + w[:, 0]


def windowed_attention(x: Tensor, w: Tensor, table: Tensor) -> Tensor:
    """Windows in the batch axis, each with one mask a head from a trainable table."""
    n = x.shape[0]
    windows = F.linear(x.unflatten(1, (3, 2)).flatten(0, 1), w)  # (n 3, t, d)
    heads = windows.unflatten(-1, (2, 2)).transpose(1, 2)
    y = F.scaled_dot_product_attention(heads, heads, heads, attn_mask=table[None])
    return y.reshape(n, -1)


MODELS = {
    "tied": (Tied, (5,)),
    "recurrent": (Recurrent, (3, 4)),
    "unused": (Unused, (3, 4)),
    "rule-and-raw": (lambda: Apply(by_rule_and_raw, w=(4, 4)), (3, 4)),
    "windowed-attention": (lambda: Apply(windowed_attention, w=(4, 4), table=(2, 2, 2)), (6, 4)),
}


@pytest.mark.parametrize("algorithm", ["auto", "mixed_ghost", "instantiate"])
@pytest.mark.parametrize("name", MODELS)
def test_uses_are_summed_before_the_norm(name, algorithm):
    make, shape = MODELS[name]
    model = randomise_(make().double())
    x = torch.randn(5, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    if name == "tied":
        x = torch.randint(0, 7, (5, *shape), generator=torch.Generator().manual_seed(1))
    check_clipping(model, x, algorithm=algorithm)


def test_an_unused_parameter_has_a_gradient_of_zero_not_none():
    model = randomise_(Unused().double())
    check_clipping(model, torch.randn(5, 3, 4, dtype=torch.float64))
    for name in ("unused.weight", "unused.bias", "shape"):
        assert not trainable(model)[name].grad.any()
