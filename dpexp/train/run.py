"""A run from configuration to summary, and going on with one that stopped."""

import math
import resource
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dpexp.accounting.stated import stated
from dpexp.config import TrainConfig, check
from dpexp.errors import RunFailedError, RunFolderError
from dpexp.record.folder import RunFolder
from dpexp.record.wandb_mirror import WandbMirror
from dpexp.schema import to_dict
from dpexp.train.account import Account, begun_with, open_account
from dpexp.train.checkpoint import Saved, load_state
from dpexp.train.console import progress_bar, say
from dpexp.train.describe import describe, duration
from dpexp.train.fit import Outcome, fit
from dpexp.train.job import Job, prepare
from dpexp.train.outcome import measures, recorded, write_reliability
from dpexp.train.plan_file import read_plan
from dpexp.train.saved import saved_config, with_overrides
from dpexp.train.statement import privacy_document, running_document


def run(config: TrainConfig, command: Sequence[str] = ("dpexp", "train")) -> dict[str, Any]:
    """Train as `config` says, in a folder of its own; return its summary.

    Raises:
        DpexpError: If the run cannot start.
        RunFailedError: If it started and did not end well; the folder says why.
        KeyboardInterrupt: If it was stopped; the folder can be resumed.
    """
    check(config)
    job = prepare(config, announce=say)
    complete = to_dict(config)
    # The weights' own normalisation, which the saved weights alone would not tell.
    form = job.splits.train.form
    complete["dataset"] |= {"mean": list(form.mean), "std": list(form.std)}
    with RunFolder.create(config.output, complete, command) as folder:
        return _train(job, folder, open_account(job, folder), Saved())


