"""Clipped sums of per-sample gradients, by one backward pass or by the paper's two."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from dpexp.clipping.factors import ClipFunction
from dpexp.clipping.gradients import OwnedGradients
from dpexp.clipping.groups import Group, Waiting, count_small, may_have, total_norms
from dpexp.clipping.independence import Independence
from dpexp.clipping.measure import measured
from dpexp.clipping.per_sample import Dense, PerSampleGrad, PulledBack
from dpexp.clipping.plan import Costs, Problem, Way, always_ghost
from dpexp.clipping.planner import Planner
from dpexp.clipping.proof import Reached, check_only_own_rows, parts, uses_reached
from dpexp.clipping.rules.convolution_outer import ConvolutionOuter
from dpexp.clipping.rules.general import as_list
from dpexp.clipping.rules.outer import Outer
from dpexp.clipping.rules.rule import SampleAxes
from dpexp.clipping.tap import Expression, Receiver, Tap, Use
from dpexp.config import Algorithm
from dpexp.errors import UncoveredParameterError

TWO_PASSES = ("mixed_ghost", "ghost", "fastgradclip")


class Clipper:
    """Turns losses into clipped sums in `.grad`; see `PrivacyEngine` for what the numbers mean.

    Attributes:
        tap: Watches the model.
        planner: Which way each norm was and will be taken.
    """

    def __init__(
        self,
        model: nn.Module,
        gradients: OwnedGradients,
        *,
        groups: Sequence[Sequence[str]],
        bound: float,
        function: ClipFunction,
        stability: float,
        algorithm: Algorithm,
        planner: Planner,
        workspace: int,
        views: int,
    ) -> None:
        """Prepare to clip `model`.

        Args:
            model: The watched model.
            gradients: What clipped sums are added to.
            groups: Names of the parameters of each group.
            bound: R of each group, gradient units.
            function: Norms to factors.
            stability: Passed to `function`.
            algorithm: How the sums are computed; not what they are.
            planner: The way each norm is taken.
            workspace: Numbers that one norm may hold at once.
            views: Rows of the model's inputs that belong to one sample.
        """
        self.tap = Tap(dict(gradients.names))
        self.planner = planner
        self._model = model
        self._gradients = gradients
        by_name = {name: p for p, name in gradients.names.items()}
        self._members = [[by_name[name] for name in group] for group in groups]
        self._bound, self._function, self._stability = bound, function, stability
        self._algorithm, self._workspace = algorithm, workspace
        self._independence = Independence(views)
        self._proved_graphs: set[tuple[str, ...]] = set()

    def backward(self, losses: Tensor, mask: Tensor, *, is_planned: bool = True) -> Tensor:
        """Add sum_n C_n g_n to `.grad`; return |g_n|, shape (n,), or NaN where none is computed.

        Args:
            losses: One per sample, shape (n,), n at least 1.
            mask: Which samples count, shape (n,).
            is_planned: Whether calls met for the first time are measured, and a plan made of it.

        Raises:
            UncoveredParameterError: If a trainable parameter reaches the losses past the tap.
            CrossSampleError: If one sample's loss depends on another sample.
        """
        reached = uses_reached(losses, self.tap.names)
        self._prove(losses, reached)
        uses = reached.uses
        if not uses:
            raise UncoveredParameterError(
                "no trainable parameter of the model reaches these losses, so the step would be "
                "noise alone: they come from another model, or from outputs computed before the "
                "engine was there. Compute them from model(...) anew"
            )
        if self._algorithm == "nonprivate":
            self._plain_backward(losses, mask.to(losses.dtype))
            norms = torch.full_like(losses, torch.nan).detach()
        else:
            met = dict(self.planner.met)
            if is_planned:
                self._settle_plan(losses, uses)
            groups = self._measure(losses, uses, mask)
            norms = total_norms(groups, losses.detach())
            if self._algorithm in TWO_PASSES:
                weights, dropped = self._factors(norms, mask)
                self._weighted_backward(losses, weights, dropped)
            if not is_planned:
                self.planner.met = met
        self._gradients.complete()
        return norms

    def _prove(self, losses: Tensor, reached: Reached) -> None:
        """Check what is relied on, once for each sequence of operations the model and loss run."""
        num_samples = losses.shape[0]
        for forward_pass in dict.fromkeys(use.forward_pass for use in reached.uses):
            self._independence.prove(self._model, self.tap, forward_pass, num_samples)
        if reached.graph not in self._proved_graphs and num_samples > 1:
            for part in parts(num_samples):
                self._check_losses(losses, part)
            # What is not finite proves nothing: then the next batch is checked too.
            if losses.isfinite().all():
                self._proved_graphs.add(reached.graph)

    def _check_losses(self, losses: Tensor, part: Tensor) -> None:
        """Check that the losses of some samples have no gradient at the others, in any use."""

        def receive(use: Use, saved: Sequence[Tensor], grad_y: Any) -> None:
            axes = self._axes(use, grad_y, losses.shape[0])
            check_only_own_rows(use, as_list(grad_y), axes, part)

        self._run(losses[part.to(losses.device)], receive, retain_graph=True)

    def _axes(self, use: Use, grad_y: Any, num_samples: int) -> SampleAxes:
        return self._independence.of(use, num_samples, len(as_list(grad_y)))

    def _measure(self, losses: Tensor, uses: list[Use], mask: Tensor) -> list[Group]:
        """Run the backward pass that finds the norms; clip each group as it completes."""
        groups = self._fresh_groups(uses)
        group_of = {p: group for group in groups for p in group.uses_left}
        waiting = Waiting()

        def receive(use: Use, saved: Sequence[Tensor], grad_y: Any) -> None:
            touched: set[Group] = set()
            for param, grad in self._param_grads(use, saved, grad_y, losses.shape[0]):
                group_of[param].add(param, grad, self._workspace)
                touched.add(group_of[param])
            for group in touched:
                if group.is_complete and group.is_kept and (ready := waiting.after(group)):
                    self._clip(ready, mask)

        self._run(losses, receive, retain_graph=self._algorithm in TWO_PASSES)
        assert all(group.is_complete for group in groups), "the backward pass missed a use"
        if ready := waiting.rest():
            self._clip(ready, mask)
        count_small(groups)
        return groups

    @torch.no_grad()
    def _clip(self, groups: list[Group], mask: Tensor) -> None:
        """Add the clipped sums of complete groups to `.grad`."""
        small = count_small(groups)
        weights, dropped = self._factors(torch.stack([g.norms for g in groups]), mask)
        has_dropped = may_have(dropped)
        for group, *each in zip(groups, weights, dropped, strict=True):
            for param, total in group.clipped_sums(*each, has_dropped=has_dropped):
                self._gradients.add(param, total)
        if small is not None:
            for param, total in small.clipped_sums(weights, dropped, has_dropped=has_dropped):
                self._gradients.add(param, total)

    def _settle_plan(self, losses: Tensor, uses: list[Use]) -> None:
        """Time the ways of every product, the first time that calls like these are met."""
        passes = dict.fromkeys(use.forward_pass for use in uses)
        key = tuple((each.signature, each.sample_shapes) for each in passes)
        if self.planner.is_settled(key):
            return
        costs: dict[Problem, Costs] = {}
        labels: dict[Problem, list[str]] = {}

        def receive(use: Use, saved: Sequence[Tensor], grad_y: Any) -> None:
            axes = self._axes(use, grad_y, losses.shape[0])
            for grad in use.operation.param_grads(saved, grad_y, axes, always_ghost):
                if not isinstance(grad, Outer | ConvolutionOuter):
                    continue
                problem = grad.problem
                if not self.planner.has_decided(use.label, problem):
                    # The uses reached last come first: what they keep is held for least time.
                    labels.setdefault(problem, []).insert(0, use.label)
                    if problem not in costs:
                        costs[problem] = measured(grad, self._workspace)

        self._run(losses, receive, retain_graph=True)
        self.planner.settle(key, costs, labels)

    def _fresh_groups(self, uses: list[Use]) -> list[Group]:
        counts = dict.fromkeys(self.tap.names, 0)
        for use in uses:
            for expression in use.expressions:
                for param in expression.params:
                    counts[param] += 1
        is_kept = self._algorithm not in TWO_PASSES
        return [
            Group({p: counts[p] for p in group if counts[p]}, is_kept) for group in self._members
        ]

    def _param_grads(
        self, use: Use, saved: Sequence[Tensor], grad_y: Any, num_samples: int
    ) -> Iterator[tuple[nn.Parameter, PerSampleGrad]]:
        """Yield each parameter that a use touches with its per-sample gradients."""

        def choose(problem: Problem) -> Way:
            return self.planner.choose(use.label, problem)

        axes = self._axes(use, grad_y, num_samples)
        grads = use.operation.param_grads(saved, grad_y, axes, choose)
        for expression, grad in zip(use.expressions, grads, strict=True):
            for param in expression.params:
                pulled = pulled_back(grad, expression, param)
                if self._algorithm == "instantiate":
                    pulled = Dense(pulled.per_sample(slice(0, num_samples)))
                yield param, pulled

    def _factors(self, norms: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return C_n, and which samples contribute exactly nothing; one row a group if several."""
        dropped = ~torch.isfinite(norms) | ~mask
        factors = self._function(norms, self._bound, self._stability)
        return factors.masked_fill(dropped, 0.0), dropped

    def _weighted_backward(self, losses: Tensor, weights: Tensor, dropped: Tensor) -> None:
        """Run the second backward pass: the gradient of sum_n C_n losses[n], added to `.grad`."""
        if not may_have(dropped):
            self._plain_backward(losses, weights)
            return
        ones = torch.ones_like(weights)

        def receive(use: Use, saved: Sequence[Tensor], grad_y: Any) -> None:
            for param, grad in self._param_grads(use, saved, grad_y, losses.shape[0]):
                # The loss's weight of 0 does not zero what is not finite behind it.
                self._gradients.add(param, grad.zero_where(dropped).weighted_sum(ones))

        self._run(losses * weights.detach(), receive)

    def _plain_backward(self, losses: Tensor, weights: Tensor) -> None:
        """Add the ordinary gradient of sum_n weights[n] losses[n] to each `.grad`."""
        self._watching((losses * weights.detach()).sum())

    def _run(self, losses: Tensor, receive: Receiver, *, retain_graph: bool = False) -> None:
        """Run autograd from the losses to every use, and no further."""
        self.tap.receiver = receive
        try:
            self._watching(losses.sum(), inputs=[self.tap.anchor], retain_graph=retain_graph)
        finally:
            self.tap.receiver = None

    def _watching(
        self, total: Tensor, inputs: Sequence[Tensor] = (), *, retain_graph: bool = False
    ) -> None:
        """Run the backward pass of `total`, watching what a checkpointed model recomputes in it.

        Args:
            total: The sum to differentiate.
            inputs: What gradients are wanted of; all leaves if empty.
            retain_graph: Whether another pass follows.
        """
        # By edges of the graph: a call on tensors would be watched itself, and hide what it runs.
        edges = [get_gradient_edge(leaf) for leaf in inputs]
        start, one = get_gradient_edge(total), torch.ones_like(total)
        self.tap.replay()
        try:
            with self.tap:
                torch.autograd.backward(start, one, inputs=edges or None, retain_graph=retain_graph)
        finally:
            self.tap.stop()


def pulled_back(grad: PerSampleGrad, expression: Expression, param: nn.Parameter) -> PerSampleGrad:
    """Return gradients of a parameter from those of an expression of it."""
    if expression.value is param:
        return grad
    if expression.is_reshape:
        if isinstance(grad, Dense):
            return Dense(grad.grads.reshape(-1, *param.shape))
        return PulledBack(grad, lambda grads: grads.reshape(-1, *param.shape), param.shape, True)

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
            found = torch.stack(each)
        return found

    return PulledBack(grad, pull_back, param.shape, expression.is_permutation)
