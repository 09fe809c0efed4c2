"""The four numbers that every accountant reads, checked in one place."""

from dpexp.errors import AccountingError

LEAST_SIGMA, MOST_SIGMA = 1e-2, 1e6
MOST_STEPS = 10**7


def check_inputs(
    noise_multiplier: float, sampling_rate: float, num_steps: int, delta: float
) -> tuple[float, float, int, float]:
    """Return the four as plain Python numbers; the accountants reject NumPy's integers.

    Args:
        noise_multiplier: sigma, noise standard deviation over sensitivity; 0 is no noise.
        sampling_rate: q, the chance that a step includes a given sample; in (0, 1].
        num_steps: K, optimizer steps; at least 1.
        delta: In (0, 1).

    Raises:
        AccountingError: If one is out of range; lists all problems at once.
    """
    problems = [*delta_problems(delta), *step_problems(sampling_rate, num_steps)]
    if not (noise_multiplier == 0 or LEAST_SIGMA <= noise_multiplier <= MOST_SIGMA):
        problems.append(
            f"noise_multiplier={noise_multiplier}: sigma is a standard deviation over a "
            f"sensitivity and must be 0, or from {LEAST_SIGMA:g} to {MOST_SIGMA:g}, where the "
            f"accountants can tell it from no noise"
        )
    _raise_if_any(problems)
    return float(noise_multiplier), float(sampling_rate), int(num_steps), float(delta)


def check_target(
    eps: float, delta: float, sampling_rate: float, num_steps: int
) -> tuple[float, float, float, int]:
    """Return a target and its setting as plain Python numbers.

    Raises:
        AccountingError: If one is out of range; lists all problems at once.
    """
    problems = [*delta_problems(delta), *step_problems(sampling_rate, num_steps)]
    if not eps > 0:
        problems.append(
            f"eps={eps}: epsilon bounds the privacy loss and must be above 0; "
            f"eps=inf clips without noise"
        )
    _raise_if_any(problems)
    return float(eps), float(delta), float(sampling_rate), int(num_steps)


def delta_problems(delta: float) -> list[str]:
    """Return what is wrong with `delta`, if anything."""
    if 0 < delta < 1:
        return []
    return [f"delta={delta}: delta is a probability and must be in (0, 1), about 1 / (2 N)"]


def step_problems(sampling_rate: float, num_steps: float) -> list[str]:
    """Return what is wrong with q and K, if anything."""
    problems = []
    if not 0 < sampling_rate <= 1:
        problems.append(
            f"sampling_rate={sampling_rate}: q is a probability in (0, 1]; it is expected batch "
            f"size / data set size, not a number of samples"
        )
    if not (1 <= num_steps <= MOST_STEPS and num_steps == int(num_steps)):
        problems.append(
            f"num_steps={num_steps}: must be a whole number, at least 1, and at most "
            f"{MOST_STEPS:g}, beyond which no accountant was tried"
        )
    return problems


def _raise_if_any(problems: list[str]) -> None:
    if problems:
        raise AccountingError("\n".join(problems))
