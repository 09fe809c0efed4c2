"""Multiply-adds: by hand on two layers, and against a count of the clipped step as it runs."""

import pytest
import torch
from torch import nn

from dpexp.bench import operations
from dpexp.bench.operations import Counts, counts_of, multiply_adds, norm_operations
from dpexp.bench.subject import Subject
from dpexp.cli.compose import compose
from dpexp.clipping.plan import KEPT
from dpexp.models.build import BuiltModel

CPU = torch.device("cpu")
N, T = 3, 4


class TwoLayers(nn.Module):
    """Two linear layers on T positions, 6 to 5 to 2, and the mean of the positions.

    Without biases, whose gradients are sums that the engine takes by products.
    """

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 5, bias=False)
        self.second = nn.Linear(5, 2, bias=False)

    def forward(self, x):
        return self.second(self.first(x).relu()).mean(1)


class TwoConvolutions(nn.Module):
    """A dense and a grouped convolution, and the mean of the pixels."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Conv2d(2, 4, 3, bias=False)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)

    def forward(self, x):
        return self.grouped(self.dense(x)).mean((2, 3))


def subject_of(model, images):
    built = BuiltModel(model, "two", "random", 0, 1, (), (), 1, 1, {}, ())
    labels = torch.zeros(len(images), dtype=torch.long)
    return Subject(compose(["dp=off"]), built, CPU, images, labels)


def counted_and_plan(subject, algorithm):
    with subject.clipped_step(algorithm, "flat") as (step, engine):
        step()
        rows = engine.plan_rows(is_full=True)
        counts = counts_of(subject, algorithm, rows, engine.backward_passes)
        # Counting adds to the graph, which the engine then proves anew, once.
        multiply_adds(step)
        return counts, rows, multiply_adds(step)


WEIGHTS = 6 * 5 + 5 * 2
# Forward, weight gradients, and input gradients of all but the first layer.
ORDINARY = N * T * (WEIGHTS + WEIGHTS + 5 * 2)
GHOST = N * T * T * (6 + 5 + 5 + 2)


def test_ghost_by_hand_on_two_layers():
    counts, _, _ = counted_and_plan(subject_of(TwoLayers(), torch.randn(N, T, 6)), "ghost")
    assert counts == Counts(ordinary=ORDINARY, norms=GHOST, second_pass=N * T * 5 * 2)
    assert counts.ratio == pytest.approx((ORDINARY + GHOST + N * T * 10) / ORDINARY)


def test_fastgradclip_by_hand_instantiates_what_the_second_pass_does_not_use():
    counts, rows, _ = counted_and_plan(
        subject_of(TwoLayers(), torch.randn(N, T, 6)), "fastgradclip"
    )
    assert {row["sum"] for row in rows} == {KEPT}  # which two passes cannot make use of
    assert counts == Counts(ORDINARY, norms=N * T * WEIGHTS, second_pass=N * T * 10)


@pytest.mark.parametrize("algorithm", ["instantiate", "nonprivate"])
def test_what_only_does_the_ordinary_products_counts_as_one(algorithm):
    counts, _, running = counted_and_plan(subject_of(TwoLayers(), torch.randn(N, T, 6)), algorithm)
    assert counts == Counts(ORDINARY, 0, 0)
    assert counts.ratio == 1
    # What is kept is weighted once: a multiply-add for each of its numbers.
    assert running == ORDINARY + N * WEIGHTS * (algorithm == "instantiate")


CASES = {
    "linear": (TwoLayers, (N, T, 6)),
    "convolution": (TwoConvolutions, (N, 2, 6, 6)),
}


@pytest.mark.parametrize("algorithm", ["ghost", "mixed_ghost", "fastgradclip", "auto"])
@pytest.mark.parametrize(("make", "shape"), CASES.values(), ids=CASES)
def test_the_plan_counts_what_is_counted_as_the_clipped_step_runs(make, shape, algorithm):
    torch.manual_seed(0)
    counts, rows, running = counted_and_plan(subject_of(make(), torch.randn(shape)), algorithm)
    names = {row["norm"] for row in rows}
    # The additions of a pixel Gram, and correlations, are no products.
    assert not names & {"pixels", "instantiate_correlation"}
    kept = [row["inputs"] * row["outputs"] for row in rows if row["sum"] == KEPT]
    weighted = N * sum(kept) * (algorithm == "auto")
    assert counts.ordinary + counts.norms + counts.second_pass + weighted == running


def test_a_grouped_convolution_is_not_counted_as_a_dense_one():
    for groups, transposed in ((1, False), (4, False), (2, True)):
        kind = nn.ConvTranspose2d if transposed else nn.Conv2d
        layer = kind(4, 4, 3, stride=2, groups=groups, bias=False)
        x = torch.randn(N, 4, 7, 7, requires_grad=True)
        positions = 7 * 7 if transposed else layer(x)[0, 0].numel()
        once = N * positions * layer.weight.numel()
        assert multiply_adds(lambda layer=layer, x=x: layer(x)) == once
        # Forward, gradient of the input, gradient of the weight.
        assert multiply_adds(lambda layer=layer, x=x: layer(x).sum().backward()) == 3 * once


def test_torch_counts_a_dense_convolution_as_we_do():
    layer, x = nn.Conv2d(3, 5, 3, padding=1), torch.randn(N, 3, 8, 8, requires_grad=True)
    ours = multiply_adds(lambda: layer(x).sum().backward())
    theirs = operations.FlopCounterMode(display=False)
    with theirs:
        layer(x).sum().backward()
    assert theirs.get_total_flops() == 2 * ours


def row(**changes):
    default = {"problem": "linear T=4 D=3 p=2", "positions": 4, "inputs": 3, "outputs": 2}
    return {**default, "norm": "ghost", "sum": "product", "operations": 80, **changes}


def test_kept_gradients_are_free_in_one_pass_only():
    rows = [row(), row(norm="instantiate", sum=KEPT, operations=24)]
    assert norm_operations(rows, "auto", passes=1) == 80
    assert norm_operations(rows, "mixed_ghost", passes=2) == 104
    assert norm_operations(rows, "instantiate", passes=1) == 0


def test_one_position_is_a_product_of_two_norms_whatever_the_plan_calls_it():
    rows = [row(problem="linear T=1 D=300 p=200", positions=1, inputs=300, outputs=200,
                norm="instantiate", operations=60_000)]  # fmt: skip
    assert norm_operations(rows, "fastgradclip", passes=2) == 500
