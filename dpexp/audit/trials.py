"""Attacks on one sample: many runs of one step, each with or without it.

The claimed mechanism is Gaussian at q = 1, K = 1, at the noise whose epsilon is that of the run.

* A sample for each parameter tensor: the noisy sum along the sample's own gradient, over R. It is
  i + sigma z if the sample's contribution is clipped to R over all parameters.
* A sample whose pixels are infinite, which must contribute nothing: the same in any direction;
  anything that is not a number gives it away.
* A canary beside an opposite one of a third of its gradient: the sum at their coordinate moves by
  R if each is clipped, and by 2 R if their sum is.
* One of a few samples: the scale of what the untouched blank parameter gets. It says nothing unless
  the sum is divided by the number of samples that were drawn.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpexp.audit.attack import Attack, known
from dpexp.audit.canaries import canary_records, image_records
from dpexp.audit.subject import Materials, Subject
from dpexp.audit.targets import Target, find_target, parameters_of, weights

MOST_TENSORS = 16
FEW = 8  # samples beside the one that is in or not, in the attack on the normaliser

Coins = Callable[[str], NDArray[np.bool_]]


def attack_trials(subject: Subject, materials: Materials, coins: Coins) -> list[Attack]:
    """Run all attacks.

    Args:
        subject: Its weights stay as they are.
        materials: Whose images are used.
        coins: Fresh fair coins for an attack, one a trial.
    """
    attacks = []
    for index, name in enumerate(chosen_tensors(list(parameters_of(subject)))):
        target = find_target(subject, materials, name, row=index % len(materials.splits.train))
        if target is not None:
            attacks.append(_tensor(subject, target, coins(name)))
    attacks.append(_nonfinite(subject, materials, coins("not finite")))
    attacks.append(_opposite(subject, coins("opposite")))
    attacks.append(_normaliser(subject, materials, coins("normaliser")))
    return attacks


def chosen_tensors(names: list[str]) -> list[str]:
    """Return all names, or of many as many as are audited, spread evenly."""
    if len(names) <= MOST_TENSORS:
        return names
    places = np.linspace(0, len(names) - 1, MOST_TENSORS).round().astype(int)
    return [names[place] for place in places]


def _tensor(subject: Subject, target: Target, is_in: NDArray[np.bool_]) -> Attack:
    with weights(subject, target.name, target.factors):
        scores = _along(subject, target.gradient, target.record, target.label, is_in)
    middle = subject.mechanism.clip_norm * subject.share / 2
    return Attack(f"gradient in {target.name} ({target.share:.0%})", scores, is_in, middle)


def _nonfinite(subject: Subject, materials: Materials, is_in: NDArray[np.bool_]) -> Attack:
    image, label = materials.images([0])
    record = image_records(torch.full_like(image, math.inf))
    sizes = {name: p.numel() for name, p in parameters_of(subject).items()}
    total = sum(sizes.values())
    direction = {
        name: torch.full((size,), total**-0.5, dtype=torch.float64) for name, size in sizes.items()
    }
    scores = _along(subject, direction, record, label, is_in)
    return Attack("sample that is not finite", scores, is_in, subject.mechanism.clip_norm / 2)


def _along(
    subject: Subject,
    direction: dict[str, Tensor],
    record: Tensor,
    label: Tensor,
    is_in: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Return the noisy sum along a direction, of one step with or without the one sample."""
    params = parameters_of(subject)
    scores = np.zeros(len(is_in))
    for trial, is_present in enumerate(is_in):
        count = int(is_present)
        subject.step(record[:count], label[:count], _next(subject), is_frozen=True)
        scores[trial] = sum(
            float(direction[name] @ subject.noisy_sum(p)) for name, p in params.items()
        )
    return known(scores)


def _opposite(subject: Subject, is_in: NDArray[np.bool_]) -> Attack:
    rows, factors = torch.tensor([1, 1]), subject.factor * torch.tensor([1.0, -3.0])
    records = canary_records(rows, factors, math.prod(subject.model.image_shape))
    labels = torch.zeros(2, dtype=torch.int64)
    scores = np.zeros(len(is_in))
    for trial, is_present in enumerate(is_in):
        count = 1 + int(is_present)
        subject.step(records[:count], labels[:count], _next(subject), is_frozen=True)
        scores[trial] = float(subject.noisy_sum(subject.model.table.weight)[1])
    middle = -subject.mechanism.clip_norm * subject.share / 2
    return Attack("beside an opposite sample", known(scores), is_in, middle)


def _normaliser(subject: Subject, materials: Materials, is_in: NDArray[np.bool_]) -> Attack:
    """Read the scale of the noise: divided by the drawn count, it is smaller with the sample."""
    num = min(FEW, len(materials.splits.train) - 1)
    images, labels = materials.images(list(range(num + 1)))
    records = image_records(images)
    scores = np.zeros(len(is_in))
    for trial, is_present in enumerate(is_in):
        count = num + int(is_present)
        subject.step(records[:count], labels[:count], _next(subject), is_frozen=True)
        blank = subject.noisy_sum(subject.model.blank)
        # Over its standard deviation it is near 1 as claimed, and B / count if divided by that.
        scores[trial] = -math.log(float(blank.square().mean().sqrt()) / subject.noise_std)
    middle = math.log((num + 0.5) / subject.mechanism.expected_batch_size)
    return Attack("scale of what no sample touches", known(scores), is_in, middle)


def _next(subject: Subject) -> int:
    """Return a step number that was not used, so that its noise is new."""
    subject.trials_done += 1
    return subject.trials_done
