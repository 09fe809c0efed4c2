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


def check_unchanged(model: nn.Module, names: Mapping[nn.Parameter, str]) -> None:
    """Check that the trainable parameters are still those that the engine was attached to.

    Raises:
        EngineError: If one became trainable, and would be updated without clipping or noise, or was
            frozen, and would be moved by noise alone.
    """
    changed = [n for n, p in model.named_parameters() if p.requires_grad != (p in names)]
    if changed:
        raise EngineError(
            f"{len(changed)} parameter(s) were frozen, unfrozen or replaced since the engine was "
            f"attached: {', '.join(changed[:10])}. It clips and adds noise to what was trainable "
            f"then; detach() it and attach a new one"
        )


def check_no_others(optimizer: Optimizer, names: Mapping[nn.Parameter, str]) -> None:
    """Check that the optimizer is about to update no parameter that the engine does not know.

    Raises:
        EngineError: If it is.
    """
    held = [p for group in optimizer.param_groups for p in group["params"]]
    others = [p for p in held if p not in names and p.grad is not None and p.grad.any()]
    if others:
        raise EngineError(
            f"the optimizer holds {len(others)} parameter(s) with a gradient that this engine did "
            f"not write, such as one of shape {tuple(others[0].shape)}; they would be updated "
            f"without clipping or noise. Use a second optimizer for them"
        )


class StartTap:
    """Forward pre-hook: watch the model, unless no gradient is wanted."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if torch.is_grad_enabled():
            running = self.tap.forward_pass
            if running is not None and not running.is_replay:
                raise EngineError(
                    "the model calls itself within its forward pass, which the engine cannot "
                    "follow; call an inner method in place of the model"
                )
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
