"""The mechanism: the numbers that sampler, training step and accountant must agree on."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from dpexp.errors import ConfigError

Sampler = Literal["poisson", "truncated_poisson", "balls_and_bins", "shuffle"]


@dataclass(frozen=True, kw_only=True)
class SamplerTraits:
    """What follows from how batches are drawn, besides the drawing and the accounting.

    Attributes:
        goes_by_epochs: Whether each sample is in at most one batch of an epoch of floor(1 / q).
        has_limit: Whether a step takes at most `batch_limit` of the samples that it draws.
        adjacency: Which two data sets its bound compares.
    """

    goes_by_epochs: bool
    has_limit: bool
    adjacency: str


_ADD_REMOVE = "add or remove one sample"
# `sampling.draw` and `accounting.samplers` have one entry for each of these, by the same key.
SAMPLERS: dict[Sampler, SamplerTraits] = {
    "poisson": SamplerTraits(goes_by_epochs=False, has_limit=False, adjacency=_ADD_REMOVE),
    "truncated_poisson": SamplerTraits(goes_by_epochs=False, has_limit=True, adjacency=_ADD_REMOVE),
    "balls_and_bins": SamplerTraits(goes_by_epochs=True, has_limit=False, adjacency=_ADD_REMOVE),
    "shuffle": SamplerTraits(
        goes_by_epochs=True,
        has_limit=False,
        # Taking one out for real would move others between batches of a fixed size.
        adjacency="replace one sample by an empty one",
    ),
}


def whole_batches(sampling_rate: float) -> int:
    """Return floor(1 / q) = floor(N / B): the whole batches of an epoch, at least 1."""
    # q is itself rounded: 1 / (1000 / 49000) must count as 49 even where it comes out below.
    return max(1, math.floor(1 / sampling_rate * (1 + 1e-12)))


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """Subsampled Gaussian mechanism, composed over a run. `adjacency` says what neighbors are.

    Attributes:
        noise_multiplier: sigma. Noise standard deviation over sensitivity; no unit. 0 is no noise.
        clip_norm: R. L2 bound on one sample's contribution to a gradient sum; gradient units.
        sampling_rate: q. Probability that a step includes a given sample; in (0, 1].
        num_steps: K. Optimizer steps of the whole run, not micro-batches.
        expected_batch_size: B. What a noisy gradient sum is divided by, in samples. A public
            constant from the config: about q times the data set size, never computed from it.
        sampler: How a step's batch is drawn, hence how it is accounted: `sampling.draw` and
            `accounting.samplers` read this and nothing else.
        batch_limit: The most samples that a step takes; truncated_poisson alone has it.
        num_train: N, which the accounting of a limit needs; truncated_poisson alone has it.
    """

    noise_multiplier: float
    clip_norm: float
    sampling_rate: float
    num_steps: int
    expected_batch_size: float
    sampler: Sampler = "poisson"
    batch_limit: int | None = None
    num_train: int | None = None

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
        else:
            problems += self._sampler_problems()
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on a gradient *sum*: sigma R, in gradient units."""
        return self.noise_multiplier * self.clip_norm

    @property
    def adjacency(self) -> str:
        """Which two data sets epsilon compares."""
        return SAMPLERS[self.sampler].adjacency

    @property
    def batches_per_epoch(self) -> int | None:
        """Steps of an epoch, where one that is started counts whole; None where none is."""
        if not SAMPLERS[self.sampler].goes_by_epochs:
            return None
        return whole_batches(self.sampling_rate)

    def _sampler_problems(self) -> list[str]:
        """Return what does not fit the sampler, one sentence each."""
        problems = []
        limit, num_train = self.batch_limit, self.num_train
        if not SAMPLERS[self.sampler].has_limit:
            if limit is not None or num_train is not None:
                problems.append(
                    f"sampler {self.sampler!r} with batch_limit={limit}, num_train={num_train}: "
                    f"it drops no sample of a draw, and its accountant knows of no limit; leave "
                    f"both out, or use sampler 'truncated_poisson'"
                )
        elif limit is None or limit < 1 or num_train is None or num_train < 1:
            problems.append(
                f"sampler {self.sampler!r} with batch_limit={limit}, num_train={num_train}: its "
                f"epsilon follows from both; give the most samples that a step takes, and N"
            )
        is_rate = 0 < self.sampling_rate <= 1
        if self.sampler == "balls_and_bins" and is_rate:
            num_batches = whole_batches(self.sampling_rate)
            if self.sampling_rate != 1 / num_batches:
                problems.append(
                    f"sampler 'balls_and_bins' with sampling_rate={self.sampling_rate}: a sample "
                    f"goes to one of T batches, so its rate is 1 / T; give 1 / {num_batches}"
                )
        return problems
