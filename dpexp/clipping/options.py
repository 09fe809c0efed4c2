"""What an engine is told: checked here, and turned into its mechanism."""

import math
from collections.abc import Iterable
from typing import Any, get_args

from dpexp.clipping.styles import total_bound
from dpexp.config import Algorithm, Function, Plan, Split, Style
from dpexp.errors import ConfigError
from dpexp.mechanism import Mechanism

_CHOICES: dict[str, Any] = {
    "style": Style,
    "function": Function,
    "algorithm": Algorithm,
    "split": Split,
    "plan": Plan,
}


def check_options(*, stability: float, workspace_mib: float, views: int, **chosen: str) -> None:
    """Refuse a word that names nothing, and a number that would void the bound.

    Args:
        stability: gamma of autos, r of psac; gradient units.
        workspace_mib: MiB.
        views: Augmented views of each sample.
        chosen: Style, function, algorithm, split and plan.

    Raises:
        ConfigError: Listing every problem.
    """
    problems = [
        f"{name}={value!r} is none of {', '.join(get_args(_CHOICES[name]))}"
        for name, value in chosen.items()
        if value not in get_args(_CHOICES[name])
    ]
    if not 0 < stability < math.inf:
        problems.append(
            f"stability={stability}: must be finite and above 0, or a small gradient would be "
            f"scaled past the bound R"
        )
    if not 0 < workspace_mib < math.inf:
        problems.append(f"workspace_mib={workspace_mib}: must be finite and above 0 MiB")
    if not isinstance(views, int) or views < 1:
        problems.append(f"views={views}: a sample has a whole number of views, at least one")
    style, algorithm = chosen["style"], chosen["algorithm"]
    if style != "flat" and algorithm not in ("auto", "instantiate"):
        problems.append(
            f"algorithm={algorithm} with style={style}: its second backward pass weights each "
            f"loss once, so it can only clip flat; use auto or instantiate"
        )
    if problems:
        raise ConfigError("; ".join(problems))


def mechanism_of(
    numbers: Iterable[float | None], num_groups: int, split: Split, *, is_complete: bool
) -> Mechanism:
    """Return the mechanism of the numbers given, one step of it; steps are counted elsewhere.

    Args:
        numbers: R, sigma, B and q, None where not given.
        num_groups: How many groups are clipped, each on its own.
        split: Whether R bounds all groups together or each.
        is_complete: Whether sigma and B may be left out: nothing adds noise.

    Raises:
        ConfigError: If one that is needed is missing or out of range.
    """
    clip_norm, noise_multiplier, expected_batch_size, sampling_rate = numbers
    if clip_norm is None:
        raise ConfigError("clip_norm is missing: the bound R on one sample's gradient")
    if not is_complete and None in (noise_multiplier, expected_batch_size):
        raise ConfigError(
            "noise_multiplier and expected_batch_size are needed: the optimizer's step adds noise "
            "of sigma R and divides by the public constant B; give both"
        )
    return Mechanism(
        noise_multiplier=0.0 if noise_multiplier is None else noise_multiplier,
        clip_norm=total_bound(clip_norm, num_groups, split),
        sampling_rate=1.0 if sampling_rate is None else sampling_rate,
        num_steps=1,
        expected_batch_size=1.0 if expected_batch_size is None else expected_batch_size,
    )
