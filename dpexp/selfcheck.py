"""Checks one model: every algorithm against per-sample gradients that autograd computes alone.

In float64, with every parameter randomised (at initial weights half of a network's gradients are
zero, and comparing zeros proves nothing), dropout and stochastic depth off, and the clip norm at
the median norm, so that both branches of the clip are taken.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode

from dpexp.clipping.engine import PrivacyEngine
from dpexp.config import Algorithm, TrainConfig
from dpexp.errors import ModelError, UnknownNetworkError
from dpexp.memory import peak_live_bytes
from dpexp.models.build import BuiltModel, build
from dpexp.models.networks import OWN_NETWORKS

TOLERANCE = 1e-9
ALGORITHMS: tuple[Algorithm, ...] = (
    "auto",
    "mixed_ghost",
    "ghost",
    "fastgradclip",
    "instantiate",
    "nonprivate",
)
NUM_SAMPLES = 3
NUM_CLASSES = 10
# From 32 pixels on, so that even deep or patched layers see several positions.
SIZES = (32, 48, 56, 64, 96, 112, 128, 160, 192, 224, 240, 256, 288, 299, 320, 384)


@dataclass(frozen=True)
class Finding:
    """What one algorithm gave.

    Attributes:
        algorithm: Its name.
        backward_passes: Counted, not declared.
        norm_error: Largest relative error of a per-sample norm; 0 for nonprivate, which has none.
        grad_error: Largest error of a parameter's clipped sum, relative to its reference.
        worst: The parameter with that error.
        peak_mib: Live tensor memory of forward and backward at its peak, above the model, MiB.
        seconds: Of forward and backward, once warm.
    """

    algorithm: Algorithm
    backward_passes: int
    norm_error: float
    grad_error: float
    worst: str
    peak_mib: float
    seconds: float

    @property
    def is_exact(self) -> bool:
        """Whether both errors are within tolerance; false for an error that is not a number."""
        return self.norm_error <= TOLERANCE and self.grad_error <= TOLERANCE


@dataclass(frozen=True)
class Reference:
    """What one-at-a-time autograd says.

    Attributes:
        norms: |g_n|, shape (n,).
        clipped: sum_n min(1, R / |g_n|) g_n for each parameter, R the median norm.
        plain: sum_n g_n for each parameter; empty if not wanted.
    """

    norms: Tensor
    clipped: dict[str, Tensor]
    plain: dict[str, Tensor]

    @property
    def clip_norm(self) -> float:
        """R, the median norm."""
        return float(self.norms.median())


def run(config: TrainConfig) -> bool:
    """Check the model of `config`, printing what is found; return whether all is exact."""
    built, images = smallest(config)
    model = built.module
    labels = labels_for(images)
    randomise(model)
    share = built.num_trainable / built.num_params
    _say(f"model     {built.name}: {built.num_params:,} parameters, {share:.0%} trainable")
    for note in built.notes:
        _say(f"          {note}")
    size = " x ".join(str(n) for n in images.shape[1:])
    _say(f"input     {len(images)} samples of {size}, the smallest it takes; float64")
    try:
        reference = reference_of(model, images, labels)
    except ValueError as error:  # torch's BatchNorm refuses to normalise a single value
        raise ModelError(
            f"model.name={config.model.name} does not run on one sample alone "
            f"({str(error).splitlines()[0]}), so it has no per-sample gradients; leave out "
            f"model.norm=keep"
        ) from error
    tiny = tiny_gradients(reference)
    named = f": {', '.join(tiny[:4])}{', ...' * (len(tiny) > 4)}" if tiny else ""
    _say(
        f"loop      {len(reference.clipped)} parameters; gradients of {len(tiny)} are below 1e-3 "
        f"of the median{named}"
    )
    _say(f"{'algorithm':14}{'passes':>7}{'norm error':>12}{'grad error':>12}{'MiB':>9}{'s':>7}")
    findings = []
    for finding in check(model, images, labels, reference):
        findings.append(finding)
        row = f"{finding.algorithm:14}{finding.backward_passes:7}{finding.norm_error:12.1e}"
        row += f"{finding.grad_error:12.1e}{finding.peak_mib:9.1f}{finding.seconds:7.2f}"
        _say(row if finding.is_exact else f"{row}  NOT EXACT: {finding.worst}")
    is_exact = all(finding.is_exact for finding in findings)
    verdict = "exact" if is_exact else "NOT exact"
    _say(f"verdict   {verdict}: errors relative to a per-sample loop, tolerance {TOLERANCE:g}")
    return is_exact


def smallest(config: TrainConfig) -> tuple[BuiltModel, Tensor]:
    """Build the model in float64 at the smallest input that it takes, and images for it.

    Raises:
        ModelError: If it takes none of the sizes tried.
    """
    return next(at_sizes(config))


def at_sizes(config: TrainConfig) -> Iterator[tuple[BuiltModel, Tensor]]:
    """Yield the model in float64 and images for it, at every input size it takes, smallest first.

    Raises:
        ModelError: If it takes none of the sizes tried.
    """
    own = OWN_NETWORKS.get(config.model.name)
    asked = config.model.image_size or (own.image_size if own else None)
    reasons = []
    is_taken = False
    for size in (asked,) if asked else SIZES:
        try:
            model_config = replace(config.model, image_size=size)
            built = build(model_config, num_classes=NUM_CLASSES, seed=config.seed)
            built.module.double()
            generator = torch.Generator().manual_seed(config.seed)
            shape = (NUM_SAMPLES, built.channels, size, size)
            images = torch.randn(shape, generator=generator, dtype=torch.float64)
            with torch.no_grad():
                losses_of(built.module, images, labels_for(images))
        except UnknownNetworkError:
            raise
        except (RuntimeError, ValueError, AssertionError, ArithmeticError, IndexError) as error:
            reasons.append(f"{size}: {str(error).splitlines()[0]}")
            continue
        is_taken = True
        yield built, images
        del built  # before the next is built: some are of gigabytes
    if is_taken:
        return
    raise ModelError(
        f"model.name={config.model.name} takes none of the input sizes tried ({reasons[-1]}), so "
        f"it cannot be checked; give one with model.image_size="
    )


def labels_for(images: Tensor) -> Tensor:
    """Return a label for each image, all of them different."""
    return torch.arange(len(images)) % NUM_CLASSES


def losses_of(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return each sample's loss: its cross entropy, summed over the classifiers the model has."""
    with _InFloat64():
        outputs = model(images)
    heads = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    return torch.stack([cross_entropy(y, labels, reduction="none") for y in heads]).sum(0)