def resume(path: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Go on with a run that stopped, in its own folder; return its summary.

    Args:
        path: The run folder.
        overrides: Dotted key to value; only keys that change nothing mathematical.

    Raises:
        DpexpError: If the folder is not a run's, another process has it, or it cannot go on.
    """
    with RunFolder.open(path, write=True) as folder:
        state = folder.read_status()["state"]
        if state == "done":
            say(f"{path} is done; nothing to resume")
            return folder.read_document("summary.json")
        if state == "diverged":
            raise RunFolderError(
                f"{path} diverged: its outputs are not finite, and further steps would not mend "
                f"them; start a new run with a lower optimizer.lr"
            )
        config = with_overrides(saved_config(folder), overrides)
        check(config)
        folder.check_same_run(to_dict(config), to_dict(saved_config(folder)))
        plan = read_plan(folder)
        if config.micro_batch is None and plan:
            config = replace(config, micro_batch=plan["micro_batch"])
        job = prepare(config, announce=say, sigma=begun_with(folder))
        if job.engine is not None and plan:
            job.engine.load_plan(plan["uses"])
        saved = load_state(folder, job.model, job.optimizer)
        step = saved.step
        if job.engine is not None:
            job.engine.load_state_dict({"num_steps": step})
        account = open_account(job, folder, step=step, digest=saved.ledger)
        job = replace(job, attempt=account.attempt)
        changed = [f"{key}={value}" for key, value in overrides.items()]
        folder.resume_from(step, ["dpexp", "train", f"resume={path}", *changed])
        say(f"resuming  {path} after step {step:,}{_charged_beyond(account, step)}")
        return _train(job, folder, account, saved)


def _charged_beyond(account: Account, step: int) -> str:
    """Return what becomes of steps that were charged but are in no checkpoint."""
    ledger = account.ledger
    if ledger is None or ledger.furthest <= step:
        return ""
    lost = f"; steps up to {ledger.furthest:,} were charged and may have been taken: "
    if ledger.charges.last.to > step:
        return f"{lost}they are repeated bit for bit, and cost nothing"
    return f"{lost}they are drawn afresh and charged again, so the run will end earlier"


def _train(job: Job, folder: RunFolder, account: Account, start: Saved) -> dict[str, Any]:
    """Run the loop in `folder` and write down how it ended, however it ends."""
    # What was recorded before a stop is counted in.
    earlier = sum(row.get("time/step_seconds") or 0 for row in folder.read_metrics())
    began = time.perf_counter() - earlier
    with recorded(folder), closing(account):
        for line in describe(job):
            say(line)
            folder.log(line)
        say(f"folder    {folder.path}")
        folder.set_status("running", step=start.step, steps=job.deal.num_steps)
        folder.write_document("privacy.json", running_document(job.config, account, start.step))
        with _mirror(job, folder) as mirror:
            with progress_bar(start.step) as progress:
                outcome = fit(job, folder, mirror, account, start=start, progress=progress)
            seconds = time.perf_counter() - began
            summary = _write_outcome(job, folder, mirror, account, outcome, seconds)
    return _conclude(job, folder, outcome, summary)


def _mirror(job: Job, folder: RunFolder) -> WandbMirror:
    config, deal = job.config, job.deal
    privacy = {
        "epsilon": deal.epsilon_after(deal.num_steps),
        "sigma": deal.mechanism.noise_multiplier if deal.mechanism else 0.0,
        "sampling_rate": deal.sampling_rate,
        "guarantee": deal.guarantee,
    }
    wandb = config.wandb
    return WandbMirror.start(
        folder.path,
        to_dict(config),
        privacy,
        mode=wandb.mode,
        project=wandb.project,
        entity=wandb.entity,
        group=wandb.group,
        name=wandb.name,
        tags=wandb.tags,
        warn=say,
    )


def _write_outcome(
    job: Job,
    folder: RunFolder,
    mirror: WandbMirror,
    account: Account,
    outcome: Outcome,
    seconds: float,
) -> dict[str, Any]:
    """Write privacy.json and, for a run that ended, its measures; return the summary."""
    deal = job.deal
    folder.write_document("privacy.json", privacy_document(job.config, account, outcome.steps_done))
    summary: dict[str, Any] = {
        "privacy/epsilon": account.epsilon(),
        "privacy/delta": deal.delta,
        "privacy/noise_multiplier": deal.mechanism.noise_multiplier if deal.mechanism else 0.0,
        "privacy/guarantee": deal.guarantee,
        "steps": outcome.steps_done,
        "time/total_seconds": seconds,
        "time/step_seconds": outcome.step_seconds,
        "time/ledger_seconds": account.write_seconds,
        "memory/peak_gib": _peak_gib(job),
        "model/num_params": job.built.num_params,
        "model/num_trainable": job.built.num_trainable,
    }
    summary |= outcome.named()
    if outcome.test is not None:
        epsilon = summary["privacy/epsilon"]
        subtitle = (
            f"epsilon <= {stated(epsilon)} at delta = {deal.delta:g}, {deal.num_steps:,} steps"
        )
        title = f"{job.built.name} on {job.config.dataset.name}"
        write_reliability(folder, outcome.test, title=title, subtitle=subtitle)
        folder.write_summary(summary)
        mirror.summarize(summary)
        if outcome.reliability is not None:
            bins = outcome.reliability.to_dict()
            mirror.log_reliability(outcome.steps_done, folder.reliability_figure, bins)
    return summary


def _conclude(
    job: Job, folder: RunFolder, outcome: Outcome, summary: dict[str, Any]
) -> dict[str, Any]:
    """Write the last state and say how the run ended and what to type next."""
    quoted = shlex.quote(str(folder.path))
    if outcome.state == "interrupted":
        folder.set_status("interrupted", step=outcome.steps_done)
        stopped = (
            f"stopped   after step {outcome.steps_done:,} of {job.deal.num_steps:,}; go on with"
        )
        say(stopped)
        folder.log(stopped)
        say(f"          dpexp train resume={quoted}")
        if summary["privacy/epsilon"] < math.inf:
            say(
                f"privacy   epsilon <= {stated(summary['privacy/epsilon'])} so far; going on to "
                f"the end makes it {stated(job.deal.epsilon_after(job.deal.num_steps))} in all"
            )
        raise KeyboardInterrupt
    if outcome.state == "diverged":
        message = (
            f"the model diverged: its outputs are not finite after {outcome.steps_done:,} steps. "
            f"Lower optimizer.lr (now {job.config.optimizer.lr:g}); the record is in {folder.path}"
        )
        folder.set_status("diverged", step=outcome.steps_done, error=message)
        raise RunFailedError(message)
    assert outcome.test is not None
    folder.set_status("done", step=outcome.steps_done)
    if outcome.steps_done < job.deal.num_steps:
        missed = job.deal.num_steps - outcome.steps_done
        early = (
            f"budget    spent after step {outcome.steps_done:,} of {job.deal.num_steps:,}: "
            f"{missed:,} steps that an earlier process may have taken were charged twice"
        )
        say(early)
        folder.log(early)
    epsilon = summary["privacy/epsilon"]
    bound = f"epsilon <= {stated(epsilon)} at delta {job.deal.delta:g}" * (epsilon < math.inf)
    if bound and job.deal.guarantee == "none":
        bound += f" as shuffled ({job.deal.adjacency})"
    bound += ", " * bool(bound)
    peak, seconds = summary["memory/peak_gib"], summary["time/total_seconds"]
    for line in (
        measures(outcome.test),
        f"privacy   {bound}guarantee: {job.deal.guarantee} ({job.deal.reason})",
        f"cost      {duration(seconds)}, peak memory {peak:.2f} GiB",
    ):
        say(line)
        folder.log(line)
    say(f"folder    {folder.path}")
    say(f"next      dpexp eval {quoted}")
    return summary


def _peak_gib(job: Job) -> float:
    if job.device.type == "cuda":
        return torch.cuda.max_memory_allocated(job.device) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
