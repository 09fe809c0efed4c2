"""What a recalibrated model has cost: the run's epsilon and the fit's, as one.

What is compared. The validation part is taken out of the training data by class and by place, from
one fixed draw (`data/stratify.py`): a sample more or less anywhere before them moves other samples
from one part to the other. So, as for the run alone, epsilon covers the two parts as split: their
members, not the choice of them. Neighbors add or remove one sample in each part.

The run sees the one part and the fit the other, and the model in between. A sample that lies in one
part alone is therefore covered by the larger of both epsilons (parallel composition), given as
`epsilon_as_split`. The total is the sequential composition of both, which does not lean on that: it
holds as well for one sample added to or removed from each part at once, such as two pictures of one
person.
"""

import math
from collections.abc import Mapping
from typing import Any

from dpexp.accounting.composition import compose_with_gaussian
from dpexp.mechanism import Mechanism
from dpexp.recalibration.fit import Fit
from dpexp.train.statement import NOT_COVERED

ALSO_NOT_COVERED = (
    "which samples were held out: the two parts are compared as split",
    "measures of the run on the validation part, val/*, which are computed without noise",
    "another scaling fitted to the same samples: each costs its own epsilon, added to this total",
)


def recalibration_document(fit: Fit, privacy: Mapping[str, Any], run: str) -> dict[str, Any]:
    """Return what recalibration.json holds.

    Args:
        fit: The scaling and its cost.
        privacy: What privacy.json of the run holds.
        run: The run's folder, by name.
    """
    total = _total(fit, privacy)
    return {
        "method": fit.scaling.method,
        "parameters": fit.scaling.to_dict(),
        "fit": fit.to_dict(),
        "run": {
            "folder": run,
            "epsilon": privacy["epsilon"],
            "delta": privacy["delta"],
            "guarantee": privacy["guarantee"],
            "steps_charged": privacy["steps_charged"],
        },
        "statement": _sentence(total),
        **total,
        "not_covered": [*NOT_COVERED, *ALSO_NOT_COVERED],
    }


def _total(fit: Fit, privacy: Mapping[str, Any]) -> dict[str, Any]:
    """Return epsilon, delta and guarantee of run and fit together."""
    weakest = min(privacy["guarantee"], fit.guarantee, key=("none", "seeded", "valid").index)
    if weakest == "none":
        parts = (("training", privacy), ("recalibration", vars(fit)))
        return {
            "epsilon": math.inf,
            "epsilon_as_split": math.inf,
            "delta": privacy["delta"],
            "guarantee": "none",
            "reason": "; ".join(
                f"{name}: {part['reason']}" for name, part in parts if part["guarantee"] == "none"
            ),
            "accountant": None,
            "adjacency": None,
        }
    steps = min(privacy["steps_charged"], privacy["steps_planned"])
    composed = compose_with_gaussian(mechanism_of_run(privacy), steps, fit.mu, privacy["delta"])
    return {
        "epsilon": composed.epsilon,
        "epsilon_as_split": max(privacy["epsilon"], fit.epsilon),
        "delta": composed.delta,
        "guarantee": weakest,
        "reason": fit.reason if weakest == fit.guarantee else privacy["reason"],
        "accountant": composed.accountant,
        "adjacency": "add or remove one sample in the training part and one in the validation part",
    }


def mechanism_of_run(privacy: Mapping[str, Any]) -> Mechanism:
    """Return the mechanism that a run's privacy statement describes."""
    return Mechanism(
        noise_multiplier=privacy["noise_multiplier"],
        clip_norm=privacy["clip_norm"],
        sampling_rate=privacy["sampling_rate"],
        num_steps=privacy["steps_planned"],
        expected_batch_size=privacy["expected_batch_size"],
        sampler=privacy["sampler"],
        batch_limit=privacy["batch_limit"],
        num_train=privacy["num_train"] if privacy["batch_limit"] is not None else None,
    )


def _sentence(total: Mapping[str, Any]) -> str:
    if total["guarantee"] == "none":
        return f"No guarantee: {total['reason']}."
    known = "To whoever does not know the seed, which config.yaml holds: for"
    opening = known if total["guarantee"] == "seeded" else "For"
    return (
        f"{opening} any two pairs of a training and a validation part that differ in one sample "
        f"each, and any set S of weights and scalings, P(both in S | one) <= "
        f"exp({total['epsilon']:.10g}) P(both in S | the other) + {total['delta']:g}."
    )
