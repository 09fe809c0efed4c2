"""What both papers publish as epsilon, and what it was: every setting that states one.

Both calibrate with the central limit of Gaussian differential privacy, an approximation that may
lie below the true epsilon, and which takes batches to be Poisson samples. The public code of the
second shuffles. So a published epsilon stands beside the sound bound had the batches been Poisson
samples, and beside the sound bound of shuffled batches.

Sources: Bu, Wang, Dai & Long 2023, arXiv:2106.07830 ("convergence"); Bu, Mao & Xu 2022,
arXiv:2205.10683 ("ghost"); their public code; Opacus 0.15, on which both build. What no source
states is written down in `Setting.assumed`.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from dpexp.accounting import gdp, shuffled
from dpexp.accounting.bounds import Bounds, epsilon_bounds

Paper = Literal["convergence", "ghost"]
Sampling = Literal["Poisson", "shuffled", "unknown"]
TITLES: dict[Paper, str] = {"convergence": "arXiv:2106.07830", "ghost": "arXiv:2205.10683"}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One epsilon of a paper, with the numbers that it follows from.

    Attributes:
        paper: Whose.
        name: Data set and network.
        eps: As published.
        delta: Likewise.
        batch: B, samples.
        num_train: N, samples.
        epochs: Passes; None where steps are stated.
        steps: K; None where epochs are stated.
        noise_multiplier: sigma as stated; None where it follows from `eps` by the central limit.
        sampling: How its batches were drawn, by the public code.
        source: Where the numbers stand.
        assumed: Which of them no source states, and where they are taken from; empty if none.
    """

    paper: Paper
    name: str
    eps: float
    delta: float = 1e-5
    batch: int
    num_train: int = 50_000
    epochs: int | None = None
    steps: int | None = None
    noise_multiplier: float | None = None
    sampling: Sampling = "unknown"
    source: str
    assumed: str = ""

    @property
    def sampling_rate(self) -> float:
        """Q = B / N."""
        return self.batch / self.num_train

    @property
    def num_steps(self) -> int:
        """K, as stated or as epochs N / B."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return round(self.epochs * self.num_train / self.batch)

    @property
    def num_epochs(self) -> int:
        """Passes over shuffled data, a started one counted whole."""
        return self.epochs or shuffled.epochs_started(self.num_steps, self.sampling_rate)


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """An experiment whose epsilon cannot be checked, and why not."""

    paper: Paper
    name: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A setting, and what its epsilon is.

    Attributes:
        setting: What was published.
        noise_multiplier: sigma, stated or by the central limit from the published epsilon.
        num_steps: K.
        num_epochs: Passes over shuffled data, a started one counted whole.
        claimed: Epsilon of this sigma by the central limit; an approximation, no guarantee.
        poisson: Sound bounds, had every batch been a Poisson sample.
        shuffled: Sound bound of shuffled batches, without amplification. Neighbors replace a sample
            by an empty one.
    """

    setting: Setting
    noise_multiplier: float
    num_steps: int
    num_epochs: int
    claimed: float
    poisson: Bounds
    shuffled: float


def rounded_up(bound: float | None) -> str:
    """Return an upper bound with two decimals, which is one still; "-" where there is none."""
    return "-" if bound is None else f"{math.ceil(100 * bound - 1e-9) / 100:.2f}"


def check(setting: Setting) -> Checked:
    """Return what a published epsilon is; a few seconds when not cached.

    Raises:
        AccountingError: If a number of the setting is out of range.
    """
    q, steps, delta = setting.sampling_rate, setting.num_steps, setting.delta
    sigma = setting.noise_multiplier or gdp.noise_multiplier(setting.eps, delta, q, steps)
    return Checked(
        setting=setting,
        noise_multiplier=sigma,
        num_steps=steps,
        num_epochs=setting.num_epochs,
        claimed=gdp.epsilon(sigma, q, steps, delta),
        poisson=epsilon_bounds(sigma, q, steps, delta),
        shuffled=shuffled.epsilon(sigma, setting.num_epochs, delta),
    )


