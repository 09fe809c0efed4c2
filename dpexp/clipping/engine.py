"""The privacy engine: clipped sums of per-sample gradients into `.grad`, noise once a step."""

import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dpexp.clipping.attach import (
    StartTap,
    StopTap,
    check_attachable,
    check_no_others,
    check_unchanged,
)
from dpexp.clipping.clipper import TWO_PASSES, Clipper
from dpexp.clipping.factors import FUNCTIONS
from dpexp.clipping.gradients import OwnedGradients
from dpexp.clipping.noise import NoiseSource, SeededNoise
from dpexp.clipping.options import check_options, mechanism_of
from dpexp.clipping.planner import Planner
from dpexp.clipping.styles import group_bound, group_names
from dpexp.config import Algorithm, Function, Plan, Split, Style
from dpexp.errors import ConfigError, EngineError
from dpexp.mechanism import Mechanism

_NUMBERS_PER_MIB = 2**18  # float32


class PrivacyEngine:
    """Makes an ordinary training loop a differentially private one.

    `backward(losses)` adds sum_n C_n g_n to `.grad`; the optimizer's step then sees

        (sum_n C_n g_n + sigma R z) / B,    z standard normal,

    with the noise added once, by the optimizer's own step hook, however many micro-batches came
    before. A step without any is the empty batch: noise alone.

    Source: Abadi et al. 2016, arXiv:1607.00133, Algorithm 1, with the constant B as lot size.

    Attributes:
        names: The trainable parameters and their names, in the model's order.
        groups: For each group that is clipped together, the names of its parameters.
        mechanism: sigma, B, and R, the bound on one sample's share of the sum over all groups.
        num_steps: Steps taken so far.
        backward_passes: Backward passes that `backward` takes.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        *,
        clip_norm: float | None = None,
        noise_multiplier: float | None = None,
        expected_batch_size: float | None = None,
        sampling_rate: float | None = None,
        mechanism: Mechanism | None = None,
        style: Style = "flat",
        function: Function = "abadi",
        algorithm: Algorithm = "auto",
        split: Split = "equal",
        stability: float = 0.01,
        plan: Plan = "balanced",
        workspace_mib: float = 256.0,
        params: Iterable[nn.Parameter] | None = None,
        generator: torch.Generator | NoiseSource | None = None,
        views: int = 1,
    ) -> None:
        """Watch `model`, and add noise whenever `optimizer` steps.

        Args:
            model: Its trainable parameters are those with `requires_grad`, now.
            optimizer: Must hold every trainable parameter. None leaves the clipped sum in `.grad`.
            clip_norm: R. For `split="per_group"` the bound of each group.
            noise_multiplier: sigma; noise standard deviation over sensitivity.
            expected_batch_size: B, samples; a public constant, never computed from the data.
            sampling_rate: q, only for `epsilon`.
            mechanism: In place of the numbers above; its `clip_norm` is the total sensitivity.
            style: Which parameters share one norm.
            function: The clip factor C_n of a norm.
            algorithm: `auto`, or one of the paper's, or `nonprivate`.
            split: What `clip_norm` bounds where there are several groups.
            stability: gamma of autos, r of psac; gradient units.
            plan: Which way `auto` takes each norm.
            workspace_mib: Memory one norm of `auto` may use at once, MiB.
            params: The trainable parameters, if a check that they are all of them is wanted.
            generator: Draws the noise and nothing else. None seeds one from the system.
            views: Augmented views of each sample, adjacent on the leading axis; their gradients
                are averaged before clipping.

        Raises:
            EngineError: If a trainable parameter would be missed, or the model has an engine.
            ConfigError: If the numbers are incomplete, contradict each other or are out of range.
        """
        self.model = model
        self.names = {p: name for name, p in model.named_parameters() if p.requires_grad}
        check_attachable(model, optimizer, self.names, params)
        check_options(
            style=style, function=function, algorithm=algorithm, split=split, plan=plan,
            stability=stability, workspace_mib=workspace_mib, views=views,
        )  # fmt: skip
        self.groups = group_names(self.names.values(), style)
        numbers = (clip_norm, noise_multiplier, expected_batch_size, sampling_rate)
        if mechanism is None:
            mechanism = mechanism_of(
                numbers, len(self.groups), split, is_complete=optimizer is None
            )
            self._sampling_rate = sampling_rate
        elif any(number is not None for number in numbers):
            raise ConfigError("give either a mechanism or its numbers, not both")
        else:
            self._sampling_rate = mechanism.sampling_rate
        self.mechanism = mechanism
        self.views = views
        self.num_steps = 0
        self.backward_passes = 2 if algorithm in TWO_PASSES else 1
        self._noise = _noise_source(generator)
        self._algorithm, self._has_optimizer = algorithm, optimizer is not None
        self._gradients = OwnedGradients(self.names)
        # The paper's algorithms are not tiled: they need what they need.
        workspace = int(workspace_mib * _NUMBERS_PER_MIB) if algorithm == "auto" else sys.maxsize
        self._clipper = Clipper(
            model,
            self._gradients,
            groups=list(self.groups.values()),
            bound=group_bound(mechanism.clip_norm, len(self.groups), "equal"),
            function=FUNCTIONS[function],
            stability=stability,
            algorithm=algorithm,
            planner=Planner(algorithm, plan, style, workspace),
            workspace=workspace,
            views=views,
        )
        self._hooks = [
            model.register_forward_pre_hook(StartTap(self._clipper.tap), with_kwargs=True),
            model.register_forward_hook(StopTap(self._clipper.tap), always_call=True),
        ]
        if optimizer is not None:
            self._hooks.append(optimizer.register_step_pre_hook(self._before_step))

    def backward(self, losses: Tensor, mask: Tensor | None = None) -> Tensor:
        """Add sum_n C_n g_n to each `.grad`; return the norms |g_n|, shape (n,). Not private.

        A sample whose gradient is not finite contributes exactly zero to every group of parameters
        in which it is not. With algorithm nonprivate nothing is clipped and the norms are NaN: they
        are not computed. Under autocast, the paper's two-pass algorithms round a sample's gradient
        anew once it is weighted, so that its share may pass R by a few thousandths.

        Args:
            losses: One loss per sample (per view, with views), shape (n,); nats, not averaged.
            mask: Shape (n,), false for samples that are padding and contribute nothing.

        Raises:
            EngineError: If `losses` is not one number per sample, or `.grad` is not the engine's.
            UncoveredParameterError: If a trainable parameter reaches the losses past the engine.
            CrossSampleError: If one sample's loss depends on another sample.
        """
        losses = self._per_sample_losses(losses)
        mask = _checked_mask(mask, losses)
        check_unchanged(self.model, self.names)
        self._gradients.refuse_foreign()
        if losses.shape[0] == 0:
            self._gradients.complete()
            return losses.detach()
        return self._clipper.backward(losses, mask)

    def rehearse(self, losses: Tensor) -> None:
        """Run `backward` to find what it would refuse, and throw its sums away.

        No plan is made, for which a rehearsal's few samples would not speak. A `.grad` that was
        there before is lost.

        Args:
            losses: As for `backward`.

        Raises:
            EngineError, UncoveredParameterError, CrossSampleError: As `backward` does.
        """
        losses = self._per_sample_losses(losses)
        check_unchanged(self.model, self.names)
        if losses.shape[0]:
            self._clipper.backward(losses, _checked_mask(None, losses), is_planned=False)
        self._gradients.discard()

    def _per_sample_losses(self, losses: Tensor) -> Tensor:
        if not isinstance(losses, Tensor) or losses.ndim != 1:
            found = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise EngineError(
                f"losses must be one number per sample, shape (n,), but is {found}: per-sample "
                f"gradients cannot be told apart in a sum or mean. Use reduction='none', and sum "
                f"over a sample's own outputs"
            )
        if losses.shape[0] and not losses.requires_grad:
            raise EngineError(
                "losses have no gradient: they were computed under no_grad, or detached, so there "
                "is nothing to clip. Compute them from model(...) with gradients enabled"
            )
        if losses.shape[0] % self.views:
            raise EngineError(
                f"{losses.shape[0]} losses are no multiple of views={self.views}: the views of a "
                f"sample must be adjacent, so that they can be averaged before clipping"
            )
        return losses.reshape(-1, self.views).mean(1) if self.views > 1 else losses

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        """Turn `.grad` into (sum + sigma R z) / B, once, as the optimizer is about to step."""
        # args starts with the optimizer itself.
        if any(arg is not None for arg in (*args[1:], kwargs.get("closure"))):
            raise EngineError(
                "optimizer.step(closure) computes gradients after the noise was added, so they "
                "would be neither clipped nor noised; call step() without a closure"
            )
        check_unchanged(self.model, self.names)
        check_no_others(optimizer, self.names)
        self._gradients.refuse_foreign()
        self._gradients.complete()
        for param in self.names:
            assert param.grad is not None
            if self.mechanism.noise_std > 0:
                noise = self._noise.normal(param) * self.mechanism.noise_std
                param.grad += noise.to(param.dtype)
            param.grad /= self.mechanism.expected_batch_size
        self._gradients.give_up()
        self.num_steps += 1

    def plan_rows(self, *, is_full: bool = False) -> list[dict[str, Any]]:
        """Return which way each product was taken, for every use and shape met so far.

        Args:
            is_full: Whether to say also what it costs: `operations`, multiply-adds of the norm a
                sample, and `seconds`, of every way a sample, None where costs did not decide.
        """
        return self._clipper.planner.rows(is_full=is_full)

    def load_plan(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take every product as `plan_rows` of another engine says, so that sums round alike."""
        self._clipper.planner.load(rows)

    def epsilon(self, delta: float) -> float:
        """Return an upper bound on epsilon for the steps taken so far, at this delta.

        It holds for Poisson-sampled batches at the engine's sampling rate, add/remove-one.

        Raises:
            EngineError: If the sampling rate is not known, or the batches were not Poisson draws.
        """
        from dpexp.accounting.bounds import epsilon_bounds

        if not self._has_optimizer:
            raise EngineError(
                "this engine has no optimizer, so it neither adds noise nor sees the steps, and "
                "has no epsilon to report; pass the optimizer"
            )
        if self._sampling_rate is None:
            raise EngineError(
                "epsilon depends on the sampling rate q, which this engine was not told; pass "
                "sampling_rate=, or a mechanism="
            )
        if self.mechanism.sampler != "poisson":
            raise EngineError(
                f"epsilon is known for Poisson draws, but this mechanism says its batches are by "
                f"{self.mechanism.sampler!r}, which carries no such guarantee"
            )
        if self.num_steps == 0:
            return 0.0
        if self._algorithm == "nonprivate":
            return math.inf  # nothing is clipped: noise bounds nothing
        sigma = self.mechanism.noise_multiplier
        return epsilon_bounds(sigma, self._sampling_rate, self.num_steps, delta).epsilon

    def state_dict(self) -> dict[str, int]:
        """Return what a resumed run needs to know."""
        return {"num_steps": self.num_steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a saved state."""
        self.num_steps = int(state["num_steps"])

    def detach(self) -> nn.Module:
        """Return the plain model; the engine no longer watches it or adds noise."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        return self.model


def _checked_mask(mask: Tensor | None, losses: Tensor) -> Tensor:
    if mask is None:
        return torch.ones_like(losses, dtype=torch.bool)
    if mask.shape != losses.shape:
        raise EngineError(
            f"mask has shape {tuple(mask.shape)} for {losses.shape[0]} samples: it must say of "
            f"each sample whether it counts"
        )
    return mask.to(losses.device, torch.bool)


def _noise_source(generator: torch.Generator | NoiseSource | None) -> NoiseSource:
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    return SeededNoise(generator) if isinstance(generator, torch.Generator) else generator
