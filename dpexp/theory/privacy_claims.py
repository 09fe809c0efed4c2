"""A15 and A16: what the accountants say of R, and of the paper's setting on SNLI."""

from dataclasses import replace

from dpexp.accounting.papers import SETTINGS, Checked, check
from dpexp.config import TrainConfig
from dpexp.theory.found import Found, judge
from dpexp.train.deal import make_deal

BOUNDS = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
NUM_TRAIN, SIGMA, STEPS, BATCH = 50_000, 1.3, 12_000, 250  # the paper's CIFAR-10 network


def epsilon_at(bound: float) -> float:
    """Return the epsilon of a whole run as `dpexp train` would settle it, at this R."""
    config = replace(
        TrainConfig(), batch=BATCH, eps=None, noise_multiplier=SIGMA, steps=STEPS, epochs=None
    )
    config.clipping = replace(config.clipping, norm=bound)
    return make_deal(config, NUM_TRAIN, sensitivity=bound).epsilon_after(STEPS)


def judge_bounds(epsilons: list[float]) -> Found:
    """Judge A15 on the epsilon at each R of `BOUNDS`."""
    verdict = judge(
        "A15",
        is_met=len(set(epsilons)) == 1,
        ours=f"epsilon {epsilons[0]:.6f} at R {BOUNDS[0]:g} and {epsilons[-1]:.6f} at R "
        f"{BOUNDS[-1]:g}, {len(set(epsilons))} different value(s) over {len(BOUNDS)} R (sigma "
        f"{SIGMA}, B {BATCH}, N {NUM_TRAIN:,}, K {STEPS:,}, delta 1e-5)",
        value=max(epsilons) - min(epsilons),
        reason="the accountant is never told R, as the noise is sigma R: true by construction",
    )
    return Found([verdict], {"bounds": {"R": BOUNDS, "epsilon": epsilons}})


def snli() -> Checked:
    """Return the paper's SNLI setting under every accountant."""
    return check(SETTINGS[0])


def judge_snli(checked: Checked) -> Found:
    """Judge A16."""
    bounds, setting = checked.poisson, checked.setting
    verdict = judge(
        "A16",
        is_met=bounds.epsilon <= setting.eps,
        ours=f"epsilon at most {bounds.epsilon:.3f} (PRV {_shown(bounds.prv)}, PLD "
        f"{_shown(bounds.pld)}, RDP {_shown(bounds.rdp)}); central limit {checked.claimed:.3f} "
        f"(published {setting.eps}), for sigma 0.4, B 32, N 550,152, K {checked.num_steps:,}, "
        f"delta 1/550152",
        value=bounds.epsilon,
        reason="the central limit is an approximation, and at sigma 0.4 far below the truth",
    )
    numbers = {
        "published": setting.eps, "central limit": checked.claimed, "prv": bounds.prv,
        "pld": bounds.pld, "rdp": bounds.rdp,
    }  # fmt: skip
    return Found([verdict], {"snli": numbers})


def _shown(epsilon: float | None) -> str:
    return "none" if epsilon is None else f"{epsilon:.3f}"
