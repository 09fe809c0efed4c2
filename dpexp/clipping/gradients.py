"""The `.grad` of the trainable parameters: what the engine wrote, and what somebody else did."""

from collections.abc import Mapping
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn

from dpexp.errors import EngineError


class OwnedGradients:
    """Adds to `.grad`, and tells whether it is still as it was left.

    Attributes:
        names: The trainable parameters and their names.
    """

    def __init__(self, names: Mapping[nn.Parameter, str]) -> None:
        self.names = names
        # Weakly: a gradient that the optimizer has let go of is not to be kept alive here.
        self._written: dict[nn.Parameter, tuple[ReferenceType[Tensor], int]] = {}

    def refuse_foreign(self) -> None:
        """Refuse a `.grad` that somebody else wrote, or added to.

        Raises:
            EngineError: Naming the first such parameter. A zeroed gradient is as good as none.
        """
        for param, name in self.names.items():
            if param.grad is None:
                continue
            if not self._is_ours(param) and param.grad.any():
                raise EngineError(
                    f"{name}.grad was not written by this engine (or was changed since): an "
                    f"unclipped gradient would reach the optimizer and epsilon would be "
                    f"meaningless. Call optimizer.zero_grad(), and engine.backward(losses) in "
                    f"place of losses.backward()"
                )

    def _is_ours(self, param: nn.Parameter) -> bool:
        if param not in self._written or param.grad is None:
            return False
        written, version = self._written[param]
        return written() is param.grad and version == param.grad._version

    def complete(self) -> None:
        """Give every parameter a `.grad`, zero where it has none, and take them over."""
        for param in self.names:
            if param.grad is None:
                param.grad = torch.zeros_like(param)
        self.take_over()

    def add(self, param: nn.Parameter, total: Tensor) -> None:
        """Add to the `.grad` of a parameter."""
        total = total.view(param.shape).to(param.dtype)
        if param.grad is None:
            param.grad = total
        else:
            param.grad += total
        self._written[param] = (ref(param.grad), param.grad._version)

    def take_over(self) -> None:
        """Count every `.grad` as written by the engine, as it is now."""
        grads = {p: p.grad for p in self.names if p.grad is not None}
        self._written = {p: (ref(grad), grad._version) for p, grad in grads.items()}

    def discard(self) -> None:
        """Leave every parameter without a `.grad`."""
        for param in self.names:
            param.grad = None
        self.give_up()

    def give_up(self) -> None:
        """Count no `.grad` as the engine's any more: a second step must not reuse its noise."""
        self._written = {}
