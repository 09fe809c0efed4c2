"""Per-sample gradients the slow way: autograd on one sample alone. Nothing of dpexp is used."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

# By name of the parameter, shape (n, *shape): g_n of every sample.
Grads = dict[str, Tensor]
# Outputs of n samples -> their losses, shape (n,).
Losses = Callable[[Tensor], Tensor]


def weighted_outputs(outputs: Tensor) -> Tensor:
    """Losses that weigh every output of a sample differently, and in which all of them meet."""
    flat = outputs.flatten(1)
    weights = torch.linspace(0.5, 2.0, flat.shape[1], dtype=flat.dtype, device=flat.device)
    total = (weights * flat.sin()).sum(1)
    return total + total.sin() / 2


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def by_vmap(model: nn.Module, x: Tensor, losses: Losses = weighted_outputs) -> Grads:
    params = {name: p.detach() for name, p in trainable(model).items()}

    def loss(params: dict[str, Tensor], x_n: Tensor) -> Tensor:
        return losses(functional_call(model, params, (x_n[None],)))[0]

    return vmap(grad(loss), in_dims=(None, 0))(params, x)


def by_loop(model: nn.Module, x: Tensor, losses: Losses = weighted_outputs) -> Grads:
    params = trainable(model)
    rows = [
        torch.autograd.grad(
            losses(model(x[i : i + 1])).sum(), list(params.values()), materialize_grads=True,
            allow_unused=True,
        )
        for i in range(len(x))
    ]  # fmt: skip
    return {name: torch.stack(g) for name, g in zip(params, zip(*rows, strict=True), strict=True)}


def norms(grads: Grads) -> Tensor:
    """|g_n| over all of the parameters given, shape (n,)."""
    squares = [g.square().reshape(len(g), -1).sum(1) for g in grads.values()]
    return torch.stack(squares).sum(0).sqrt()


def weighted(grads: Grads, weights: Tensor) -> dict[str, Tensor]:
    """sum_n weights[n] g_n of every parameter."""
    return {name: torch.einsum("n,n...->...", weights, g) for name, g in grads.items()}


def randomise_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter values between 0.5 and 1.5 of either sign: no gradient is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            size = torch.rand(p.shape, generator=generator, dtype=p.dtype) + 0.5
            sign = torch.randint(0, 2, p.shape, generator=generator) * 2 - 1
            p.copy_(size * sign)
    return model
