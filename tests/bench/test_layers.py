"""`dpexp bench layers`: ways, sums and the paper's rule on single layers, and their figure."""

import json
from itertools import count

import pytest
import torch
from torch import nn

from dpexp.bench import layers
from dpexp.bench.clock import clock_of
from dpexp.bench.layers import (
    Layer,
    LayerRow,
    WayTime,
    grid,
    hopeful,
    measure,
    norm_and_sum,
    ordinary_gradient,
    product_of,
    ways_of,
    works_of,
)
from dpexp.bench.layers_figure import draw, save_figure
from dpexp.cli.main import main
from dpexp.clipping.plan import KEPT, Way

CPU = torch.device("cpu")
WORKSPACE = 2**20
SMALL = {
    "linear": nn.Linear(6, 24, bias=False),
    "conv 3x3": nn.Conv2d(6, 6, 3, padding=1, bias=False),
    "conv 1x1": nn.Conv2d(6, 6, 1, bias=False),
    "depthwise 7x7": nn.Conv2d(6, 6, 7, padding=3, groups=6, bias=False),
    "conv 3x3, stride 2": nn.Conv2d(6, 6, 3, padding=1, stride=2, bias=False),
}


def test_the_grid_has_every_type_at_five_sizes_and_four_widths():
    cells = grid()
    assert {layer.kind for layer in cells} == set(SMALL)
    assert len(cells) == len(set(cells)) == 5 * 5 * 4


