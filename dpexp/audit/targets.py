"""Weights and samples whose whole gradient lies, as nearly as can be, in one parameter.

If a parameter were missing from the norm, a sample whose gradient lies there would hardly be
clipped at all. An attacker may choose the weights, for the guarantee holds at any, and the sample:
the search multiplies the parameter, those before and after it, and the image by powers of ten.
"""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dpexp.audit.canaries import HUGE, image_records
from dpexp.audit.subject import Materials, Subject

_OWN = (1.0, 0.01, 0.0, 10.0)
_EARLIER = (1.0, 0.0, 10.0)
_LATER = (1.0, 10.0, 100.0, 0.1)
_IMAGE = (1.0, 0.0, 100.0)
_ENOUGH = 0.99  # of the gradient
_LARGEST = 1e15  # norm whose square is far from the largest float32


@dataclass(frozen=True)
class Factors:
    """What parameters are multiplied by.

    Attributes:
        own: The one parameter.
        earlier: Those before it, in the model's order. At zero, with an image of zero, nothing
            before a layer's bias has a gradient, nor the layer's weight.
        later: Those after it.
    """

    own: float
    earlier: float
    later: float


CANDIDATES = [Factors(*each) for each in itertools.product(_OWN, _EARLIER, _LATER)]


@dataclass(frozen=True)
class Target:
    """A sample for one parameter, and the weights at which it is used.

    Attributes:
        name: Of the parameter.
        factors: What the weights are multiplied by.
        record: Shape (1, 3 + pixels).
        label: Shape (1,).
        gradient: Its gradient over its norm, one tensor a parameter of the network.
        norm: Its norm, before clipping.
        share: Norm of the part in the parameter, over the norm of all.
    """

    name: str
    factors: Factors
    record: Tensor
    label: Tensor
    gradient: dict[str, Tensor]
    norm: float
    share: float


def parameters_of(subject: Subject) -> dict[str, nn.Parameter]:
    """Return the trainable parameters of the network that is audited."""
    return {n: p for n, p in subject.model.network.named_parameters() if p.requires_grad}


def find_target(subject: Subject, materials: Materials, name: str, row: int) -> Target | None:
    """Return the sample with the largest share of its gradient in a parameter.

    Args:
        subject: Its weights are as before afterwards.
        materials: Whose image is used.
        name: Of the parameter.
        row: Of the training image that is multiplied.

    Returns:
        None if no candidate has a gradient above zero in the parameter, and none too large.
    """
    image, _ = materials.images([row])
    best: Target | None = None
    for factors in CANDIDATES:
        with weights(subject, name, factors):
            for factor in _IMAGE:
                found = _candidate(subject, name, factors, factor * image)
                if found and (best is None or found.share > best.share):
                    best = found
        if best and best.share > _ENOUGH:
            break
    return best


@contextmanager
def weights(subject: Subject, name: str, factors: Factors) -> Iterator[None]:
    """Multiply the trainable parameters of the network, for the block."""
    params = parameters_of(subject)
    old = {n: p.detach().clone() for n, p in params.items()}
    try:
        with torch.no_grad():
            factor = factors.earlier
            for n, p in params.items():
                p.mul_(factors.own if n == name else factor)
                factor = factors.later if n == name else factor
        yield
    finally:
        with torch.no_grad():
            for n, p in params.items():
                p.copy_(old[n])


def _candidate(subject: Subject, name: str, factors: Factors, image: Tensor) -> Target | None:
    """Return an image with the label that the network finds least likely, its loss made huge."""
    record = image_records(image, HUGE)
    params = parameters_of(subject)
    device = next(iter(params.values())).device
    # The network alone, past the engine: the auditor's own gradient, by plain autograd.
    logits = subject.model.network(image.to(device))
    label = logits.argmin(1)
    loss = cross_entropy(HUGE * logits.float(), label)
    found = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
    grads = {
        n: torch.zeros_like(p) if g is None else g
        for (n, p), g in zip(params.items(), found, strict=True)
    }
    flat = {n: g.detach().flatten().to("cpu", torch.float64) for n, g in grads.items()}
    norm = math.sqrt(sum(float(g.square().sum()) for g in flat.values()))
    if not 0 < norm < _LARGEST:
        return None
    share = float(flat[name].norm()) / norm
    direction = {n: g / norm for n, g in flat.items()}
    if share == 0:
        return None
    return Target(name, factors, record, label.cpu(), direction, norm, share)
