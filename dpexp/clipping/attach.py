"""Attaching an engine: what is refused beforehand, and the hooks that start and stop the watch."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dpexp.clipping.tap import Tap
from dpexp.errors import EngineError


def check_attachable(
    model: nn.Module,
    optimizer: Optimizer | None,
    names: Mapping[nn.Parameter, str],
    params: Iterable[nn.Parameter] | None,
) -> None:
    """Check that every trainable parameter would be clipped and noised, by one engine.

    Raises:
        EngineError: If not; says which.
    """
    if any(isinstance(hook, StartTap) for hook in model._forward_pre_hooks.values()):
        raise EngineError(
            "this model already has a PrivacyEngine, and two would each clip and add noise; call "
            "detach() on the first"
        )
    if not names:
        raise EngineError(
            "the model has no trainable parameter (requires_grad is False for all of them), so "
            "there is nothing to train; unfreeze some first"
        )
    if params is not None:
        _check_params(names, set(params))
    if optimizer is not None:
        _check_optimizer(names, optimizer)


def _check_params(names: Mapping[nn.Parameter, str], given: set[nn.Parameter]) -> None:
    if given != set(names):
        missed = [name for p, name in names.items() if p not in given]
        raise EngineError(
            f"params leaves out {len(missed)} trainable parameter(s) of the model, or has foreign "
            f"ones: {', '.join(missed[:10]) or 'none left out'}. What is trained must be clipped: "
            f"freeze the others with requires_grad_(False)"
        )


def _check_optimizer(names: Mapping[nn.Parameter, str], optimizer: Optimizer) -> None:
    held = {p for group in optimizer.param_groups for p in group["params"]}
    missed = [name for p, name in names.items() if p not in held]
    if missed:
        raise EngineError(
            f"the optimizer lacks {len(missed)} trainable parameter(s): {', '.join(missed[:10])}. "
            f"They would count towards every norm and never be updated; give them to the "
            f"optimizer, or freeze them"
        )
    foreign = [p for p in held if p.requires_grad and p not in names]
    if foreign:
        raise EngineError(
            f"the optimizer holds {len(foreign)} trainable parameter(s) that the model lacks; they "
            f"would be updated without clipping or noise. Use a second optimizer for them"
        )


class StartTap:
    """Forward pre-hook: watch the model, unless no gradient is wanted."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if torch.is_grad_enabled():
            self.tap.start(args, kwargs)
            self.tap.__enter__()

    def __deepcopy__(self, memo: dict) -> "_NoTap":
        return _NoTap()  # a copy of the model is a plain model


class StopTap:
    """Forward hook: stop watching, also when the forward pass failed."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap

    def __call__(self, module: nn.Module, args: tuple, output: Any) -> None:
        if self.tap.forward_pass is not None:
            self.tap.__exit__(None, None, None)
            self.tap.stop()

    def __deepcopy__(self, memo: dict) -> "_NoTap":
        return _NoTap()


class _NoTap:
    """What the hooks become in a copy of the model."""

    def __call__(self, *args: Any) -> None:
        """Do nothing."""
