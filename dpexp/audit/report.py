"""An audit in words, and as a document."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dpexp.accounting.stated import stated
from dpexp.audit.attack import Finding, Part, lower_bound
from dpexp.audit.gradient import EVERY_STEP, ONE_SAMPLE, SUBSAMPLED
from dpexp.audit.one_run import GuessFinding, GuessPart, OneRun
from dpexp.audit.request import Request
from dpexp.audit.subject import Materials
from dpexp.train.deal import Deal

ABOUT = {
    EVERY_STEP: "every step sees every sample",
    SUBSAMPLED: "the run as configured",
    ONE_SAMPLE: "runs of one step, with or without one sample",
}


def opening(request: Request, deal: Deal, materials: Materials) -> list[str]:
    """Return what is audited, before it is."""
    config, mechanism = request.config, deal.mechanism
    assert mechanism is not None
    epsilon = deal.epsilon_after(deal.num_steps)
    clipping = config.clipping
    lines = [
        f"audit     {materials.built.name} on {config.dataset.name}: {clipping.style} "
        f"{clipping.function} clipping, algorithm {clipping.algorithm}",
        f"claim     epsilon <= {stated(epsilon)} at delta {deal.delta:g}: sigma = "
        f"{mechanism.noise_multiplier:.4f}, q = {deal.sampling_rate:.4g}, K = {deal.num_steps:,}",
        f"          lower bounds hold all together with {request.confidence:.0%} confidence",
    ]
    if clipping.style != "flat":
        lines.append(
            f"          clipping.style={clipping.style}: a canary in one group of parameters is "
            f"clipped to that group's bound, so the lower bounds are loose"
        )
    return lines


def part_lines(part: Part) -> list[str]:
    """Return what attacks on one mechanism found."""
    family = part.family
    head = (
        f"gradient  {part.name} ({ABOUT[part.name]}): q = {family.sampling_rate:.4g}, "
        f"K = {family.num_steps:,}, sigma = {family.noise_multiplier:.4f}"
    )
    width = max(len(finding.name) for finding in part.findings)
    return [head, *(_finding_line(finding, part.claimed, width) for finding in part.findings)]


def run_lines(run: OneRun) -> list[str]:
    """Return what the audit in one run found."""
    family = run.family
    num_images = len(run.parts[0].scores)
    lines = [
        f"one run   N = {run.num_expected:,} expected ({run.num_kept:,} kept, and half of "
        f"{num_images:,} mislabelled), "
        f"q = {family.sampling_rate:.4g}, K = {family.num_steps:,}, sigma = "
        f"{family.noise_multiplier:.4f}; test accuracy {run.test_accuracy:.4f}",
    ]
    width = max(len(f"{part.name}, {f.score}") for part in run.parts for f in part.findings)
    return lines + [_guess_line(part, finding, run.claimed, width)
                    for part in run.parts for finding in part.findings]  # fmt: skip


def verdict(is_violated: bool, confidence: float) -> list[str]:
    """Return the last word."""
    if is_violated:
        return [
            f"verdict   VIOLATION: a lower bound is above the epsilon claimed, at {confidence:.0%} "
            f"confidence; what was run is not as private as it says"
        ]
    return [
        "verdict   consistent: no lower bound is above the epsilon claimed; an audit finds faults, "
        "it proves no privacy"
    ]


def document(
    request: Request, deal: Deal, parts: Sequence[Part], run: OneRun | None, is_violated: bool
) -> dict[str, Any]:
    """Return the audit as plain values, without scores."""
    assert deal.mechanism is not None
    asked = {
        "kind": request.kind,
        "canaries": request.canaries,
        "images": request.images,
        "steps": request.steps,
        "trials": request.trials,
        "confidence": request.confidence,
    }
    return {
        "audit": asked,
        "verdict": "violation" if is_violated else "consistent",
        "claim": {
            "epsilon": deal.epsilon_after(deal.num_steps),
            "delta": deal.delta,
            "noise_multiplier": deal.mechanism.noise_multiplier,
            "sampling_rate": deal.sampling_rate,
            "num_steps": deal.num_steps,
            "adjacency": deal.adjacency,
        },
        "gradient": [_part_document(part) for part in parts],
        "one_run": _run_document(run) if run else None,
    }


def _finding_line(finding: Finding, claimed: float, width: int) -> str:
    rates, low = finding.rates, lower_bound(finding)
    return (
        f"          {finding.name:<{width}}  epsilon >= {_rounded_down(low):.3f}, "
        f"{low / claimed:.2f} of {stated(claimed)}; {rates.false_positives:,} of {rates.num_out:,} "
        f"absent taken for present, {rates.false_negatives:,} of {rates.num_in:,} present missed"
        + _flag(low, claimed)
    )


def _guess_line(part: GuessPart, finding: GuessFinding, claimed: float, width: int) -> str:
    guesses, epsilon = finding.guesses, finding.epsilon
    return (
        f"          {f'{part.name}, {finding.score}':<{width}}  epsilon >= "
        f"{_rounded_down(epsilon):.3f}, {epsilon / claimed:.2f} of {stated(claimed)}; "
        f"{guesses.num_right:,} of {guesses.num_guesses:,} guesses right, of "
        f"{guesses.num_canaries:,} canaries (accuracy {finding.accuracy_low:.3f} to "
        f"{finding.accuracy_high:.3f})" + _flag(epsilon, claimed)
    )


def _flag(low: float, claimed: float) -> str:
    return "  VIOLATION" if low > claimed else ""


def _part_document(part: Part) -> dict[str, Any]:
    return {
        "name": part.name,
        "mechanism": asdict(part.family),
        "claimed_epsilon": part.claimed,
        "lower_bound": lower_bound(part.best),
        "best_attack": part.best.name,
        "is_violated": part.is_violated,
        "attacks": [
            {
                "name": finding.name,
                "threshold": attack.threshold,
                **asdict(finding.rates),
                "epsilon_lower": finding.epsilon,
                "epsilon_lower_by_rates": finding.epsilon_any,
                "confidence": 1 - finding.error,
            }
            for finding, attack in zip(part.findings, part.attacks, strict=True)
        ],
    }


def _run_document(run: OneRun) -> dict[str, Any]:
    return {
        "mechanism": asdict(run.family),
        "claimed_epsilon": run.claimed,
        "num_kept": run.num_kept,
        "num_expected": run.num_expected,
        "test_accuracy": run.test_accuracy,
        "is_violated": run.is_violated,
        "parts": [
            {
                "name": part.name,
                "lower_bound": part.best.epsilon,
                "looks": [
                    {
                        "score": finding.score,
                        **asdict(finding.guesses),
                        "accuracy_interval": [finding.accuracy_low, finding.accuracy_high],
                        "epsilon_lower": finding.epsilon,
                        "epsilon_interval": [finding.epsilon, float("inf")],
                        "claim_chance": finding.claim_chance,
                        "confidence": 1 - finding.error,
                    }
                    for finding in part.findings
                ],
            }
            for part in run.parts
        ],
    }


def _rounded_down(epsilon: float) -> float:
    """Return a lower bound with three decimals, which is one still."""
    return math.floor(epsilon * 1e3) / 1e3 if math.isfinite(epsilon) else epsilon
