"""Measure how far clipping under bfloat16 autocast is from float64, and write the page.

    python scripts/precision.py

Under autocast, activations and their gradients are bfloat16; norms, clip factors and sums are
float32. Three things are measured of every network and algorithm:

  norm       relative error of the engine's norms, against those of the very tensors that it held,
             recomputed in float64. The engine's own error.
  precision  the same norms against those of the network in float64. The training's error: it
             changes which gradient is clipped, not how far.
  slack      max_n |C_n g_n| / R, in float64, of what each sample added to the sum. The sensitivity
             that the accountant relies on is R, so this is not to be above 1.

R is half of the smallest norm, so that every sample is clipped.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dpexp.clipping.clipper import Clipper, pulled_back
from dpexp.clipping.engine import PrivacyEngine
from dpexp.clipping.plan import always_ghost, always_instantiate
from dpexp.clipping.tap import Use
from dpexp.config import Algorithm, ModelConfig
from dpexp.models.build import build
from dpexp.record.provenance import describe_provenance
from dpexp.selfcheck import NUM_CLASSES, randomise

TARGET = Path(__file__).parents[1] / "results" / "precision"
NETWORKS = ("vit_tiny_patch16_224", "resnet18", "convnext_atto")
# The second of these forms no gradient where it can do without.
ALGORITHMS = {
    "auto": "auto",
    "auto, every norm from Gram matrices": "auto",
    "instantiate": "instantiate",
    "mixed_ghost": "mixed_ghost",
}
IMAGE_SIZE, NUM_SAMPLES = 64, 8


@dataclass(frozen=True)
class Row:
    """What was measured of one network with one algorithm; relative, the largest of any sample.

    Attributes:
        network: Its name.
        algorithm: A key of `ALGORITHMS`.
        norm: Error of a norm against the float64 norm of the tensors that the engine held.
        precision: Error of a norm against that of the network in float64.
        slack: max_n |C_n g_n| / R.
    """

    network: str
    algorithm: str
    norm: float
    precision: float
    slack: float


def network_and_batch(name: str, size: int, num_samples: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network in float32, every parameter random, with images and labels for it."""
    config = ModelConfig(name=name, pretrained=False, image_size=size)
    model = build(config, num_classes=NUM_CLASSES, seed=0).module
    randomise(model)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(num_samples, 3, size, size, generator=generator)
    return model, images, torch.arange(num_samples) % NUM_CLASSES