_SNLI: dict[str, Any] = {
    "paper": "convergence",
    "name": "SNLI, BERT",
    "eps": 1.25,
    "delta": 1 / 550_152,
    "batch": 32,
    "num_train": 550_152,
    "noise_multiplier": 0.4,
    "sampling": "Poisson",
}
_GHOST: dict[str, Any] = {"paper": "ghost", "sampling": "shuffled"}
_BEIT: dict[str, Any] = {**_GHOST, "name": "CIFAR-10 and CIFAR-100, BEiT"}
_README = "batch and epochs are those of the readme's command; those of the paper are unknown"

SETTINGS = (
    Setting(**_SNLI, steps=54_000, source="captions of Figures 8 and 9"),
    Setting(
        **_SNLI,
        epochs=3,
        source="captions of Figures 8 and 9",
        assumed="3 epochs, as in the tutorial of the code base: of these the central limit is 1.25",
    ),
    Setting(
        paper="convergence",
        name="CIFAR-10, CNN of 4 layers",
        eps=1.96,
        batch=250,
        epochs=60,
        noise_multiplier=1.3,
        source="caption of Figure 4 in versions 1 to 5",
        assumed="epsilon and delta, which the caption does not state; they agree with the rest",
    ),
    Setting(
        paper="convergence",
        name="MNIST, CNN",
        eps=2.32,
        batch=256,
        num_train=60_000,
        epochs=60,
        noise_multiplier=1.1,
        source="MNIST example of the code base",
        assumed="all of it: the example's batch, noise and epochs give the epsilon of the paper",
    ),
    Setting(**_BEIT, eps=1, batch=1000, epochs=3, source="abstract", assumed=_README),
    Setting(
        **_BEIT,
        eps=1,
        batch=5000,
        epochs=2,
        source="abstract",
        assumed="batch and epochs are those that the authors named for CrossViT and ViT",
    ),
    Setting(
        **_BEIT,
        eps=1,
        batch=1000,
        epochs=5,
        source="abstract",
        assumed="batch of the script, and more epochs than any source names, as a bracket",
    ),
    Setting(
        **_GHOST,
        name="CIFAR-10, CrossViT-base and ViT-base",
        eps=1,
        batch=5000,
        epochs=2,
        source="the authors' numbers as arXiv:2508.15141 gives them",
    ),
    Setting(
        **_GHOST,
        name="CIFAR-10 and CIFAR-100, the script's default",
        eps=2,
        batch=1000,
        epochs=1,
        source="training script",
    ),
    *(
        Setting(
            **_GHOST,
            name="CIFAR-10 and CIFAR-100, ViTs",
            eps=eps,
            batch=1000,
            epochs=3,
            source="training script, readme",
            assumed="epsilon, of which the abstract states 1 and the script 2; " + _README,
        )
        for eps in (2, 4, 8)
    ),
    Setting(
        **_GHOST,
        name="CIFAR-100, CrossViT-18",
        eps=2,
        batch=128,
        epochs=20,
        source="early notebook",
        assumed="delta, that of the script",
    ),
    Setting(
        **_GHOST,
        name="CIFAR-10, ResNet18",
        eps=5,
        batch=128,
        epochs=20,
        source="early notebook",
        assumed="delta, that of the script",
    ),
    Setting(
        paper="ghost",
        name="CIFAR-10, WRN-16-4",
        eps=8,
        batch=4096,
        epochs=200,
        source="independent reproduction, arXiv:2508.15141, Table 6",
        assumed="the accountant, that of the authors' script",
    ),
)

UNKNOWN = (
    Unknown(
        paper="convergence",
        name="CIFAR-10, ViT-base (Figure 3)",
        why="epsilon, delta, noise, batch and epochs are not stated",
    ),
    Unknown(paper="convergence", name="regression", why="data, noise and epsilon were not found"),
    Unknown(
        paper="ghost",
        name="ViT-large, BEiT-large, ResNet18 of the follow-up library",
        why="epsilon 2, 2 and 3 are stated, but neither batch nor epochs nor noise",
    ),
)
