"""The private fit: a few full-batch noisy gradient steps through the privacy engine.

Each of T steps sees every sample (q = 1), clips each sample's gradient to R and adds noise sigma R,
so the whole fit is one Gaussian mechanism with mu = sqrt(T) / sigma, exactly. What is given out is
the mean of the second half of the iterates, which is a function of what the steps gave out.

The scales of Platt scaling are a common one plus one a class, so that the direction in which a
network is mostly wrong, its temperature, is learnt as fast as by temperature scaling.
"""

from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dpexp.clipping.engine import PrivacyEngine
from dpexp.clipping.noise import SecureNoise, StepNoise
from dpexp.mechanism import Mechanism
from dpexp.recalibration.request import Method
from dpexp.recalibration.scaling import (
    MOST_LOG_SCALE,
    MOST_SHIFT,
    Scaling,
    centred,
    identity,
)
from dpexp.sampling import derive_seed


@dataclass(frozen=True)
class Settings:
    """Public constants of the private fit.

    Attributes:
        clip_norm: R; nats a unit of parameter.
        num_steps: T.
        learning_rate: Of plain gradient descent.
        class_weight: What the parameters of single classes are multiplied with: below 1 they learn
            slower than the common scale, and carry less noise. Platt scaling alone has them.
    """

    clip_norm: float
    num_steps: int
    learning_rate: float
    class_weight: float = 1.0


# The best of the grids that scripts/recalibration.py prints: by the NLL on other samples, mean over
# epsilon 0.5, 2 and 8, on synthetic logits alone (mixtures of Gaussians, 10 classes, 300 and 3000
# samples, known temperatures). Private data were never looked at for it.
SETTINGS: MappingProxyType[Method, Settings] = MappingProxyType(
    {
        "temperature": Settings(clip_norm=4.0, num_steps=25, learning_rate=1.0),
        "platt": Settings(clip_norm=4.0, num_steps=50, learning_rate=0.3, class_weight=0.1),
    }
)


class _Rescaled(nn.Module):
    """A scaling as a network whose input is logits; float64."""

    def __init__(self, method: Method, num_classes: int, class_weight: float) -> None:
        super().__init__()
        start = identity(method, num_classes)
        self.common = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.class_weight = class_weight
        if start.shift:
            self.scales = nn.Parameter(torch.zeros(num_classes, dtype=torch.float64))
            self.shifts = nn.Parameter(torch.zeros(num_classes, dtype=torch.float64))
        self.method = method

    def log_scale(self) -> Tensor:
        """Return a, of one or of every class."""
        if self.method == "temperature":
            return self.common
        return self.common + self.class_weight * self.scales

    def forward(self, z: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        scaled = z * self.log_scale().exp()
        return scaled + self.class_weight * self.shifts if self.method == "platt" else scaled

    @torch.no_grad()
    def keep_within_bounds(self) -> None:
        """Move parameters back to where no scale overflows."""
        self.common.clamp_(-MOST_LOG_SCALE, MOST_LOG_SCALE)
        if self.method == "platt":
            self.scales.clamp_(
                -MOST_LOG_SCALE / self.class_weight, MOST_LOG_SCALE / self.class_weight
            )
            self.shifts.clamp_(-MOST_SHIFT / self.class_weight, MOST_SHIFT / self.class_weight)

    @torch.no_grad()
    def values(self) -> Tensor:
        """Return the log scales, and after them the shifts."""
        scales = self.log_scale().clamp(-MOST_LOG_SCALE, MOST_LOG_SCALE)
        if self.method == "temperature":
            return scales.clone()
        return torch.cat([scales, self.class_weight * self.shifts])


def mechanism_of(settings: Settings, noise_multiplier: float, num_samples: int) -> Mechanism:
    """Return what the fit does to its samples.

    Args:
        settings: Of the fit.
        noise_multiplier: sigma.
        num_samples: What noisy sums are divided by; a public constant.
    """
    return Mechanism(
        noise_multiplier=noise_multiplier,
        clip_norm=settings.clip_norm,
        sampling_rate=1.0,
        num_steps=settings.num_steps,
        expected_batch_size=num_samples,
    )


def fit_noisy(
    method: Method,
    logits: Float[Tensor, "n k"],
    labels: Int[Tensor, " n"],
    mechanism: Mechanism,
    settings: Settings,
    seed: int | None,
) -> Scaling:
    """Return a scaling fitted by T noisy gradient steps on the mean NLL.

    Args:
        method: Which scaling.
        logits: Finite; whatever their number, sums are divided by the mechanism's constant.
        labels: Class of each sample.
        mechanism: R, sigma, T, q = 1.
        settings: The learning rate, and the weight of single classes.
        seed: The noise of each step follows from it; None draws it from the operating system.
    """
    z = centred(logits.double())
    model = _Rescaled(method, z.shape[1], settings.class_weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate)
    noise = SecureNoise() if seed is None else StepNoise(seed)
    engine = PrivacyEngine(model, optimizer, mechanism=mechanism, generator=noise)
    kept = []
    for step in range(mechanism.num_steps):
        if seed is not None and isinstance(noise, StepNoise):
            noise.start(derive_seed(seed, "recalibration noise", step))
        optimizer.zero_grad(set_to_none=True)
        engine.backward(cross_entropy(model(z), labels, reduction="none"))
        optimizer.step()
        model.keep_within_bounds()
        kept.append(model.values())
    engine.detach()
    values = torch.stack(kept[len(kept) // 2 :]).mean(0).tolist()
    num_scales = len(identity(method, z.shape[1]).log_scale)
    return Scaling(
        method=method, log_scale=tuple(values[:num_scales]), shift=tuple(values[num_scales:])
    )