def losses_of(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return each sample's loss as training computes it: the network under autocast alone."""
    with torch.autocast(images.device.type, torch.bfloat16):
        logits = model(images)
    return cross_entropy(logits.float(), labels, reduction="none")


def norms_in_float64(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return |g_n| of the network in float64, one ordinary backward pass each; changes it back."""
    model.double()
    params = [p for p in model.parameters() if p.requires_grad]
    found = []
    for n in range(len(images)):
        logits = model(images[n : n + 1].double())
        grads = torch.autograd.grad(cross_entropy(logits, labels[n : n + 1]), params)
        found.append(torch.stack([g.square().sum() for g in grads]).sum().sqrt())
    model.float()
    return torch.stack(found)


@contextmanager
def noting_gradients() -> Iterator[dict[nn.Parameter, Tensor]]:
    """Take once more, in float64, the per-sample gradients of the first backward pass to come."""
    grads: dict[nn.Parameter, Tensor] = {}
    seen: set[Use] = set()
    plain = Clipper._param_grads

    def noting(clipper: Clipper, use: Use, saved: Any, grad_y: Any, n: int) -> Iterator:
        wide = [_wide(t) for t in saved]
        wide_grad = _wide(grad_y) if isinstance(grad_y, Tensor) else [_wide(g) for g in grad_y]
        axes = clipper._axes(use, grad_y, n)
        found = use.operation.param_grads(wide, wide_grad, axes, always_instantiate)
        for expression, grad in zip(use.expressions, found, strict=True):
            for param in expression.params if use not in seen else ():
                each = pulled_back(grad, expression, param).per_sample(slice(0, n))
                grads[param] = grads.get(param, 0) + each.double()
        seen.add(use)
        yield from plain(clipper, use, saved, grad_y, n)

    with patch.object(Clipper, "_param_grads", noting):
        yield grads


def _wide(tensor: Tensor | None) -> Any:
    is_float = tensor is not None and tensor.is_floating_point()
    return tensor.double() if is_float else tensor


def shares(engine: PrivacyEngine, images: Tensor, labels: Tensor) -> Tensor:
    """Return the norm, in float64, of what each sample adds to `.grad`; the others are masked."""
    found = []
    for n in range(len(images)):
        engine.model.zero_grad()
        losses = losses_of(engine.model, images, labels)
        engine.backward(losses, torch.arange(len(images)) == n)
        grads = [p.grad.double() for p in engine.names if p.grad is not None]
        found.append(torch.stack([g.square().sum() for g in grads]).sum().sqrt())
    return torch.stack(found)


def measure(network: str, size: int = IMAGE_SIZE, num_samples: int = NUM_SAMPLES) -> list[Row]:
    """Return the rows of a network, at images of `size` pixels a side."""
    model, images, labels = network_and_batch(network, size, num_samples)
    wide = norms_in_float64(model, images, labels)
    bound = 0.5 * float(wide.min())
    rows = []
    for name, algorithm in ALGORITHMS.items():
        engine = PrivacyEngine(model, clip_norm=bound, algorithm=algorithm)
        if name not in get_args(Algorithm):
            engine._clipper.planner.rule = always_ghost
        engine.rehearse(losses_of(model, images, labels))  # so that one pass is noted, not proofs
        with noting_gradients() as grads:
            norms = engine.backward(losses_of(model, images, labels))
        held = torch.stack([g.reshape(num_samples, -1).square().sum(1) for g in grads.values()])
        assert (norms > bound).all()
        slack = float(shares(engine, images, labels).max()) / bound
        engine.detach()
        model.zero_grad()
        errors = _worst(norms, held.sum(0).sqrt()), _worst(norms, wide)
        rows.append(Row(network, name, *errors, slack))
    return rows


def _worst(norms: Tensor, expected: Tensor) -> float:
    return float(((norms.double() - expected) / expected).abs().max())


def page(rows: list[Row], made_by: dict[str, Any]) -> str:
    """Return the page in Markdown."""
    git, packages = made_by["git"], made_by["packages"]
    commit = git["commit"][:12] + " and changes" * git["dirty"] if git else "an unknown commit"
    lines = [
        "# Clipping under bfloat16 autocast, against float64",
        "",
        "| network | algorithm | norm, of the same tensors | norm, of the network in float64 "
        "| largest share of a sample, over R |",
        "|---" * 5 + "|",
        *(
            f"| {r.network} | {r.algorithm} | {r.norm:.1e} | {r.precision:.1e} "
            f"| 1 {'+' if r.slack >= 1 else '-'} {abs(r.slack - 1):.1e} |"
            for r in rows
        ),
        "",
        "Relative errors, the largest of any sample. The first is the engine's own: its norms "
        "against the norms, in float64, of the very bfloat16 tensors that it was handed. The "
        "second is that of training in bfloat16. The last is what the accounted sensitivity R is "
        "held against: max |C_n g_n| / R, in float64, of what each sample gave to the sum.",
        "",
        "`auto` and `instantiate` take the sum from the tensors whose norm they took, so that a "
        "share is above R by float32 rounding alone. The paper's two passes run the backward pass "
        "again with weighted losses, which rounds every bfloat16 gradient anew: a share may then "
        "be above R by about that rounding, while epsilon is for the exact R: `dpexp train` "
        "refuses them with precision=bf16 where it would claim an epsilon.",
        "",
        f"{NUM_SAMPLES} random images of {IMAGE_SIZE}x{IMAGE_SIZE}, every parameter trainable and "
        f"random, BatchNorm replaced by GroupNorm, R half of the smallest norm. dpexp at {commit}, "
        f"torch {packages['torch']}, timm {packages['timm']}, {made_by['cpu']}.",
        "",
        "Made by `scripts/precision.py`; the numbers are in [rows.json](rows.json).",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every network, and write the page."""
    torch.set_num_threads(1)
    rows = []
    for network in NETWORKS:
        for row in measure(network):
            rows.append(row)
            print(f"{row.network:24}{row.algorithm:38}{row.norm:10.1e}{row.precision:10.1e}"
                  f"{row.slack - 1:+10.1e}", flush=True)  # fmt: skip
    made_by = describe_provenance(sys.argv)
    TARGET.mkdir(parents=True, exist_ok=True)
    document = {"made_by": made_by, "rows": [asdict(row) for row in rows]}
    (TARGET / "rows.json").write_text(json.dumps(document, indent=1) + "\n")
    (TARGET / "README.md").write_text(page(rows, made_by))


if __name__ == "__main__":
    main()
