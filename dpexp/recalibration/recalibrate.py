"""`dpexp eval <run> recalibration=...`: fit a scaling to a run's validation part, measure both."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpexp.accounting.ledger_file import read_entries
from dpexp.accounting.stated import stated
from dpexp.data.fingerprint import fingerprint
from dpexp.errors import ConfigError, RunFolderError
from dpexp.metrics.calibration import calibration
from dpexp.metrics.diagram import save_reliability_diagram
from dpexp.recalibration.fit import Fit, fit_scaling
from dpexp.recalibration.request import Request
from dpexp.recalibration.statement import recalibration_document
from dpexp.record.folder import RunFolder
from dpexp.schema import to_dict
from dpexp.train.console import say
from dpexp.train.evaluate import Evaluation, measure
from dpexp.train.outcome import measures, recorded, write_reliability
from dpexp.train.saved import SavedRun, load_saved

# What decides which samples a run held out, or what it saw of them.
_FIXED_SECTIONS = ("dataset", "model")
_FREE_KEYS = ("dataset.root",)


def recalibrate(
    path: Path, overrides: Mapping[str, Any], request: Request, command: Sequence[str]
) -> dict[str, Any]:
    """Fit a scaling to a run's held-out samples, and measure the test set before and after.

    Everything goes into a new folder: recalibration.json with the scaling and what it cost, the
    measures after under the usual names; those before are `before/*` in summary.json, and their
    files end in `_before`.

    Args:
        path: A run folder.
        overrides: Dotted key to value; none that changes which samples the run held out.
        request: Which scaling, and at which epsilon.
        command: As typed.

    Raises:
        DpexpError: If the run has no held-out samples, is not done, or cannot be read.
    """
    run = _finished_run(path)
    _refuse_other_data(overrides)
    privacy = run.read_document("privacy.json")
    saved = load_saved(path, overrides)
    _refuse_moved_data(run, saved)
    held_out, before = _measured(saved, path)
    fit = fit_scaling(
        request.method,
        held_out.logits,
        held_out.labels,
        eps=request.eps,
        delta=privacy["delta"],
        num_samples=held_out.num_samples,
        seed=None if saved.config.noise.secure else saved.config.seed,
    )
    after = measure(fit.scaling.apply(before.logits), saved.test)
    document = recalibration_document(fit, privacy, path.resolve().name)
    with (
        RunFolder.create(saved.config.output, to_dict(saved.config), command) as folder,
        recorded(folder),
    ):
        folder.write_document("recalibration.json", document)
        _write_before(folder, before, saved.built.name)
        cost = f"epsilon <= {document['epsilon']:.10g} in all"
        words = "not private" if document["guarantee"] == "none" else cost
        subtitle = f"after {request.method} scaling, {words}"
        write_reliability(folder, after, title=saved.built.name, subtitle=subtitle)
        summary = {
            **after.named("test"),
            **before.named("before"),
            "privacy/epsilon": document["epsilon"],
            "privacy/delta": document["delta"],
            "privacy/guarantee": document["guarantee"],
            "privacy/epsilon_fit": fit.epsilon,
        }
        folder.write_summary(summary)
        folder.set_status("done", step=0, steps=0)
        for line in _lines(before, after, fit, document):
            say(line)
        say(f"folder    {folder.path}")
    return summary


def _finished_run(path: Path) -> RunFolder:
    if not (path / "privacy.json").is_file():
        raise RunFolderError(
            f"{path} has no privacy.json, so it is not known what its weights have cost, nor which "
            f"samples they have not seen; recalibrate a run folder that dpexp train made"
        )
    run = RunFolder.open(path)
    state = run.read_status()["state"]
    if state != "done":
        raise RunFolderError(
            f"{path} is {state}: going on would spend more than its privacy.json says, and the "
            f"total would be too low; finish it with dpexp train resume={path}"
        )
    return run


def _refuse_other_data(overrides: Mapping[str, Any]) -> None:
    """Refuse keys that would fit a scaling to samples that the run was trained on.

    Raises:
        ConfigError: If there are any.
    """
    wrong = [
        key for key in overrides if key.split(".")[0] in _FIXED_SECTIONS and key not in _FREE_KEYS
    ]
    if wrong:
        raise ConfigError(
            f"{', '.join(wrong)}: another split or network than the run's could fit the scaling to "
            f"samples that it was trained on; leave them out (free: {', '.join(_FREE_KEYS)})"
        )


def _refuse_moved_data(run: RunFolder, saved: SavedRun) -> None:
    """Refuse data that lie elsewhere or otherwise than when the run was trained on them.

    Raises:
        ConfigError: If the training part is not the one in the run's ledger.
    """
    ledger = run.path / "ledger.jsonl"
    if not ledger.is_file():  # a run without privacy: the total has none either
        return
    trained_on = read_entries(ledger)[0]["terms"]["unsafe/data"]
    if fingerprint(saved.splits.train) != trained_on:
        raise ConfigError(
            f"{run.path}: dataset.root={saved.config.dataset.root} gives other training data than "
            f"the run had, or the same in another order, so samples that it was trained on may be "
            f"among those held out; give the folder that it was trained from"
        )


def _measured(saved: SavedRun, path: Path) -> tuple[Evaluation, Evaluation]:
    """Return the evaluations on the validation part and on the test set, both with confidences."""
    if saved.splits.validation is None:
        raise ConfigError(
            f"{path}: dataset.validation={saved.config.dataset.validation:g} held no sample out of "
            f"training, and a scaling fitted to training samples would be as sure as they are; "
            f"train with dataset.validation=0.2, say, and recalibrate that run"
        )
    held_out, before = saved.measure(saved.splits.validation), saved.measure(saved.test)
    if not before.task.has_confidence:
        raise ConfigError(
            f"{path}: {saved.config.dataset.name} asks for a number, so there are no confidences "
            f"to calibrate; recalibrate a run that tells classes apart"
        )
    if held_out.has_diverged or before.has_diverged:
        raise RunFolderError(
            f"{path}: some outputs of the model are not finite, so there is nothing to rescale; "
            f"train again with a lower optimizer.lr"
        )
    return held_out, before


def _write_before(folder: RunFolder, before: Evaluation, title: str) -> None:
    assert before.reliability is not None
    folder.write_document("reliability_before.json", before.reliability.to_dict())
    found = calibration(before.logits, before.labels)
    folder.write_document("calibration_before.json", found.to_dict())
    figure = folder.reliability_figure.with_name("reliability_before.png")
    save_reliability_diagram(before.reliability, figure, title=title, subtitle="as trained")


def _lines(
    before: Evaluation, after: Evaluation, fit: Fit, document: Mapping[str, Any]
) -> list[str]:
    """Return how it went, for the screen."""
    temperature = fit.scaling.temperature
    found = f"temperature {temperature:.4g}" if temperature else "a scale and a shift a class"
    noise = "" if fit.delta is None else (
        f" by {fit.num_steps} full-batch steps at sigma {fit.noise_multiplier:.4g}"
    )  # fmt: skip
    own = "no noise"
    if fit.delta is not None:
        own = f"epsilon <= {stated(fit.epsilon)} of its own"
    lines = [
        f"fitted    {found}, to {fit.num_samples:,} held-out samples{noise}; {own}",
        measures(before).replace("test  ", "before", 1),
        measures(after).replace("test ", "after", 1),
    ]
    if document["guarantee"] == "none":
        return [*lines, f"privacy   none: {document['reason']}"]
    return [
        *lines,
        f"privacy   epsilon <= {document['epsilon']:.10g} at delta {document['delta']:g} for run "
        f"and fit together ({document['accountant']})",
        f"          guarantee: {document['guarantee']} ({document['reason']})",
    ]
