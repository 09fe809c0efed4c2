"""The claims, one after the other: a line as each is settled, then the files."""

import sys
from collections.abc import Iterator
from typing import Any

import torch

from dpexp.claims import CLAIM, Verdict
from dpexp.record.provenance import describe_provenance
from dpexp.record.strict_json import write_json, write_text, writing
from dpexp.theory import (
    identity,
    invariance,
    noise_limit,
    privacy_claims,
    spectra_claims,
    trajectories,
)
from dpexp.theory.figures import save_figures
from dpexp.theory.found import Found
from dpexp.theory.page import as_page
from dpexp.theory.request import Request
from dpexp.theory.states import states
from dpexp.theory.subjects import all_subjects


def run(request: Request) -> dict[str, Any]:
    """Test the claims asked for, write the files and return what theory.json holds.

    Raises:
        RunFolderError: If the folder cannot be written.
    """
    path = request.output / "theory.json"
    with writing(path):
        request.output.mkdir(parents=True, exist_ok=True)
    provenance = describe_provenance(request.command) | {"threads": torch.get_num_threads()}
    verdicts: dict[str, Verdict] = {}
    numbers: dict[str, Any] = {}
    for found in _parts(request):
        for verdict in found.verdicts:
            if verdict.claim in request.claims:
                verdicts[verdict.claim] = verdict
                _say(f"{verdict.claim:<4} {verdict.outcome:<15} {verdict.ours}")
        numbers |= found.numbers
    document = {
        "settings": {
            "claims": list(request.claims), "states": request.states, "seeds": request.seeds,
            "subjects": [subject.name for subject in all_subjects()],
        },
        "provenance": provenance,
        "verdicts": [verdicts[name] for name in CLAIM if name in verdicts],
        "numbers": numbers,
    }  # fmt: skip
    write_json(path, document)
    figures = save_figures(numbers, request.output)
    write_text(request.output / "README.md", as_page(document, figures))
    _say(f"written to {request.output}: theory.json, README.md, {len(figures)} figures")
    return document


def _parts(request: Request) -> Iterator[Found]:
    """Yield what each part that is asked for found; parts that share states share the work."""
    if request.asks("A1", "A2", "A3", "A4", "A17"):
        yield from _at_states(request)
    if request.asks("A5", "A6"):
        yield _along_flows()
    if request.asks("A7", "A8"):
        finest = max(noise_limit.STEPS)
        runs = [noise_limit.run_at(n, request.seeds, finest) for n in noise_limit.STEPS]
        yield noise_limit.judge_noise(runs)
    if request.asks("A9"):
        pairs = [
            invariance.compare(seed, 10.0, sigma)
            for seed in invariance.SEEDS
            for sigma in invariance.SIGMAS
        ]
        yield invariance.judge_invariance(pairs, invariance.compare(0, 1e5, 0.0))
    if request.asks("A15"):
        epsilons = [privacy_claims.epsilon_at(bound) for bound in privacy_claims.BOUNDS]
        yield privacy_claims.judge_bounds(epsilons)
    if request.asks("A16"):
        yield privacy_claims.judge_snli(privacy_claims.snli())


def _at_states(request: Request) -> Iterator[Found]:
    identities, looks = [], []
    for state in states(request.states):
        if request.asks("A1"):
            identities += [identity.compare(state, style) for style in identity.STYLES]
        if request.asks("A2", "A3", "A4", "A17"):
            looks.append(spectra_claims.look_at(state))
    if identities:
        yield identity.judge_identity(identities)
    if looks:
        yield spectra_claims.judge_spectra(looks)


def _along_flows() -> Found:
    runs = [
        each
        for subject in all_subjects()
        for seed in trajectories.SEEDS
        for each in trajectories.follow(subject, seed)
    ]
    small = [each for each in runs if each.row == "small R, flat"]
    finer = trajectories.refine(max(small, key=lambda each: each.rise))
    return trajectories.judge_trajectories(runs, finer)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
