"""The privacy statement of a run: what was done to the data, and what may be said about it."""

from dataclasses import asdict
from typing import Any

from dpexp.accounting.stated import stated
from dpexp.config import TrainConfig
from dpexp.record.provenance import package_versions
from dpexp.train.account import Account
from dpexp.train.deal import Deal

NOT_COVERED = (
    "choosing hyperparameters or checkpoints by looking at this data",
    "training statistics in logs: keys that begin with unsafe/, and times",
    "attacks on floating-point rounding or on timing",
    "the digest of the training data in ledger.jsonl, for that reason not for release",
    "another run that goes on from a copy of this folder",
    "other samples about the same person",
)

ACCOUNTANTS = {
    "prv": "prv-accountant, upper bound",
    "pld": "dp-accounting, pessimistic",
    "rdp": "dp-accounting, upper bound",
    "gdp": "central limit: an approximation, not a bound",
}


def privacy_document(config: TrainConfig, account: Account, steps_done: int) -> dict[str, Any]:
    """Return the privacy statement of a run that has stopped or ended, as privacy.json holds it."""
    epsilon = account.epsilon()
    return {
        **_numbers(config, account.deal, epsilon),
        "covers": "the steps charged in ledger.jsonl",
        "steps_done": steps_done,
        "steps_charged": account.num_charged(steps_done),
        "attempts": account.attempt + 1,
    }


def running_document(config: TrainConfig, account: Account, first_step: int) -> dict[str, Any]:
    """Return the statement of a run that goes on: of all that it may yet do.

    It stays if the run is killed, and then bounds what was done; `steps_done` are those that the
    process began with.
    """
    deal = account.deal
    return {
        **_numbers(config, deal, deal.epsilon_after(deal.num_steps)),
        "covers": "the whole planned run: written when it began, replaced when it stops by itself",
        "steps_done": first_step,
        "steps_charged": deal.num_steps,
        "attempts": account.attempt + 1,
    }


def _numbers(config: TrainConfig, deal: Deal, epsilon: float) -> dict[str, Any]:
    mechanism, bounds, versions = deal.mechanism, deal.bounds, package_versions()
    document: dict[str, Any] = {
        "statement": _sentence(deal, epsilon),
        "guarantee": deal.guarantee,
        "reason": deal.reason,
        "epsilon_target": deal.target_epsilon,
        "epsilon": epsilon,
        "delta": deal.delta,
        "steps_planned": deal.num_steps,
        "sampling_rate": deal.sampling_rate,
        "expected_batch_size": config.batch,
        "num_train": deal.num_train,
        "protocol": config.protocol,
        "sampler": mechanism.sampler if mechanism else "poisson",
        "batch_limit": mechanism.batch_limit if mechanism else None,
        "overflow_chance": deal.overflow_chance,
        "batches_per_epoch": mechanism.batches_per_epoch if mechanism else None,
        "noise_multiplier": mechanism.noise_multiplier if mechanism else 0.0,
        "clip_norm": mechanism.clip_norm if mechanism else None,
        "tail_norm": config.clipping.tail_norm,
        "tail_steps": config.clipping.tail_steps,
        "adjacency": deal.adjacency,
        "unit": "one training sample",
        "accountant": deal.accountant,
        "versions": {name: versions[name] for name in ("dpexp", "dp-accounting", "prv-accountant")},
        "accountants": ACCOUNTANTS,
        "not_covered": list(NOT_COVERED),
    }
    if bounds is not None:
        document["whole_run_if_poisson"] = asdict(bounds)
    if config.protocol == "published" and bounds and deal.spent:
        document["published"] = {
            "epsilon_as_published": bounds.gdp,
            "epsilon_if_poisson": bounds.epsilon,
            "epsilon_shuffled_without_amplification": deal.epsilon_after(deal.num_steps),
        }
    return document


def _sentence(deal: Deal, epsilon: float) -> str:
    """Return what the numbers mean, or that they promise nothing."""
    if deal.guarantee == "none":
        return f"No guarantee: {deal.reason}."
    known = "To whoever does not know the seed, which config.yaml holds: for"
    opening = known if deal.guarantee == "seeded" else "For"
    return (
        f"{opening} any two training sets that differ in one sample ({deal.adjacency}) and any set "
        f"S of weights that this run may end or stop with, P(weights in S | one) <= "
        f"exp({stated(epsilon, 7)}) P(weights in S | the other) + {deal.delta:g}."
    )
