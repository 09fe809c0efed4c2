"""The audit in gradient space: what an attacker makes of the noisy gradient sums of a run.

Three mechanisms, all through the real engine, sampler and training step:

* `every step`: the run with q = 1, at the noise that gives the run's epsilon in a few steps;
* `subsampled`: the run itself, its q, sigma and K;
* `one sample`: runs of one step, each attack with one sample that is in or not.

Source: Nasr et al. 2023, arXiv:2302.07956.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dpexp.accounting import gaussian
from dpexp.audit.attack import Part, judge
from dpexp.audit.canaries import image_records
from dpexp.audit.request import Request
from dpexp.audit.subject import Materials, Subject
from dpexp.audit.subsampled import Family
from dpexp.audit.trials import FEW, attack_trials
from dpexp.audit.watch import LESS_BLANK, RATIO, SIGNED, Look, Samples, watch
from dpexp.sampling import derive_seed
from dpexp.train.deal import Deal

_BLANKS = 2000  # coordinates that the scale of the noise is read from, in runs of one step
EVERY_STEP, SUBSAMPLED, ONE_SAMPLE = "every step", "subsampled", "one sample"


def coins(seed: int, purpose: str, count: int) -> NDArray[np.bool_]:
    """Return fair coins that follow from the seed and the purpose."""
    return np.random.default_rng(derive_seed(seed, f"coins, {purpose}")).random(count) < 0.5


def audit_every_step(request: Request, materials: Materials, deal: Deal, error: float) -> Part:
    """Watch canaries of a run in which every step sees every sample."""
    epsilon, steps = _epsilon(deal), request.steps
    sigma = float(np.sqrt(steps)) / gaussian.mu_of(epsilon, deal.delta)
    family = Family(sigma, 1.0, steps)
    return _watched(EVERY_STEP, request, materials, family, epsilon, deal.num_train, deal, error)


def audit_subsampled(request: Request, materials: Materials, deal: Deal, error: float) -> Part:
    """Watch canaries of the run as it is configured."""
    assert deal.mechanism is not None
    mechanism = deal.mechanism
    family = Family(mechanism.noise_multiplier, mechanism.sampling_rate, mechanism.num_steps)
    batch = mechanism.expected_batch_size
    return _watched(SUBSAMPLED, request, materials, family, _epsilon(deal), batch, deal, error)


def audit_one_sample(request: Request, materials: Materials, deal: Deal, error: float) -> Part:
    """Run single steps with and without one sample."""
    epsilon = _epsilon(deal)
    family = Family(1 / gaussian.mu_of(epsilon, deal.delta), 1.0, 1)
    subject = Subject(
        materials,
        sigma=family.noise_multiplier,
        rate=1.0,
        steps=1,
        batch=FEW + 0.5,
        canaries=_BLANKS,
        purpose=ONE_SAMPLE,
    )
    seed = request.config.seed
    attacks = attack_trials(
        subject, materials, lambda name: coins(seed, f"{ONE_SAMPLE}, {name}", request.trials)
    )
    return judge(ONE_SAMPLE, attacks, family, epsilon, delta=deal.delta, error=error)


def training_samples(materials: Materials) -> Samples:
    """Return the whole training set as the ordinary part of a run."""

    def read(positions: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = materials.images(positions.tolist())
        return image_records(images), labels

    return Samples(len(materials.splits.train), read)


def _watched(
    name: str,
    request: Request,
    materials: Materials,
    family: Family,
    claimed: float,
    batch: float,
    deal: Deal,
    error: float,
) -> Part:
    subject = Subject(
        materials,
        sigma=family.noise_multiplier,
        rate=family.sampling_rate,
        steps=family.num_steps,
        batch=batch,
        canaries=request.canaries,
        purpose=name,
    )
    seed = request.config.seed
    is_in = coins(seed, name, request.canaries)
    # At q = 1 the signed sum is the likelihood ratio.
    names = [RATIO, LESS_BLANK] if family.sampling_rate == 1 else [RATIO, SIGNED, LESS_BLANK]
    look = Look(deal.delta, error / len(names))
    attacks = watch(
        subject, training_samples(materials), is_in, look, derive_seed(seed, f"rehearsal, {name}")
    )
    attacks = [attack for attack in attacks if attack.name in names]
    return judge(name, attacks, family, claimed, delta=deal.delta, error=error, share=subject.share)


def _epsilon(deal: Deal) -> float:
    return deal.epsilon_after(deal.num_steps)
