"""The privacy statement of a run: what was done to the data, and what may be said about it."""

from importlib.metadata import version
from typing import Any

from dpexp.accounting import shuffled
from dpexp.config import TrainConfig
from dpexp.train.deal import Deal

NOT_COVERED = (
    "choosing hyperparameters or checkpoints by looking at this data",
    "training statistics in logs, all under unsafe/",
    "attacks on floating-point rounding or on timing",
    "other samples about the same person",
)


def privacy_document(deal: Deal, config: TrainConfig, steps_done: int) -> dict[str, Any]:
    """Return the privacy statement of a run, as privacy.json holds it."""
    mechanism, bounds = deal.mechanism, deal.bounds
    document: dict[str, Any] = {
        "guarantee": deal.guarantee,
        "reason": deal.reason,
        "epsilon_target": deal.target_epsilon,
        "epsilon": deal.epsilon_after(steps_done),
        "delta": deal.delta,
        "steps_done": steps_done,
        "steps_planned": deal.num_steps,
        "sampling_rate": deal.sampling_rate,
        "expected_batch_size": config.batch,
        "num_train": deal.num_train,
        "protocol": config.protocol,
        "sampler": mechanism.sampler if mechanism else "poisson",
        "noise_multiplier": mechanism.noise_multiplier if mechanism else 0.0,
        "clip_norm": mechanism.clip_norm if mechanism else None,
        "adjacency": deal.adjacency,
        "unit": "one training sample",
        "accountants": {
            "prv": f"prv-accountant {version('prv-accountant')}, upper bound",
            "pld": f"dp-accounting {version('dp-accounting')}, pessimistic",
            "rdp": f"dp-accounting {version('dp-accounting')}",
            "gdp": "central limit: an approximation, not a bound",
        },
        "not_covered": list(NOT_COVERED),
    }
    if bounds is not None:
        document["whole_run_if_poisson"] = {
            "epsilon": bounds.epsilon,
            "source": bounds.source,
            "prv": bounds.prv,
            "pld": bounds.pld,
            "rdp": bounds.rdp,
            "gdp": bounds.gdp,
            "notes": list(bounds.notes),
        }
    if config.protocol == "published" and mechanism and bounds and mechanism.noise_multiplier:
        epochs = shuffled.epochs_started(deal.num_steps, deal.sampling_rate)
        document["published"] = {
            "epsilon_as_published": bounds.gdp,
            "epsilon_if_poisson": bounds.epsilon,
            "epsilon_shuffled_without_amplification": shuffled.epsilon(
                mechanism.noise_multiplier, epochs, deal.delta
            ),
        }
    return document
