"""Optimizers and learning-rate schedules. Everything is counted in optimizer steps."""

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer

from dpexp.config import OptimizerConfig, ScheduleConfig


def build_optimizer(config: OptimizerConfig, params: Iterable[nn.Parameter]) -> Optimizer:
    """Return the optimizer that `config` names, over `params`."""
    params = list(params)
    if config.name == "sgd":
        return torch.optim.SGD(
            params, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    adam = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    betas = (config.betas[0], config.betas[1])
    return adam(
        params, lr=config.lr, betas=betas, eps=config.adam_eps, weight_decay=config.weight_decay
    )


def lr_factor(config: ScheduleConfig, step: int, num_steps: int) -> float:
    """Return the learning rate of a step, as a factor of `optimizer.lr`.

    Warm-up rises linearly to 1 at step `warmup_steps`; cosine then falls to `final_factor` at the
    end of the run.

    Args:
        config: The schedule.
        step: Steps taken before this one, from 0.
        num_steps: K, of the whole run.
    """
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    if config.name == "constant":
        return 1.0
    length = max(1, num_steps - config.warmup_steps)
    progress = (step - config.warmup_steps) / length
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return config.final_factor + (1 - config.final_factor) * cosine


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
