"""Sensitivity: what one sample, whatever it holds, can move the clipped sum by.

The noise is scaled to the declared R, so a sum that moves further makes epsilon a wrong number.
In float64 the sums themselves are compared. In float32 two sums differ also by the rounding of
each, so a sample's own share is measured there, a batch of it alone against the empty batch.
"""

import math

import pytest
import torch
from reference import neighbours
from reference.neighbours import (
    NETWORKS,
    Batch,
    adversarial,
    difference,
    finite,
    inputs,
    length,
    losses,
    ordinary,
)
from torch import Tensor
from torch.testing import assert_close

from dpexp.clipping import clipper, engine, groups
from dpexp.clipping.engine import PrivacyEngine

SLACK = 1e-6
FUNCTIONS = ["abadi", "global", "autos", "autov", "psac"]
STYLES = ["flat", "layerwise", "blockwise", "paramwise"]
WAYS = [
    *(("auto", style) for style in STYLES),
    *(("instantiate", style) for style in STYLES),
    *((algorithm, "flat") for algorithm in ("mixed_ghost", "ghost", "fastgradclip")),
]
R = 0.7


class Sums:
    """Clipped sums of batches on one network: the plain way that the engine is used in."""

    def __init__(
        self, name: str, dtype: torch.dtype = torch.float64, *, autocast: bool = False, **options
    ) -> None:
        self.model = neighbours.network(name, dtype)
        self.views = options.get("views", 1)
        self.autocast = autocast
        self.engine = PrivacyEngine(self.model, **{"clip_norm": R, **options})
        self.of(ordinary(name, 3 * self.views, seed=0, dtype=dtype))  # the proof is made once

    @property
    def sensitivity(self) -> float:
        return self.engine.mechanism.clip_norm

    def of(self, *pieces: Batch, mask: Tensor | None = None) -> dict[str, Tensor]:
        """The clipped sum of one batch, given in micro-batches."""
        self.model.zero_grad()
        for piece in pieces:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
                each = losses(self.model, piece)
            self.engine.backward(each, mask)
        return {name: p.grad.clone() for name, p in self.model.named_parameters()}


def check_neighbours(sums: Sums, batch: Batch) -> list[float]:
    """Take each sample out in turn; return the shares of all, how far each moves the sum, over R.

    What the others contribute is the same with and without it: the sum moves by its share alone.
    """
    whole, shares = sums.of(batch), []
    for row in range(0, len(batch), sums.views):
        own = list(range(row, row + sums.views))
        others = [i for i in range(len(batch)) if i not in own]
        moved = difference(whole, sums.of(batch.rows(others)))
        assert math.isfinite(length(moved)), f"sample {row} makes the sum not finite"
        assert length(moved) <= sums.sensitivity * (1 + SLACK), f"sample {row} moves it too far"
        share = sums.of(batch.rows(own))
        # Two sums of as many samples as these, each rounded.
        assert_close(moved, share, rtol=0, atol=1e-15 * len(batch) * sums.sensitivity)
        shares.append(length(share) / sums.sensitivity)
    return shares


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(("algorithm", "style"), WAYS)
@pytest.mark.parametrize("name", NETWORKS)
def test_no_sample_moves_the_sum_by_more_than_the_sensitivity(name, algorithm, style, function):
    sums, batch = Sums(name, algorithm=algorithm, style=style, function=function), adversarial(name)
    shares = check_neighbours(sums, batch)
    dropped = [
        share for share, is_finite in zip(shares, finite(batch), strict=True) if not is_finite
    ]
    assert set(dropped) == {0.0}
    # The bound is reached by what is far above it; global drops that.
    assert max(shares) > (0 if function == "global" else 1 - SLACK)


@pytest.mark.parametrize("split", ["equal", "per_group"])
@pytest.mark.parametrize("style", STYLES)
def test_bounds_of_groups_add_up_to_the_declared_sensitivity(style, split):
    sums = Sums("attention", style=style, split=split)
    num_groups = len(sums.engine.groups)
    declared = R if split == "equal" else R * math.sqrt(num_groups)
    assert sums.sensitivity == pytest.approx(declared)
    assert max(check_neighbours(sums, adversarial("attention"))) > 1 - SLACK