class _InFloat64(TorchFunctionMode):
    """Makes `x.float()` mean float64.

    Some networks compute a part in float32 whatever they are given (EvoNorm, EfficientViT's
    attention). Rounding there differs between any two ways to the same gradient, by 1e-7.
    """

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        return func(*args, **(kwargs or {}))


def randomise(model: nn.Module) -> None:
    """Give every parameter values at which no layer hides, and switch off what is random."""
    generator = torch.Generator().manual_seed(1)
    for name, param in model.named_parameters():
        noise = torch.randn(param.shape, generator=generator, dtype=param.dtype)
        with torch.no_grad():
            if param.ndim >= 2 and param.shape[0] > 1:
                param.copy_(noise * (2 / param[0].numel()) ** 0.5)
            elif name.endswith("bias"):
                param.copy_(0.1 * noise)
            else:
                param.copy_(1 + 0.3 * noise if param.ndim == 1 else 0.5 * noise)
    for module in model.modules():
        for attribute in ("p", "drop_prob", "drop_rate", "attn_drop", "drop", "dropout"):
            if isinstance(getattr(module, attribute, None), float):
                setattr(module, attribute, 0.0)


def reference_of(
    model: nn.Module, images: Tensor, labels: Tensor, *, has_plain: bool = True
) -> Reference:
    """Return norms and sums from a loop over samples, one ordinary backward pass each."""
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def gradient(n: int) -> dict[str, Tensor]:
        loss = losses_of(model, images[n : n + 1], labels[n : n + 1])
        grads = torch.autograd.grad(loss.sum(), list(params.values()), materialize_grads=True)
        return dict(zip(params, grads, strict=True))

    squares = [sum(g.square().sum() for g in gradient(n).values()) for n in range(len(images))]
    norms = torch.stack([torch.as_tensor(s) for s in squares]).sqrt()
    bound = norms.median()
    clipped = {name: torch.zeros_like(p) for name, p in params.items()}
    plain = {name: torch.zeros_like(p) for name, p in params.items()} if has_plain else {}
    for n in range(len(images)):
        # Once more, so that no two samples' gradients are in memory together.
        factor = (bound / norms[n]).clamp(max=1)
        for name, grad in gradient(n).items():
            clipped[name].add_(grad, alpha=float(factor))
            if has_plain:
                plain[name] += grad
    return Reference(norms, clipped, plain)


