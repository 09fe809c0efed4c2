"""`dpexp bench layers`: every way of taking a norm, over the layer's ordinary weight gradient.

A grid of layer types, spatial sizes and widths, each layer on its own, on random tensors. What is
compared is all that clipping does in place of the ordinary weight gradient: the norm of every
sample, and the clipped sum. A way whose multiply-adds are many times those of the best is left out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor

from dpexp.bench.clock import Clock, clock_of, in_rounds
from dpexp.bench.document import aligned, save, say
from dpexp.bench.layers_figure import save_figure
from dpexp.bench.request import Request
from dpexp.bench.subject import Work
from dpexp.clipping.measure import HOPELESS
from dpexp.clipping.plan import KEPT, Problem, Way, is_instantiating, paper_rule
from dpexp.clipping.rules.convolution_outer import ConvolutionOuter
from dpexp.clipping.rules.geometry import Geometry
from dpexp.clipping.rules.outer import Outer
from dpexp.train.job import pick_device

Product = Outer | ConvolutionOuter

POSITIONS = (16, 64, 197, 577, 1024)
# Of ViT-Ti, S, B and L; the first layer of a block's MLP, to four times the width.
TRANSFORMER_WIDTHS = (192, 384, 768, 1024)
PIXELS = (4, 8, 16, 32, 56)
WIDTHS = (64, 128, 256, 512)
NUMBERS_PER_MIB = 2**18  # float32
# A layer's rounds end here: the largest take seconds each.
MOST_SECONDS = 2.0
PENDING = Way("", "")  # of a product that is told later how it is taken


@dataclass(frozen=True)
class Layer:
    """One cell of the grid.

    Attributes:
        kind: Type of the layer.
        size: Positions of a linear layer; pixels a side of a convolution's output.
        width: Input features or channels.
    """

    kind: str
    size: int
    width: int


@dataclass(frozen=True)
class WayTime:
    """What one way of taking the norm costs, in units of the ordinary weight gradient.

    Attributes:
        norm: The way.
        alone: The norm.
        with_sum: Norm and clipped sum.
        sum: How that sum is taken: KEPT if from the gradients that the norm instantiated.
    """

    norm: str
    alone: float
    with_sum: float
    sum: str


@dataclass(frozen=True)
class LayerRow:
    """What every way costs on one layer.

    Attributes:
        layer: The layer.
        problem: Its key in a plan.
        positions: T.
        inputs: D.
        outputs: p.
        ordinary_seconds: Of the ordinary weight gradient of the batch.
        ways: In the order of the problem; those left out are missing.
        best: The way of least norm and sum.
        paper: What the paper's rule takes, ghost where 2 T^2 <= p D.
    """

    layer: Layer
    problem: str
    positions: int
    inputs: int
    outputs: int
    ordinary_seconds: float
    ways: tuple[WayTime, ...]
    best: str
    paper: str


def run(request: Request) -> None:
    """Time the grid; print a line a layer, and write JSON and figure to the folder asked for.

    Raises:
        ConfigError: If there is no such device.
        RunFolderError: If a file cannot be written.
    """
    config = request.config
    device = pick_device(config.device)
    workspace = int(config.clipping.workspace_mib * NUMBERS_PER_MIB)
    say(f"batch {config.batch}, float32, up to {request.rounds} rounds, on {device}")
    say("norm and clipped sum, in units of the ordinary weight gradient; > least, * paper's rule")
    rows = []
    with clock_of(device) as clock:
        for layer in grid():
            product = product_of(layer, config.batch, device, config.seed)
            rows.append(measure(layer, product, workspace, request.rounds, clock))
            say(_line(rows[-1]))
        for line in aligned(("layer", "layers", "paper's rule is the fastest"), _summary(rows)):
            say(line)
        setting = {"batch": config.batch, "device": str(device), "seed": config.seed}
        setting |= {"workspace_mib": config.clipping.workspace_mib, "precision": "float32"}
        path = save(request, "layers", "layers", {"setting": setting, "rows": rows})
    if path:
        say(f"written   {path}")
        say(f"written   {save_figure(rows, path.with_suffix('.png'), config.batch)}")


def grid() -> list[Layer]:
    """Return the layers, type by type, in the order of sizes and then of widths."""
    linear = [Layer("linear", size, width) for size in POSITIONS for width in TRANSFORMER_WIDTHS]
    kinds = ("conv 3x3", "conv 1x1", "depthwise 7x7", "conv 3x3, stride 2")
    return linear + [Layer(k, size, width) for k in kinds for size in PIXELS for width in WIDTHS]


def product_of(layer: Layer, batch: int, device: torch.device, seed: int) -> Product:
    """Return the weight gradient of a layer with random inputs and output gradients."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    size, width = layer.size, layer.width
    if layer.kind == "linear":
        return Outer(random(batch, size, width), random(batch, size, 4 * width), PENDING)
    kernel = 7 if "7x7" in layer.kind else 1 if "1x1" in layer.kind else 3
    stride = 2 if "stride 2" in layer.kind else 1
    groups = width if "depthwise" in layer.kind else 1
    geometry = Geometry((stride,) * 2, (kernel // 2,) * 2, (1, 1), groups)
    x = random(batch, width, size * stride, size * stride)
    grad_y = random(batch, width, size, size)
    weight = random(width, width // groups, kernel, kernel)
    return ConvolutionOuter(x, grad_y, batch, geometry, weight, PENDING)


def measure(layer: Layer, product: Product, workspace: int, rounds: int, clock: Clock) -> LayerRow:
    """Return what every way costs on one product.

    Args:
        layer: What the product is of.
        product: Random tensors.
        workspace: Numbers that one norm may hold at once.
        rounds: At most this many are counted.
        clock: What measures.
    """
    times = in_rounds(works_of(product, workspace), rounds, clock, MOST_SECONDS)
    problem = product.problem
    base = times["ordinary"]
    ratios = {
        name: median(a / b for a, b in zip(each, base, strict=True)) for name, each in times.items()
    }
    ways = ways_of(ratios)
    best = min(ways, key=lambda way: way.with_sum)
    paper = paper_rule(problem).norm
    return LayerRow(
        layer, problem.key, problem.positions, problem.inputs, problem.outputs,
        median(base), ways, best.norm, paper,
    )  # fmt: skip


def works_of(product: Product, workspace: int) -> dict[str, Work]:
    """Return what is timed, by name: `ordinary`, and `norm`, `sum` and `kept` of each way."""
    problem = product.problem
    first = problem.sums[0][0]
    norms = hopeful(problem, workspace)
    weights = torch.ones(product.num_samples, device=product.grad_y.device)
    works: dict[str, Work] = {"ordinary": partial(ordinary_gradient, product)}
    for name in norms:
        works[f"norm {name}"] = partial(product.by(Way(name, first)).squared_norms, workspace)
        if is_instantiating(name):
            kept = product.by(Way(name, KEPT))
            works[f"kept {name}"] = partial(norm_and_sum, kept, weights, workspace)
    for name, _ in problem.sums:
        works[f"sum {name}"] = partial(product.by(Way(norms[0], name)).weighted_sum, weights)
    return works


def hopeful(problem: Problem, workspace: int) -> list[str]:
    """Return the ways to take a norm that are worth timing, and in any case the paper's."""
    papers, fitting = paper_rule(problem).norm, problem.within(workspace)
    limit = HOPELESS * min(way.operations for way in fitting)
    return [
        way.name
        for way in problem.norms
        if way.name == papers or (way in fitting and way.operations <= limit)
    ]


def ordinary_gradient(product: Product) -> Tensor:
    """Return the weight gradient of ordinary training."""
    if isinstance(product, Outer):
        return product.grad_y.flatten(0, 1).t() @ product.x.flatten(0, 1)
    mask = (False, True)
    return product.geometry.backward(product.grad_y, product.x, product.weight, mask)[1]


def norm_and_sum(product: Product, weights: Tensor, workspace: int) -> tuple[Tensor, Tensor]:
    """Return norms and clipped sum from gradients that are instantiated once."""
    grads = product.compact()
    return grads.squared_norms(workspace), grads.weighted_sum(weights)


def ways_of(ratios: Mapping[str, float]) -> tuple[WayTime, ...]:
    """Return every way to take a norm with the better of its sums.

    Args:
        ratios: Of what `works_of` names, in units of the ordinary weight gradient.
    """
    sums = {name.removeprefix("sum "): r for name, r in ratios.items() if name.startswith("sum ")}
    best_sum = min(sums, key=sums.__getitem__)
    ways = []
    for key, alone in ratios.items():
        if not key.startswith("norm "):
            continue
        name = key.removeprefix("norm ")
        apart, kept = alone + sums[best_sum], ratios.get(f"kept {name}", float("inf"))
        is_kept = kept <= apart
        ways.append(WayTime(name, alone, min(apart, kept), KEPT if is_kept else best_sum))
    return tuple(ways)


def _line(row: LayerRow) -> str:
    cells = []
    for way in row.ways:
        marks = ">" * (way.norm == row.best) + "*" * (way.norm == row.paper)
        cells.append(f"{marks}{way.norm} {way.with_sum:.2f}")
    name = f"{row.layer.kind}, {row.layer.size}, {row.layer.width}"
    return f"{name:30}{1000 * row.ordinary_seconds:9.2f} ms  {', '.join(cells)}"


def _summary(rows: Iterable[LayerRow]) -> list[list[str]]:
    by_kind: dict[str, list[LayerRow]] = {}
    for row in rows:
        by_kind.setdefault(row.layer.kind, []).append(row)
    return [
        [kind, str(len(group)), str(sum(row.best == row.paper for row in group))]
        for kind, group in by_kind.items()
    ]