@pytest.mark.parametrize(("kind", "module"), SMALL.items(), ids=SMALL)
def test_each_way_gives_what_autograd_gives_on_that_layer(kind, module):
    product = product_of(Layer(kind, 4, 6), 3, CPU, seed=0)
    x, grad_y = product.x, product.grad_y
    each = []
    for n in range(3):
        module.zero_grad()
        module(x[n : n + 1]).backward(grad_y[n : n + 1])
        each.append(module.weight.grad.clone())
    plain, norms = sum(each), torch.stack([g.square().sum() for g in each])
    torch.testing.assert_close(ordinary_gradient(product), plain, rtol=1e-4, atol=1e-3)
    for name, work in works_of(product, WORKSPACE).items():
        found = work()
        if name.startswith("norm "):
            torch.testing.assert_close(found, norms, rtol=1e-4, atol=1e-3)
        elif name.startswith("sum "):
            torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-3)
        elif name.startswith("kept "):
            torch.testing.assert_close(found[0], norms, rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(found[1], plain, rtol=1e-4, atol=1e-3)


def test_gradients_are_instantiated_once_for_norm_and_sum():
    product = product_of(Layer("linear", 4, 6), 3, CPU, seed=0).by(Way("instantiate", KEPT))
    weights = torch.tensor([0.5, 0.0, 2.0])
    norms, total = norm_and_sum(product, weights, WORKSPACE)
    grads = product.grad_y.transpose(1, 2) @ product.x
    torch.testing.assert_close(norms, grads.square().sum((1, 2)))
    torch.testing.assert_close(total, (weights.view(-1, 1, 1) * grads).sum(0))


def test_a_way_counts_with_the_better_of_its_sums():
    ratios = {
        "ordinary": 1.0, "norm ghost": 0.5, "norm instantiate": 1.25, "kept instantiate": 1.5,
        "norm instantiate_patches": 2.0, "kept instantiate_patches": 9.0,
        "sum backward": 1.0, "sum offsets": 0.75,
    }  # fmt: skip
    assert ways_of(ratios) == (
        WayTime("ghost", 0.5, 1.25, "offsets"),
        WayTime("instantiate", 1.25, 1.5, KEPT),
        WayTime("instantiate_patches", 2.0, 2.75, "offsets"),
    )


def test_ratios_are_of_the_same_round():
    """A machine that slows down by the round moves no ratio."""
    product = product_of(Layer("linear", 16, 8), 2, CPU, seed=0)
    names = list(works_of(product, WORKSPACE))
    calls = count()

    def clock(work):
        turn, place = divmod(next(calls), len(names))
        return (1e-3 if names[place] == "ordinary" else 2e-3) * (turn + 1)

    row = measure(Layer("linear", 16, 8), product, WORKSPACE, 3, clock)
    assert {way.alone for way in row.ways} == {2.0}
    assert row.ordinary_seconds == 3e-3  # rounds 2, 3 and 4 of four: the first warms up


@pytest.mark.parametrize(
    ("layer", "rule"),
    [
        (Layer("linear", 16, 8), "instantiate"),  # 2 * 16^2 = 512 > 8 * 32 = 256
        (Layer("linear", 16, 12), "ghost"),  # 512 <= 12 * 48 = 576
        (Layer("conv 3x3", 4, 8), "ghost"),  # 2 * 16^2 <= 72 * 8 = 576
        (Layer("conv 3x3", 4, 7), "instantiate"),  # 512 > 63 * 7 = 441
    ],
)
def test_the_papers_rule_by_hand(layer, rule):
    product = product_of(layer, 2, CPU, seed=0)
    with clock_of(CPU) as clock:
        row = measure(layer, product, WORKSPACE, 1, clock)
    assert row.paper == rule
    assert rule in [way.norm for way in row.ways]
    assert row.best == min(row.ways, key=lambda way: way.with_sum).norm


def test_a_hopeless_way_is_left_out_but_never_the_papers():
    product = product_of(Layer("linear", 4, 64), 1, CPU, seed=0)
    # 4 * 64 * 256 multiply-adds are 12.8 times 4^2 * 320.
    assert hopeful(product.problem, WORKSPACE) == ["ghost"]
    # 64^2 * 20 are 20 times 64 * 4 * 16.
    wide = product_of(Layer("linear", 64, 4), 1, CPU, seed=0)
    assert hopeful(wide.problem, WORKSPACE) == ["instantiate"]
    # Nothing fits: the paper's way is timed all the same, a sample at a time.
    assert "instantiate" in hopeful(wide.problem, 1)


ROWS = [
    LayerRow(Layer("linear", size, width), "", size, width, 4 * width, 1e-3, ways, best, paper)
    for size, width, ways, best, paper in [
        (16, 8, (WayTime("ghost", 0.1, 1.11, "product"),), "ghost", "ghost"),
        (64, 8, (WayTime("ghost", 2.0, 3.03, "product"), WayTime("instantiate", 0.9, 0.77, KEPT)),
         "instantiate", "ghost"),
    ]
]  # fmt: skip


def test_the_figure_shows_every_number_the_winner_and_the_rule():
    figure = draw(ROWS, batch=8)
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.texts]
    assert {"1.11", "3.03", "0.77", "T = 16", "T = 64"} <= set(texts)
    frames = [patch for patch in axes.patches if patch.get_linewidth() == 2.4]
    assert [frame.get_y() > 0.5 for frame in frames] == [False, True]  # first way, second way
    dots = [line.get_xydata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert [round(float(y)) for _, y in dots] == [0, 0]
    assert "fastest way in 1 of 2; else it takes 3.9 times as long" in axes.get_title(loc="right")


def test_the_figure_is_a_picture_of_a_readable_size(tmp_path):
    path = save_figure(ROWS, tmp_path / "layers.png", batch=8)
    from PIL import Image

    with Image.open(path) as image:
        assert image.width >= 1400
    assert [file.name for file in tmp_path.iterdir()] == ["layers.png"]


def test_the_command_writes_json_and_figure(tmp_path, capsys, monkeypatch):
    cells = [Layer(kind, 4, 8) for kind in SMALL]
    monkeypatch.setattr(layers, "grid", lambda: cells)
    assert main(["bench", "layers", "batch=2", "rounds=1", f"output={tmp_path}"]) == 0
    found = json.loads((tmp_path / "layers.json").read_text())
    assert [row["layer"]["kind"] for row in found["rows"]] == list(SMALL)
    for row in found["rows"]:
        rule = 2 * row["positions"] ** 2 <= row["inputs"] * row["outputs"]
        assert row["paper"] == ("ghost" if rule else "instantiate")
        assert row["best"] in [way["norm"] for way in row["ways"]]
    assert (tmp_path / "layers.png").stat().st_size > 10_000
    assert "conv 3x3, stride 2, 4, 8" in capsys.readouterr().out
