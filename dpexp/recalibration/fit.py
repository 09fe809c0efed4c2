"""Fit a scaling to held-out logits: privately, or plainly and then marked as not private."""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from dpexp.accounting import gaussian
from dpexp.accounting.calibrate import round_up
from dpexp.accounting.inputs import check_target
from dpexp.errors import ConfigError
from dpexp.metrics.predictions import check_labels, predict
from dpexp.recalibration.plain import fit_plain
from dpexp.recalibration.private import SETTINGS, Settings, fit_noisy, mechanism_of
from dpexp.recalibration.request import Method
from dpexp.recalibration.scaling import Scaling
from dpexp.sampling import derive_seed


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A scaling, and what fitting it cost.

    Attributes:
        scaling: What to do with logits.
        epsilon: Of the fit alone, add or remove one of its samples; infinite for a plain fit.
        delta: Of that epsilon; None for a plain fit, and so are the four below.
        noise_multiplier: sigma.
        clip_norm: R; nats a unit of parameter.
        num_steps: T; every step sees every sample.
        learning_rate: Of a step.
        num_samples: What noisy sums were divided by: the size of the held-out part, public.
        guarantee: "valid" (noise from the operating system), "seeded" (the same mechanism with
            noise that can be repeated: for research, not for release) or "none".
        reason: Why there is none, or what is missing.
    """

    scaling: Scaling
    epsilon: float
    delta: float | None
    noise_multiplier: float | None
    clip_norm: float | None
    num_steps: int | None
    learning_rate: float | None
    num_samples: int
    guarantee: str
    reason: str

    @property
    def mu(self) -> float:
        """How far apart neighbors are, N(0, 1) against N(mu, 1); infinite for a plain fit."""
        if self.noise_multiplier is None or self.num_steps is None:
            return math.inf
        return math.sqrt(self.num_steps) / self.noise_multiplier

    def to_dict(self) -> dict[str, Any]:
        """Return all but the scaling as plain values."""
        return {key: value for key, value in vars(self).items() if key != "scaling"}


def fit_scaling(
    method: Method,
    logits: Float[Tensor, "n k"],
    labels: Int[Tensor, " n"],
    *,
    eps: float,
    delta: float | None = None,
    num_samples: int | None = None,
    seed: int | None = None,
    settings: Settings | None = None,
) -> Fit:
    """Return a scaling fitted to logits that the network was not trained on.

    Source: Guo et al. 2017, arXiv:1706.04599 (plain); Zhang et al. 2022, arXiv:2210.08248 (by
    full-batch DP-SGD; there one scale through a softplus, here through an exponential).

    Args:
        method: "temperature" or "platt".
        logits: Of held-out samples.
        labels: Class of each.
        eps: Of the fit alone; infinity fits without noise, which has no guarantee.
        delta: Of that epsilon, in (0, 1); needed with a finite `eps`.
        num_samples: What noisy sums are divided by; a public constant. None takes the number of
            samples, which is then treated as public.
        seed: What the noise follows from, together with everything else that is given, logits and
            labels included: the same fit repeats itself and two different ones share no noise.
            None draws it from the operating system.
        settings: Public constants of the private fit; None takes those of `SETTINGS`.

    Raises:
        MetricError: If logits and labels do not fit each other, or a logit is not finite.
        ConfigError: If a finite `eps` comes without a delta.
        AccountingError: If `eps` or `delta` is out of range.
    """
    predict(logits)  # refuses logits that are not finite
    labels = check_labels(labels, logits)
    num_samples = len(labels) if num_samples is None else num_samples
    logits = logits.detach().cpu()
    if math.isinf(eps) and eps > 0:
        return _without_noise(fit_plain(method, logits, labels), num_samples)
    if delta is None:
        raise ConfigError(
            f"eps={eps} without a delta: a Gaussian mechanism has no epsilon of its own, only one "
            f"at a delta; give delta, as of the run"
        )
    settings = settings or SETTINGS[method]
    eps, delta, _, steps = check_target(eps, delta, 1.0, settings.num_steps)
    sigma = round_up(math.sqrt(steps) / gaussian.mu_of(eps, delta))
    mechanism = mechanism_of(settings, sigma, num_samples)
    fit_seed = None
    if seed is not None:
        asked = (method, eps, delta, num_samples, settings, _digest(logits, labels))
        fit_seed = derive_seed(seed, f"recalibration {asked!r}")
    scaling = fit_noisy(method, logits, labels, mechanism, settings, fit_seed)
    return Fit(
        scaling=scaling,
        epsilon=gaussian.epsilon_of_steps(sigma, steps, delta),
        delta=delta,
        noise_multiplier=sigma,
        clip_norm=settings.clip_norm,
        num_steps=steps,
        learning_rate=settings.learning_rate,
        num_samples=num_samples,
        guarantee="valid" if seed is None else "seeded",
        reason="noise drawn from the operating system"
        if seed is None
        else "noise follows from a seed: for research, not for release",
    )


def _digest(logits: Tensor, labels: Tensor) -> str:
    """Return what tells one set of held-out logits from another."""
    digest = hashlib.sha256(logits.double().contiguous().numpy().tobytes())
    digest.update(labels.long().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _without_noise(scaling: Scaling, num_samples: int) -> Fit:
    return Fit(
        scaling=scaling,
        epsilon=math.inf,
        delta=None,
        noise_multiplier=None,
        clip_norm=None,
        num_steps=None,
        learning_rate=None,
        num_samples=num_samples,
        guarantee="none",
        reason="the scaling was fitted to held-out private samples without noise",
    )
