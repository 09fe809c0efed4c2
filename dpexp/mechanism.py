"""The mechanism: the numbers that sampler, training step and accountant must agree on."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from dpexp.errors import ConfigError

Sampler = Literal["poisson", "shuffle"]


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """Subsampled Gaussian mechanism, composed over a run. Neighbors add or remove a sample.

    Attributes:
        noise_multiplier: sigma. Noise standard deviation over sensitivity; no unit. 0 is no noise.
        clip_norm: R. L2 bound on one sample's contribution to a gradient sum; gradient units.
        sampling_rate: q. Probability that a step includes a given sample; in (0, 1].
        num_steps: K. Optimizer steps of the whole run, not micro-batches.
        expected_batch_size: B. What a noisy gradient sum is divided by, in samples. A public
            constant from the config: about q times the data set size, never computed from it.
        sampler: How a step's batch is drawn. Only "poisson" carries a guarantee.
    """

    noise_multiplier: float
    clip_norm: float
    sampling_rate: float
    num_steps: int
    expected_batch_size: float
    sampler: Sampler = "poisson"

    def __post_init__(self) -> None:
        problems = []
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier >= 0):
            problems.append(
                f"noise_multiplier is a standard deviation over a sensitivity and must be finite "
                f"and at least 0, but is {self.noise_multiplier}"
            )
        if not (math.isfinite(self.clip_norm) and self.clip_norm > 0):
            problems.append(
                f"clip_norm is the bound R on one sample's gradient and must be finite and above "
                f"0, but is {self.clip_norm}"
            )
        if not 0 < self.sampling_rate <= 1:
            problems.append(
                f"sampling_rate is a probability in (0, 1], but is {self.sampling_rate}; it is "
                f"expected batch size / data set size, not a number of samples"
            )
        if self.num_steps < 1:
            problems.append(f"num_steps must be at least 1, but is {self.num_steps}")
        if not (math.isfinite(self.expected_batch_size) and self.expected_batch_size > 0):
            problems.append(
                f"expected_batch_size divides the noisy sum and must be finite and above 0, but "
                f"is {self.expected_batch_size}"
            )
        if self.sampler not in get_args(Sampler):
            problems.append(
                f"sampler must be one of {', '.join(get_args(Sampler))}, but is {self.sampler!r}"
            )
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on a gradient *sum*: sigma R, in gradient units."""
        return self.noise_multiplier * self.clip_norm
