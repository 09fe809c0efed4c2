"""The privacy engine: clipped sums of per-sample gradients into `.grad`, noise once a step."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from dpexp.clipping.factors import FUNCTIONS
from dpexp.clipping.groups import Group, instantiated, total_norms
from dpexp.clipping.noise import NoiseSource, SeededNoise
from dpexp.clipping.per_sample import PerSampleGrad, PulledBack
from dpexp.clipping.plan import Way, choose_way
from dpexp.clipping.proof import Independence, check_losses_independent, uses_reached
from dpexp.clipping.styles import group_bound, group_names, total_bound
from dpexp.clipping.tap import Expression, Tap, Use
from dpexp.config import Algorithm, Function, Plan, Split, Style
from dpexp.errors import ConfigError, EngineError
from dpexp.mechanism import Mechanism

_TWO_PASSES = ("mixed_ghost", "ghost", "fastgradclip")
_MIB = 2**20 // 4  # float32 numbers in a MiB


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
        sensitivity: R, the bound on one sample's share of the sum over all groups; gradient units.
        noise_std: sigma R, standard deviation of the noise on the sum; gradient units.
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
        plan: Plan = "time",
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
            workspace_mib: Memory one norm may use at once, MiB.
            params: The trainable parameters, if a check that they are all of them is wanted.
            generator: Draws the noise and nothing else. None seeds one from the system.
            views: Augmented views of each sample, adjacent on the leading axis; their gradients
                are averaged before clipping.

        Raises:
            EngineError: If a trainable parameter would be missed, or the model has an engine.
            ConfigError: If the numbers are incomplete, contradict each other or are out of range.
        """
        self.model = model
        self.optimizer = optimizer
        self.names = {p: name for name, p in model.named_parameters() if p.requires_grad}
        self._check_attachable(params)
        if style != "flat" and algorithm not in ("auto", "instantiate"):
            raise ConfigError(
                f"algorithm={algorithm} with style={style}: its second backward pass weights each "
                f"loss once, so it can only clip flat; use auto or instantiate"
            )
        self.algorithm: Algorithm = algorithm
        self.groups = group_names(self.names.values(), style)
        self._set_mechanism(
            mechanism, clip_norm, noise_multiplier, expected_batch_size, sampling_rate, split
        )
        if views < 1:
            raise ConfigError(f"views={views}: a sample has at least one view")
        self.views = views
        self.num_steps = 0
        self.backward_passes = 2 if algorithm in _TWO_PASSES else 1
        self._function, self._stability = FUNCTIONS[function], stability
        self._choose = choose_way(algorithm, plan)
        self._ways: dict[tuple[str, int, int, int], Way] = {}
        self._workspace = int(workspace_mib * _MIB)
        self._noise = _noise_source(generator)
        self._independence = Independence()
        self._are_losses_checked = False
        self._written: dict[nn.Parameter, tuple[Tensor, int]] = {}
        self._tap = Tap(self.names)
        self._hooks = [
            model.register_forward_pre_hook(_StartTap(self._tap), with_kwargs=True),
            model.register_forward_hook(_StopTap(self._tap), always_call=True),
        ]
        if optimizer is not None:
            self._hooks.append(optimizer.register_step_pre_hook(self._before_step))

    def _check_attachable(self, params: Iterable[nn.Parameter] | None) -> None:
        if any(isinstance(hook, _StartTap) for hook in self.model._forward_pre_hooks.values()):
            raise EngineError(
                "this model already has a PrivacyEngine, and two would each clip and add noise; "
                "call detach() on the first"
            )
        if not self.names:
            raise EngineError(
                "the model has no trainable parameter (requires_grad is False for all of them), "
                "so there is nothing to train; unfreeze some first"
            )
        if params is not None and set(params) != set(self.names):
            given = set(params)
            missed = [name for p, name in self.names.items() if p not in given]
            raise EngineError(
                f"params leaves out {len(missed)} trainable parameter(s) of the model, or names "
                f"foreign ones: {', '.join(missed[:10]) or 'none left out'}. What is trained must "
                f"be clipped: freeze the others with requires_grad_(False)"
            )
        if self.optimizer is not None:
            held = {p for group in self.optimizer.param_groups for p in group["params"]}
            missed = [name for p, name in self.names.items() if p not in held]
            foreign = [p for p in held if p.requires_grad and p not in self.names]
            if missed:
                raise EngineError(
                    f"the optimizer lacks {len(missed)} trainable parameter(s): "
                    f"{', '.join(missed[:10])}. They would count towards every norm and never be "
                    f"updated; give them to the optimizer, or freeze them"
                )
            if foreign:
                raise EngineError(
                    f"the optimizer holds {len(foreign)} trainable parameter(s) that the model "
                    f"lacks; they would be updated without clipping or noise. Use a second "
                    f"optimizer for them"
                )

    def _set_mechanism(
        self,
        mechanism: Mechanism | None,
        clip_norm: float | None,
        noise_multiplier: float | None,
        expected_batch_size: float | None,
        sampling_rate: float | None,
        split: Split,
    ) -> None:
        numbers = (clip_norm, noise_multiplier, expected_batch_size)
        num_groups = len(self.groups)
        if mechanism is not None:
            if any(number is not None for number in (*numbers, sampling_rate)):
                raise ConfigError("give either a mechanism or its numbers, not both")
            self.sensitivity = mechanism.clip_norm
            noise_multiplier = mechanism.noise_multiplier
            expected_batch_size = mechanism.expected_batch_size
            sampling_rate = mechanism.sampling_rate
        else:
            if clip_norm is None:
                raise ConfigError("clip_norm is missing: the bound R on one sample's gradient")
            if self.optimizer is not None and None in numbers:
                raise ConfigError(
                    "noise_multiplier and expected_batch_size are missing: the optimizer's step "
                    "adds sigma R noise and divides by the public constant B; give both"
                )
            self.sensitivity = total_bound(clip_norm, num_groups, split)
        # Checks the ranges; steps and rate are known to the accountant, not here.
        checked = Mechanism(
            noise_multiplier=noise_multiplier or 0.0,
            clip_norm=self.sensitivity,
            sampling_rate=sampling_rate or 1.0,
            num_steps=1,
            expected_batch_size=1.0 if expected_batch_size is None else expected_batch_size,
        )
        self._group_bound = group_bound(self.sensitivity, num_groups, "equal")
        self._noise_multiplier = checked.noise_multiplier
        self._expected_batch_size = checked.expected_batch_size
        self._sampling_rate = sampling_rate
        self.noise_std = checked.noise_std

    def backward(self, losses: Tensor, mask: Tensor | None = None) -> Tensor:
        """Add sum_n C_n g_n to each `.grad`; return the norms |g_n|, shape (n,). Not private.

        A sample whose gradient is not finite contributes exactly zero.

        Args:
            losses: One loss per sample (per view, with views), shape (n,); nats, not averaged.
            mask: Shape (n,), false for samples that are padding and contribute nothing.

        Raises:
            EngineError: If `losses` is not one number per sample.
            UncoveredParameterError: If a trainable parameter reaches the losses past the engine.
            CrossSampleError: If one sample's loss depends on another sample.
        """
        losses = self._per_sample_losses(losses)
        num_samples = losses.shape[0]
        mask = self._checked_mask(mask, losses)
        if num_samples == 0:
            self._accumulate({})
            return losses.detach()
        self._refuse_foreign_grads()
        uses = uses_reached(losses, self.names)
        passes = list(dict.fromkeys(use.forward_pass for use in uses))
        self._prove(losses, passes, num_samples)
        if self.algorithm == "nonprivate":
            self._plain_backward(losses, mask.to(losses.dtype))
            return torch.full_like(losses, torch.nan).detach()
        groups = self._measure(losses, uses, mask)
        norms = total_norms(groups, losses.detach())
        if self.algorithm in _TWO_PASSES:
            weights, dropped = self._factors(norms.square(), mask, self.sensitivity)
            self._weighted_backward(losses, weights, dropped)
        return norms

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
        return losses.view(-1, self.views).mean(1) if self.views > 1 else losses

    def _checked_mask(self, mask: Tensor | None, losses: Tensor) -> Tensor:
        if mask is None:
            return torch.ones_like(losses, dtype=torch.bool)
        if mask.shape != losses.shape:
            raise EngineError(
                f"mask has shape {tuple(mask.shape)} for {losses.shape[0]} samples: it must say of "
                f"each sample whether it counts"
            )
        return mask.to(losses.device, torch.bool)

    def _prove(self, losses: Tensor, passes: Sequence[Any], num_samples: int) -> None:
        """Check what is relied on, once for each sequence of operations the model runs."""
        outputs, self._tap.outputs = self._tap.outputs, []
        for forward_pass in passes:
            self._independence.prove(self.model, self._tap, forward_pass, num_samples)
        if not self._are_losses_checked and num_samples > 1:
            check_losses_independent(losses, outputs)
            self._are_losses_checked = True

    def _measure(self, losses: Tensor, uses: list[Use], mask: Tensor) -> list[Group]:
        """Run the backward pass that finds the norms; clip each group as it completes."""
        groups = self._fresh_groups(uses)
        group_of = {p: group for group in groups for p in group.uses_left}
        one_pass = self.algorithm not in _TWO_PASSES

        def receive(use: Use, saved: Sequence[Tensor], grad_y: Any) -> None:
            touched = {}
            for param, grad in self._param_grads(use, saved, grad_y, losses.shape[0]):
                group = group_of[param]
                group.add(param, grad, self._workspace)
                touched[group] = None
            for group in touched:
                if group.is_complete and one_pass:
                    sums = group.clipped_sums(lambda s, g=group: self._factors(s, mask, g.bound))
                    self._accumulate(sums)

        self._accumulate({})
        self._run_backward(losses, receive)
        return groups

    def _fresh_groups(self, uses: list[Use]) -> list[Group]:
        counts = dict.fromkeys(self.names, 0)
        for use in uses:
            for expression in use.expressions:
                for param in expression.params:
                    counts[param] += 1
        by_name = {name: p for p, name in self.names.items()}
        is_kept = self.algorithm not in _TWO_PASSES
        members = [[by_name[name] for name in group] for group in self.groups.values()]
        return [
            Group(self._group_bound, {p: counts[p] for p in group if counts[p]}, is_kept)
            for group in members
        ]

    def _param_grads(
        self, use: Use, saved: Sequence[Tensor], grad_y: Any, num_samples: int
    ) -> Iterable[tuple[nn.Parameter, PerSampleGrad]]:
        """Yield each parameter that a use touches with its per-sample gradients."""
        num_outputs = 1 if isinstance(grad_y, Tensor) else len(grad_y)
        axes = self._independence.of(use, num_samples, num_outputs)

        def choose(positions: int, inputs: int, outputs: int) -> Way:
            way = self._choose(positions, inputs, outputs)
            self._ways[use.label, positions, inputs, outputs] = way
            return way

        grads = use.operation.param_grads(saved, grad_y, axes, choose)
        for expression, grad in zip(use.expressions, grads, strict=True):
            for param in expression.params:
                pulled = _pulled_back(grad, expression, param)
                yield param, instantiated(pulled) if self.algorithm == "instantiate" else pulled

    def _factors(self, squared_norms: Tensor, mask: Tensor, bound: float) -> tuple[Tensor, Tensor]:
        """Return C_n, and which samples contribute exactly nothing."""
        norms = squared_norms.sqrt()
        dropped = ~torch.isfinite(norms) | ~mask
        factors = self._function(norms, bound, self._stability)
        return factors.masked_fill(dropped, 0.0), dropped

    def _run_backward(self, losses: Tensor, receive: Any) -> None:
        """Run autograd from the losses to every use, and no further."""
        self._tap.receiver = receive
        retain = self.algorithm in _TWO_PASSES
        try:
            self._with_replay(
                lambda: torch.autograd.backward(
                    losses.sum(), inputs=[self._tap.anchor], retain_graph=retain
                )
            )
        finally:
            self._tap.receiver = None

    def _weighted_backward(self, losses: Tensor, weights: Tensor, dropped: Tensor) -> None:
        """Run the second backward pass: the gradient of sum_n C_n losses[n], added to `.grad`."""
        if not dropped.any():
            self._plain_backward(losses, weights)
            return
        ones = torch.ones_like(weights)

        def receive(use: Use, saved: Sequence[Tensor], grad_y: Any) -> None:
            for param, grad in self._param_grads(use, saved, grad_y, losses.shape[0]):
                # The loss's weight of 0 does not zero what is not finite behind it.
                self._accumulate({param: grad.zero_where(dropped).weighted_sum(ones)})

        self._run_backward(losses * weights.detach(), receive)

    def _plain_backward(self, losses: Tensor, weights: Tensor) -> None:
        """Add the ordinary gradient of sum_n weights[n] losses[n] to each `.grad`."""
        self._accumulate({})
        self._with_replay(lambda: (losses * weights.detach()).sum().backward())
        self._remember()

    def _with_replay(self, run: Any) -> None:
        """Run a backward pass, watching what a checkpointed model recomputes in it."""
        self._tap.replay()
        try:
            with self._tap:
                run()
        finally:
            self._tap.stop()

    def _refuse_foreign_grads(self) -> None:
        """Refuse a `.grad` that somebody else wrote, or added to."""
        for param, name in self.names.items():
            if param.grad is None:
                continue
            tensor, version = self._written.get(param, (None, 0))
            # set_to_none=False leaves a zeroed gradient, which is as good as none.
            is_ours = tensor is param.grad and version == param.grad._version
            if not is_ours and param.grad.any():
                raise EngineError(
                    f"{name}.grad was not written by this engine (or was changed since): an "
                    f"unclipped gradient would reach the optimizer and epsilon would be "
                    f"meaningless. Call optimizer.zero_grad(), and engine.backward(losses) in "
                    f"place of losses.backward()"
                )

    def _accumulate(self, sums: dict[nn.Parameter, Tensor]) -> None:
        """Add to `.grad`, which is zero for parameters no sample has reached."""
        for param in sums or self.names:
            total = sums.get(param)
            if param.grad is None:
                param.grad = torch.zeros_like(param) if total is None else total.to(param.dtype)
            elif total is not None:
                param.grad += total.to(param.dtype)
            self._written[param] = (param.grad, param.grad._version)

    def _remember(self) -> None:
        for param in self.names:
            assert param.grad is not None
            self._written[param] = (param.grad, param.grad._version)

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        """Turn `.grad` into (sum + sigma R z) / B, once, as the optimizer is about to step."""
        # args starts with the optimizer itself.
        if any(arg is not None for arg in (*args[1:], kwargs.get("closure"))):
            raise EngineError(
                "optimizer.step(closure) computes gradients after the noise was added, so they "
                "would be neither clipped nor noised; call step() without a closure"
            )
        self._refuse_foreign_grads()
        for param in self.names:
            if param.grad is None:
                param.grad = torch.zeros_like(param)
            if self.noise_std > 0:
                param.grad += (self._noise.normal(param) * self.noise_std).to(param.dtype)
            param.grad /= self._expected_batch_size
            # Not ours any more: a second step without zero_grad() would reuse this noise.
            self._written.pop(param, None)
        self.num_steps += 1

    def plan_rows(self) -> list[dict[str, Any]]:
        """Return which way each norm was taken, for every use and shape met so far."""
        return [
            {"use": label, "positions": t, "inputs": d, "outputs": p, "way": way}
            for (label, t, d, p), way in self._ways.items()
        ]

    def epsilon(self, delta: float) -> float:
        """Return an upper bound on epsilon for the steps taken so far, at this delta.

        It holds for Poisson-sampled batches at the engine's sampling rate, add/remove-one.

        Raises:
            EngineError: If the sampling rate is not known.
        """
        from dpexp.accounting.bounds import epsilon_bounds

        if self._sampling_rate is None:
            raise EngineError(
                "epsilon depends on the sampling rate q, which this engine was not told; pass "
                "sampling_rate=, or a mechanism="
            )
        if self.num_steps == 0:
            return 0.0
        bounds = epsilon_bounds(self._noise_multiplier, self._sampling_rate, self.num_steps, delta)
        return bounds.epsilon

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