@pytest.mark.parametrize(("algorithm", "style"), WAYS)
def test_views_of_a_sample_together_move_the_sum_by_r_at_most(algorithm, style):
    sums = Sums("convolutions", algorithm=algorithm, style=style, views=2)
    batch = adversarial("convolutions")
    shares = check_neighbours(sums, batch.rows([*range(len(batch)), 0]))
    assert len(shares) == (len(batch) + 1) // 2
    assert max(shares) > 1 - SLACK


def test_one_view_is_the_plain_way():
    batch = adversarial("attention")
    assert_close(Sums("attention", views=1).of(batch), Sums("attention").of(batch), rtol=0, atol=0)


@pytest.mark.parametrize(("algorithm", "style"), WAYS)
@pytest.mark.parametrize("name", NETWORKS)
def test_padding_contributes_nothing_whatever_it_holds(name, algorithm, style):
    sums, batch = Sums(name, algorithm=algorithm, style=style), adversarial(name)
    real = ordinary(name, 3, seed=5)
    padded = Batch(torch.cat([batch.x, real.x]), torch.cat([batch.weights, real.weights]))
    mask = torch.arange(len(padded)) >= len(batch)
    found = sums.of(padded, mask=mask)
    assert_close(found, sums.of(real), rtol=0, atol=1e-15 * len(padded))
    assert length(sums.of(batch, mask=torch.zeros(len(batch), dtype=torch.bool))) == 0


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize(("algorithm", "style"), WAYS)
def test_neighbours_in_micro_batches(algorithm, style, size):
    sums, batch = Sums("attention", algorithm=algorithm, style=style), adversarial("attention")

    def cut(rows: list[int]) -> list[Batch]:
        return [batch.rows(rows[i : i + size]) for i in range(0, len(rows), size)]

    rows = list(range(len(batch)))
    whole = sums.of(*cut(rows))
    assert_close(whole, sums.of(batch), rtol=0, atol=1e-15 * len(batch))
    for row in rows[::4]:
        # Every sample after it is in another piece than before.
        moved = difference(whole, sums.of(*cut([i for i in rows if i != row])))
        assert length(moved) <= R * (1 + SLACK)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_neighbour_of_a_sample_alone_is_the_empty_batch(name, function):
    sums = Sums(name, function=function)
    empty = Batch(inputs(name, 0, seed=0), torch.zeros(0))
    assert length(sums.of(empty)) == 0
    assert length(sums.of(empty, ordinary(name, 1, seed=1))) == length(
        sums.of(ordinary(name, 1, seed=1))
    )


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(("algorithm", "style"), WAYS)
@pytest.mark.parametrize("name", NETWORKS)
def test_in_float32_a_sample_s_own_share_is_within_r(name, algorithm, style, function):
    sums = Sums(name, torch.float32, algorithm=algorithm, style=style, function=function)
    batch = adversarial(name, dtype=torch.float32)
    for row in range(len(batch)):
        share = length(sums.of(batch.rows([row]))) / sums.sensitivity
        assert share <= 1 + SLACK, f"sample {row}: {share} R"


@pytest.mark.parametrize("name", NETWORKS)
def test_in_float32_one_sample_at_a_time_rounding_of_the_sum_is_all_that_is_added(name):
    """A partial sum of k shares is at most k R long, and is rounded by 2^-24 of that.

    In one piece this holds for ordinary samples alone. The gradient of an image at 1e8 hangs on the
    last digit of the forward pass, and that digit on how many samples share the pass: taking
    another sample out has been seen to move such a pair by 2.3 R (attention, 17 and 2 samples).
    """
    sums, batch = Sums(name, torch.float32), adversarial(name, dtype=torch.float32)
    pieces = [batch.rows([row]) for row in range(len(batch))]
    whole = sums.of(*pieces)
    rounding = len(batch) * (len(batch) + 1) * 2**-24
    for row in range(len(batch)):
        moved = difference(whole, sums.of(*pieces[:row], *pieces[row + 1 :]))
        assert length(moved) <= R * (1 + SLACK + rounding)
        assert length(difference(moved, sums.of(pieces[row]))) <= R * rounding


