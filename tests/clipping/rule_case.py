"""A case of a rule: a small model, the shape of one sample, and the operations it must meet."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from reference.gradients import Grads, by_loop, by_vmap, randomise_
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """What one row of a table says.

    Attributes:
        make: Builds the model.
        shape: Of one sample.
        uses: The operations in which parameters meet the batch, in the order of the losses' graph
            from the outputs back; the case is for these.
        tokens: Samples are integers below this, if it is given.
        has_vmap: Whether vmap knows every operation of the model.
        is_bias_alone: Whether the weight is frozen.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    uses: str
    tokens: int | None = None
    has_vmap: bool = True
    is_bias_alone: bool = False

    @property
    def has_ways(self) -> bool:
        """Whether a norm is taken one of two ways: the gradient is a product of matrices."""
        is_product = self.uses.startswith(("linear", "conv")) and not self.uses.endswith("general")
        return is_product and not self.is_bias_alone

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return randomise_(self.make().double())

    def samples(self, n: int) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        if self.tokens is not None:
            return torch.randint(0, self.tokens, (n, *self.shape), generator=generator)
        return torch.randn(n, *self.shape, generator=generator, dtype=torch.float64)

    def reference(self, n: int) -> Grads:
        return (by_vmap if self.has_vmap else by_loop)(self.model(), self.samples(n))


class Apply(nn.Module):
    """A function of the batch and of parameters of its own, by name."""

    def __init__(self, function: Callable[..., Tensor], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, **dict(self.named_parameters()))


def frozen(module: nn.Module, *names: str) -> nn.Module:
    """The module with some of its parameters frozen."""
    for name in names:
        module.get_parameter(name).requires_grad_(False)
    return module
