"""What an audit is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from dpexp.config import TrainConfig, claims_epsilon
from dpexp.data.public import num_columns
from dpexp.errors import ConfigError
from dpexp.schema import did_you_mean

Kind = Literal["gradient", "one_run", "both"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One audit.

    Attributes:
        config: The run whose privacy is audited, checked.
        kind: Which audits.
        canaries: Canaries with a coordinate of their own, of which each run holds about half.
        images: Mislabelled training images that are canaries of the one-run audit.
        steps: Steps of the run at q = 1.
        trials: One-step runs for each attack on one sample.
        confidence: Chance that every lower bound of the audit holds.
        command: As typed.
    """

    config: TrainConfig
    kind: Kind = "both"
    canaries: int = 40_000
    images: int = 1000
    steps: int = 10
    trials: int = 400
    confidence: float = 0.95
    command: Sequence[str] = ("dpexp", "audit")

    @property
    def has_gradient(self) -> bool:
        """Whether gradients of canaries are looked for in noisy gradient sums."""
        return self.kind != "one_run"

    @property
    def has_one_run(self) -> bool:
        """Whether one training run is audited as a whole."""
        return self.kind != "gradient"


def kinds(kind: str) -> list[str]:
    """Return what is wrong with a kind: one sentence, or none."""
    known = get_args(Kind)
    if kind in known:
        return []
    return [
        f"audit.kind={kind}: no such audit; {did_you_mean(kind, known)}known: {', '.join(known)}"
    ]


def problems_of(request: Request) -> list[str]:
    """Return what is wrong with a request, one sentence each; its configuration is checked."""
    least = {"canaries": 100, "images": 100, "steps": 1, "trials": 20}
    problems = [
        f"audit.{key}={getattr(request, key)}: an audit needs at least {count} of them"
        for key, count in least.items()
        if getattr(request, key) < count
    ]
    if not 0.5 <= request.confidence < 1:
        problems.append(
            f"audit.confidence={request.confidence}: the chance that the lower bounds hold must be "
            f"in [0.5, 1)"
        )
    config = request.config
    if not claims_epsilon(config):
        found = "dp=off" if not config.dp else "no noise (eps=inf or noise_multiplier=0)"
        problems.append(f"{found}: no finite epsilon is claimed, so there is nothing to audit; "
                        f"give a finite eps")  # fmt: skip
    if num_columns(config.dataset.name) is not None:
        problems.append(
            f"dataset={config.dataset.name}: canaries are made for classes (wrong labels, logits "
            f"of zero), and its target is a number; audit the mechanism on images, such as "
            f"dataset=digits: epsilon follows from sigma, q and steps alone"
        )
    if config.resume is not None:
        problems.append(f"resume={config.resume}: an audit trains anew; leave it out")
    if config.protocol == "published":
        problems.append(
            "protocol=published: shuffled batches claim no epsilon that an audit could hold; use "
            "protocol=valid"
        )
    elif config.sampling != "poisson":
        problems.append(
            f"sampling={config.sampling}: the curve that an audit holds the run against is that of "
            f"Poisson sampling; use sampling=poisson"
        )
    return problems


def check_request(request: Request) -> None:
    """Check a request.

    Raises:
        ConfigError: If anything is wrong; one line a problem, all of them at once.
    """
    if problems := problems_of(request):
        raise ConfigError("\n".join(problems))