@pytest.mark.parametrize("name", NETWORKS)
def test_in_float32_ordinary_samples_are_moved_by_rounding_when_another_is_there(name):
    sums, batch = Sums(name, torch.float32), ordinary(name, 17, seed=1, dtype=torch.float32)
    whole = sums.of(batch)
    for row in range(len(batch)):
        moved = difference(whole, sums.of(batch.without(row)))
        assert length(difference(moved, sums.of(batch.rows([row])))) <= 1e-3 * R


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", NETWORKS)
def test_under_bfloat16_a_sample_s_own_share_is_within_r(name, style):
    sums = Sums(name, torch.float32, style=style, autocast=True)
    batch = adversarial(name, dtype=torch.float32)
    shares = [length(sums.of(batch.rows([row]))) / R for row in range(len(batch))]
    assert all(math.isfinite(share) for share in shares)
    assert 1 - SLACK < max(shares) <= 1 + SLACK


def leave_out_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The norm without the parameters of one shape, those of the head."""
    add = groups.Group.add
    monkeypatch.setattr(groups, "SMALL_NUMBERS", 0)

    def without_head(self, param, grad, workspace):
        before = self.squared_norms
        add(self, param, grad, workspace)
        if param.shape in ((3, 4), (3,)):
            self.squared_norms = self.squared_norms * 0 if before is None else before

    monkeypatch.setattr(groups.Group, "add", without_head)


def clip_by_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """One factor for all, of the mean norm."""
    factors = clipper.Clipper._factors

    def of_mean(self, norms, mask):
        return factors(self, norms.nanmean(-1, keepdim=True).expand_as(norms), mask)

    monkeypatch.setattr(clipper.Clipper, "_factors", of_mean)


def keep_what_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    def keep(self, norms, mask):
        return self._function(norms, self._bound, self._stability), ~mask.expand_as(norms)

    monkeypatch.setattr(clipper.Clipper, "_factors", keep)


def give_each_group_the_whole_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "group_bound", lambda clip_norm, num_groups, split: clip_norm)


def read_norms_a_little_low(monkeypatch: pytest.MonkeyPatch) -> None:
    norms = groups.Group.norms.fget
    monkeypatch.setattr(groups.Group, "norms", property(lambda self: norms(self) * (1 - 1e-5)))


def do_not_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engine.FUNCTIONS, "abadi", lambda norms, bound, stability: norms * 0 + 1)


@pytest.mark.parametrize(
    ("plant", "options"),
    [
        (leave_out_a_layer, {}),
        (clip_by_the_mean, {}),
        (clip_by_the_mean, {"style": "layerwise"}),
        (keep_what_is_not_finite, {}),
        (give_each_group_the_whole_bound, {"style": "layerwise"}),
        (do_not_clip, {}),
    ],
)
def test_a_planted_fault_passes_the_sensitivity(plant, options, monkeypatch):
    check_neighbours(Sums("convolutions", **options), adversarial("convolutions"))
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=r"moves it too far|not finite"):
        check_neighbours(Sums("convolutions", **options), adversarial("convolutions"))


def test_norms_a_hundred_thousandth_too_low_are_found(monkeypatch):
    read_norms_a_little_low(monkeypatch)
    sums = Sums("convolutions", style="paramwise", algorithm="instantiate")
    with pytest.raises(AssertionError, match="moves it too far"):
        check_neighbours(sums, adversarial("convolutions"))


def test_views_clipped_one_by_one_pass_the_sensitivity():
    batch, sums = ordinary("convolutions", 6, seed=2), Sums("convolutions", views=2)
    check_neighbours(sums, batch)
    one_by_one = Sums("convolutions")
    one_by_one.views = 2  # what is taken out is both views; the engine knows nothing of them
    with pytest.raises(AssertionError, match="moves it too far"):
        check_neighbours(one_by_one, batch)


@pytest.mark.parametrize("size", [2, 3])
def test_padding_that_counts_is_found(size, monkeypatch):
    sums, real = Sums("convolutions"), ordinary("convolutions", 4, seed=5)
    mask = torch.arange(4) < size
    kept = sums.of(real, mask=mask)
    monkeypatch.setattr(engine, "_checked_mask", lambda mask, losses: torch.ones_like(losses) > 0)
    assert length(difference(sums.of(real, mask=mask), kept)) > 0.1 * R
