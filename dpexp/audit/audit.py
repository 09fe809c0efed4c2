"""The whole audit: what is run, what is printed, and what is left in its folder."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpexp.audit import gradient, one_run, report
from dpexp.audit.attack import Part
from dpexp.audit.figures import save_gradient_figure, save_one_run_figure
from dpexp.audit.mislabelled import choose_images
from dpexp.audit.one_run import OneRun
from dpexp.audit.request import Request, check_request
from dpexp.audit.subject import Materials, Subject, load_materials
from dpexp.config import size_problems
from dpexp.errors import ConfigError
from dpexp.record.config_hash import config_hash
from dpexp.record.provenance import describe_provenance
from dpexp.record.strict_json import write_json, writing
from dpexp.sampling import derive_seed
from dpexp.schema import to_dict
from dpexp.train.deal import Deal, make_deal

Say = Callable[[str], None]
# Theorem 5.2 pays 2 m delta: of far more canaries than 0.1 / delta, guesses prove less.
_MOST_PAID = 0.1
_PARTS = (gradient.audit_every_step, gradient.audit_subsampled, gradient.audit_one_sample)


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        deal: The run as claimed.
        parts: Of the gradient audit; empty if it was not asked for.
        run: The audited training run, if it was.
        confidence: Chance that all lower bounds hold.
    """

    deal: Deal
    parts: tuple[Part, ...]
    run: OneRun | None
    confidence: float

    @property
    def is_violated(self) -> bool:
        """Whether any lower bound is above its claim."""
        return any(part.is_violated for part in self.parts) or bool(
            self.run and self.run.is_violated
        )


def run(request: Request) -> bool:
    """Audit, print, and write the folder; return whether the claim is consistent with it all.

    Raises:
        DpexpError: If the audit cannot be made.
    """
    check_request(request)
    materials = load_materials(request.config, say)
    _check_images(request, len(materials.splits.train))
    folder = _make_folder(request)
    audit = perform(request, materials, say)
    for line in report.verdict(audit.is_violated, audit.confidence):
        say(line)
    document = report.document(request, audit.deal, audit.parts, audit.run, audit.is_violated)
    provenance = describe_provenance(request.command) | {"threads": torch.get_num_threads()}
    config = to_dict(request.config)
    write_json(folder / "audit.json", {"provenance": provenance, "config": config, **document})
    title = f"{materials.built.name} on {request.config.dataset.name}"
    if audit.parts:
        save_gradient_figure(audit.parts, folder / "gradient.png", title=title)
    if audit.run:
        save_one_run_figure(audit.run, folder / "one_run.png", title=title, delta=audit.deal.delta)
    say(f"folder    {folder}")
    return not audit.is_violated


def perform(request: Request, materials: Materials, say: Say) -> Audit:
    """Return what an audit finds, and tell of each part as it ends."""
    error = (1 - request.confidence) / (3 * request.has_gradient + request.has_one_run)
    config = request.config
    with torch.random.fork_rng(devices=[]):
        deal = make_deal(config, materials.splits.num_train, config.clipping.norm)
        for line in report.opening(request, deal, materials):
            say(line)
        parts = []
        for audit_part in _PARTS if request.has_gradient else ():
            part = audit_part(request, materials, deal, error)
            parts.append(part)
            for line in report.part_lines(part):
                say(line)
        audited = _one_run(request, materials, error) if request.has_one_run else None
    for line in report.run_lines(audited) if audited else ():
        say(line)
    return Audit(deal, tuple(parts), audited, request.confidence)


def _one_run(request: Request, materials: Materials, error: float) -> OneRun:
    config = request.config
    expected = _expected(request, len(materials.splits.train))
    deal = make_deal(config, expected, config.clipping.norm)
    assert deal.mechanism is not None
    canaries = min(request.canaries, max(1000, round(_MOST_PAID / deal.delta)))
    subject = Subject(
        materials,
        sigma=deal.mechanism.noise_multiplier,
        rate=deal.sampling_rate,
        steps=deal.num_steps,
        batch=config.batch,
        canaries=canaries,
        purpose="one run",
    )
    rng = np.random.default_rng(derive_seed(config.seed, "image canaries"))
    return one_run.audit_run(
        subject,
        materials,
        choose_images(materials, request.images, rng),
        gradient.coins(config.seed, "one run", canaries),
        claimed=deal.epsilon_after(deal.num_steps),
        delta=deal.delta,
        error=error,
        seed=derive_seed(config.seed, "rehearsal, one run"),
    )


def _expected(request: Request, num_train: int) -> int:
    """Return N of the audited run: the images that are no canaries, and half of those that are."""
    return num_train - request.images + request.images // 2


def _check_images(request: Request, num_train: int) -> None:
    """Check that the audited run can be made, before anything long is computed."""
    if not request.has_one_run:
        return
    if request.images >= num_train:
        raise ConfigError(
            f"audit.images={request.images}: the training set has {num_train} images, and some "
            f"must be left to train on; give fewer"
        )
    expected = _expected(request, num_train)
    if problems := size_problems(request.config, expected):
        raise ConfigError(
            f"{problems[0]} (of the {num_train} training images audit.images={request.images} are "
            f"canaries, of which half are in: give fewer, or audit.kind=gradient)"
        )


def _make_folder(request: Request) -> Path:
    """Make and return a new folder below `output`, before anything long is computed."""
    asked: dict[str, Any] = to_dict(request.config) | {
        "audit": [request.kind, request.canaries, request.images, request.steps, request.trials]
    }
    root = Path(request.config.output)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    folder = root / f"audit-{stamp}-{config_hash(asked)}"
    with writing(folder):
        folder.mkdir(parents=True)
    return folder


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