def tiny_gradients(reference: Reference) -> list[str]:
    """Return the parameters whose gradient entries are below 1e-3 of the median parameter's."""
    sizes = {
        name: float(g.square().mean().sqrt()) if g.numel() else 0.0
        for name, g in reference.clipped.items()
    }
    median = sorted(sizes.values())[len(sizes) // 2]
    return [name for name, size in sizes.items() if size < 1e-3 * median]


def check(
    model: nn.Module, images: Tensor, labels: Tensor, reference: Reference
) -> Iterator[Finding]:
    """Yield what each algorithm gives on these samples."""
    for algorithm in ALGORITHMS:
        engine = PrivacyEngine(model, clip_norm=reference.clip_norm, algorithm=algorithm)
        try:
            yield _check_one(engine, algorithm, images, labels, reference)
        finally:
            engine.detach()
            model.zero_grad(set_to_none=True)


def _check_one(
    engine: PrivacyEngine,
    algorithm: Algorithm,
    images: Tensor,
    labels: Tensor,
    reference: Reference,
) -> Finding:
    model = engine.model
    passes = 0

    def count(grad: Tensor) -> None:
        nonlocal passes
        passes += 1

    def once() -> Tensor:
        model.zero_grad(set_to_none=True)
        losses = losses_of(model, images, labels)
        losses.register_hook(count)
        return engine.backward(losses)

    once()  # proves coverage and independence, which costs passes of its own
    passes = 0
    start = time.perf_counter()
    norms = once()
    seconds = time.perf_counter() - start
    counted = passes
    sums = reference.plain if algorithm == "nonprivate" else reference.clipped
    worst, error = worst_gradient(model, sums)
    norm_error = worst_norm(norms, reference) if algorithm != "nonprivate" else 0
    # Freed here, not while memory is watched: that would count as room.
    model.zero_grad(set_to_none=True)
    peak = peak_live_bytes(once, images.device)
    return Finding(algorithm, counted, norm_error, error, worst, peak / 2**20, seconds)


def worst_norm(norms: Tensor, reference: Reference) -> float:
    """Return the largest relative error of a norm."""
    return float(((norms - reference.norms) / reference.norms).abs().max())


def worst_gradient(model: nn.Module, sums: dict[str, Tensor]) -> tuple[str, float]:
    """Return the parameter whose `.grad` is furthest from its reference, and the relative error.

    Where a parameter's own gradient is next to nothing, the error is relative to the whole.
    """
    whole = float(torch.stack([g.norm() for g in sums.values()]).norm())
    errors = {}
    for name, param in model.named_parameters():
        if name in sums:
            assert param.grad is not None
            scale = max(float(sums[name].norm()), 1e-6 * whole)
            errors[name] = float((param.grad - sums[name]).detach().norm()) / scale
    worst = max(errors, key=lambda name: (errors[name] != errors[name], errors[name]))
    return worst, errors[worst]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