def _noise_source(generator: torch.Generator | NoiseSource | None) -> NoiseSource:
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    return SeededNoise(generator) if isinstance(generator, torch.Generator) else generator


def _pulled_back(grad: PerSampleGrad, expression: Expression, param: nn.Parameter) -> PerSampleGrad:
    """Return gradients of a parameter from those of an expression of it."""
    if expression.value is param:
        return grad

    def pull_back(grads: Tensor) -> Tensor:
        grads = grads.to(expression.value.dtype).view(-1, *expression.value.shape)
        try:
            (found,) = torch.autograd.grad(
                expression.value, param, grads, retain_graph=True, is_grads_batched=True
            )
        except RuntimeError:
            # Some backward formulas have no batched form: take the samples one by one.
            each = [
                torch.autograd.grad(expression.value, param, g, retain_graph=True)[0] for g in grads
            ]
            found = torch.stack(each) if each else param.new_zeros(0, *param.shape)
        return found

    return PulledBack(grad, pull_back, param.shape, expression.is_reshape)


class _StartTap:
    """Forward pre-hook: watch the model, unless no gradient is wanted."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if torch.is_grad_enabled():
            self.tap.start(args, kwargs)
            self.tap.__enter__()

    def __deepcopy__(self, memo: dict) -> "_NoTap":
        return _NoTap()  # a copy of the model is a plain model


class _StopTap:
    """Forward hook: stop watching, also when the forward pass failed."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap

    def __call__(self, module: nn.Module, args: tuple, output: Any) -> None:
        if self.tap.forward_pass is not None:
            self.tap.__exit__(None, None, None)
            self.tap.outputs = [y for y in pytree.tree_leaves(output) if isinstance(y, Tensor)]
            self.tap.stop()

    def __deepcopy__(self, memo: dict) -> "_NoTap":
        return _NoTap()


class _NoTap:
    """What the hooks become in a copy of the model."""

    def __call__(self, *args: Any) -> None:
        """Do nothing."""
