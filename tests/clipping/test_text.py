"""Small transformers on padded text: torch's own encoder and decoder, against a loop."""

from typing import Any

import pytest
import torch
from networks import EXACT, check_clipping
from reference.gradients import randomise_
from torch import Tensor, nn
from torch.testing import assert_close

from dpexp.clipping.engine import PrivacyEngine

PADDING = 0
WIDTH, LENGTH, VOCABULARY = 8, 6, 11


class Encoder(nn.Module):
    """Words and positions, two encoder layers that do not see padding, and a mean of the rest."""

    def __init__(self, *, batch_first: bool = True, is_causal: bool = False, **options: Any):
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH, padding_idx=PADDING)
        self.positions = nn.Embedding(LENGTH, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, 2, 12, dropout=0.0, batch_first=batch_first, **options
        )
        # Torch's default is to try, and to warn where its fused path cannot.
        self.layers = nn.TransformerEncoder(
            layer, 2, enable_nested_tensor=batch_first and not options
        )
        self.batch_first, self.is_causal = batch_first, is_causal
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        is_padding = x == PADDING
        y = self.words(x) + self.positions(torch.arange(x.shape[1]).expand_as(x))
        y = y if self.batch_first else y.transpose(0, 1)
        mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1) if self.is_causal else None
        y = self.layers(y, mask, is_padding, is_causal=self.is_causal)
        y = y if self.batch_first else y.transpose(0, 1)
        kept = ~is_padding[:, : y.shape[1], None]
        return self.head((y * kept).sum(1) / kept.sum(1))


class Decoder(nn.Module):
    """A decoder layer, which attends to what an embedding of the same words remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.memory = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(VOCABULARY, WIDTH)
        self.layer = nn.TransformerDecoderLayer(WIDTH, 2, 12, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(
            self.words(x), self.memory(x.flip(1)), memory_key_padding_mask=x.flip(1) == PADDING
        )


NETWORKS = {
    "encoder": Encoder,
    "norm-first": lambda: Encoder(norm_first=True, activation="gelu"),
    "no-bias": lambda: Encoder(bias=False),
    "tokens-first": lambda: Encoder(batch_first=False),
    "causal": lambda: Encoder(is_causal=True),
    "decoder": Decoder,
}


def sentences(n: int) -> Tensor:
    """Words, the last few of some sentences padding; one sentence is full."""
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(1, VOCABULARY, (n, LENGTH), generator=generator)
    length = LENGTH - torch.arange(n) % 4
    return words.masked_fill(torch.arange(LENGTH) >= length[:, None], PADDING)


@pytest.mark.parametrize("algorithm", ["auto", "mixed_ghost", "instantiate"])
@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_transformers_on_padded_text_are_exact(name, is_training, algorithm):
    model = randomise_(NETWORKS[name]().double()).train(is_training)
    check_clipping(model, sentences(5), algorithm=algorithm)


@pytest.fixture
def fused_calls(monkeypatch):
    """What torch's fused encoder layer is called with."""
    calls = []
    fused = torch._transformer_encoder_layer_fwd

    def noting(*args: Any) -> Tensor:
        calls.append(args)
        return fused(*args)

    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", noting)
    return calls


def test_a_frozen_encoder_where_it_would_take_its_fused_path(fused_calls):
    model = randomise_(Encoder().double()).eval()
    for part in (model.words, model.positions, model.layers):
        part.requires_grad_(False)
    check_clipping(model, sentences(5))
    assert fused_calls  # by the loop


def test_evaluation_takes_the_fused_path_and_gives_what_the_engine_saw(fused_calls):
    model = randomise_(Encoder().double()).eval()
    PrivacyEngine(model, clip_norm=1.0)
    watched = model(sentences(5)).detach()
    assert not fused_calls
    with torch.no_grad():
        assert_close(model(sentences(5)), watched, **EXACT)
    assert fused_calls
