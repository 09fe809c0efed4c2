"""Neural tangent kernels of a network at one state, whole and by layers, clipped and not.

With f the outputs of n samples, K each, sample after sample, L the sum of their losses and w_r the
parameters of layer r:

    H_r = (df/dw_r) (df/dw_r)^T,    H = sum_r H_r,    g_i,r = (dl_i/df_i) (df_i/dw_r),

and under gradient flow of the clipped sum, dw/dt = -sum_i C_i g_i, the loss changes at the rate

    dL/dt = -(dL/df) H C (dL/df)^T,    C = diag(C_1, ..., C_n) (x) I_K,

with sum_r H_r C_r in place of H C where each layer is clipped on its own.

Source: Bu et al. 2023, arXiv:2106.07830, its kernels of gradient flow; K outputs are ours.

Nothing here uses the engine: it is the other side of each comparison with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from dpexp.clipping.factors import FUNCTIONS
from dpexp.config import Function
from dpexp.theory.subjects import Subject

STABILITY = 0.01  # not used by abadi and global


@dataclass(frozen=True)
class Tangent:
    """A network at one state, linearised.

    Attributes:
        layers: H_r of each layer, by its name; shape (nK, nK).
        slopes: dL/df, shape (n, K).
        layer_norms: |g_i,r|, gradient units, shape (M, n), layers in the order of `layers`.
        loss: L, the sum over samples.
    """

    layers: dict[str, Tensor]
    slopes: Tensor
    layer_norms: Tensor
    loss: float

    @property
    def kernel(self) -> Float[Tensor, "m m"]:
        """H, the sum over layers."""
        return torch.stack(list(self.layers.values())).sum(0)

    @property
    def norms(self) -> Float[Tensor, " n"]:
        """|g_i| over all layers."""
        return self.layer_norms.square().sum(0).sqrt()

    @property
    def batch_norm(self) -> float:
        """Norm of the whole gradient, |sum_i g_i|: the root of (dL/df) H (dL/df)^T."""
        return max(-self.loss_rate(self.kernel), 0.0) ** 0.5

    def flat(self, bound: float, function: Function = "abadi") -> Float[Tensor, "m m"]:
        """Return H C, every sample clipped to `bound`."""
        return self.kernel * self._diagonal(FUNCTIONS[function](self.norms, bound, STABILITY))

    def layerwise(
        self, bounds: Sequence[float], function: Function = "abadi"
    ) -> Float[Tensor, "m m"]:
        """Return sum_r H_r C_r, layer r of every sample clipped to its own bound R_r."""
        clip = FUNCTIONS[function]
        terms = [
            kernel * self._diagonal(clip(norms, bound, STABILITY))
            for kernel, norms, bound in zip(
                self.layers.values(), self.layer_norms, bounds, strict=True
            )
        ]
        return torch.stack(terms).sum(0)

    def flat_twin(self, bound: float) -> Float[Tensor, "m m"]:
        """Return C^1/2 H C^1/2: symmetric, and with the eigenvalues of H C."""
        roots = self._diagonal(FUNCTIONS["abadi"](self.norms, bound, STABILITY)).sqrt()
        return roots[:, None] * self.kernel * roots

    def batch(self, bound: float) -> Float[Tensor, "m m"]:
        """Return c H: the whole gradient clipped to `bound`, one factor for all samples."""
        return self.kernel * min(1.0, bound / self.batch_norm)

    def loss_rate(self, kernel: Float[Tensor, "m m"]) -> float:
        """Return dL/dt = -(dL/df) kernel (dL/df)^T, loss a unit of time."""
        slopes = self.slopes.flatten()
        return -float(slopes @ kernel @ slopes)

    def _diagonal(self, factors: Float[Tensor, " n"]) -> Float[Tensor, " m"]:
        """Return the diagonal of C (x) I_K; times a matrix it scales the matrix's columns."""
        return factors.repeat_interleave(self.slopes.shape[1])


def tangent_at(model: nn.Module, subject: Subject) -> Tangent:
    """Return kernels, slopes and norms of `model` on the subject's samples, by autograd."""
    params = {name: param.detach() for name, param in model.named_parameters()}

    def outputs_of(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(model, weights, (x[None],))[0]

    jacobians = vmap(jacrev(outputs_of), (None, 0))(params, subject.inputs)
    outputs = model(subject.inputs).detach().requires_grad_()
    loss = subject.losses(outputs).sum()
    (slopes,) = torch.autograd.grad(loss, outputs)
    by_layer: dict[str, list[Tensor]] = {}
    for name, jacobian in jacobians.items():
        by_layer.setdefault(name.rpartition(".")[0], []).append(jacobian.flatten(2))
    kernels, norms = {}, []
    for layer, parts in by_layer.items():
        jacobian = torch.cat(parts, dim=2)
        rows = jacobian.flatten(0, 1)
        kernels[layer] = rows @ rows.T
        norms.append(torch.einsum("nk,nkp->np", slopes, jacobian).norm(dim=1))
    return Tangent(kernels, slopes, torch.stack(norms), loss.item())
