"""The loop over steps: draw, step, record; evaluate and save now and then; stop when asked."""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from dpexp.data.splits import Split
from dpexp.metrics.reliability import Reliability
from dpexp.record.folder import RunFolder
from dpexp.record.wandb_mirror import WandbMirror
from dpexp.sampling import derive_seed, draw, micro_batches, poisson_batch
from dpexp.train.account import Account
from dpexp.train.checkpoint import Saved, save_checkpoint
from dpexp.train.evaluate import Evaluation, EvaluationStopped, evaluate, some_of
from dpexp.train.job import Job
from dpexp.train.optimization import lr_factor, set_lr
from dpexp.train.plan_file import write_plan
from dpexp.train.signals import heard_by
from dpexp.train.step import StepStats, train_step
from dpexp.train.tail import at_step, base_lr

# Samples that an evaluation during a run looks at; the one at its end looks at all.
_WATCHED = 1000

# Told after every step: step, steps, epsilon spent, how the last evaluation went.
Progress = Callable[[int, int, float, str], None]


class StopRequest:
    """Whether somebody asked to stop: the first Ctrl-C ends the step, but no evaluation."""

    def __init__(self) -> None:
        self.is_set = False

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Heed Ctrl-C and SIGTERM within the block; only where signals can be heard."""

        def heed(number: int, frame: FrameType | None) -> None:
            if self.is_set:
                raise KeyboardInterrupt
            self.is_set = True
            with suppress(OSError):  # not sys.stderr: the signal may come amid a write to it
                os.write(2, b"stopping after this step; once more to stop at once\n")

        with heard_by(heed):
            yield self


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        state: "done", "interrupted" or "diverged".
        steps_done: Steps taken, over all resumptions.
        test: The last evaluation on the test set; None if the run was interrupted.
        validation: Likewise, where there is a validation set.
        step_seconds: Median since the run was started or resumed; None without a step.
    """

    state: str
    steps_done: int
    test: Evaluation | None
    validation: Evaluation | None
    step_seconds: float | None

    def named(self) -> dict[str, Any]:
        """Return the measures of the last evaluations as test/<name> and val/<name>."""
        test = self.test.named("test") if self.test else {}
        return test | (self.validation.named("val") if self.validation else {})

    @property
    def reliability(self) -> Reliability | None:
        """The bins of the test set."""
        return self.test.reliability if self.test else None


def fit(
    job: Job,
    folder: RunFolder,
    mirror: WandbMirror,
    account: Account,
    *,
    start: Saved,
    progress: Progress,
) -> Outcome:
    """Take the steps from `start` to K, each charged before it is taken, and evaluate.

    Without secure noise everything random in a step follows from (seed, attempt, purpose, step), so
    a run that was stopped and goes on is the run that was not stopped. Where steps had to be
    charged twice, the budget may end the run before step K.
    """
    num_steps = job.deal.num_steps
    every = job.config.evaluate_every or max(2, math.ceil(num_steps / 10))
    save_every = job.config.checkpoint_every or max(1, math.ceil(num_steps / 10))
    seconds: list[float] = []
    has_plan = job.engine is None
    watched, has_diverged, done, is_saved = "", False, start.step, False
    metrics = dict(start.row)
    devices = [job.device] if job.device.type == "cuda" else []
    with StopRequest().listening() as stop, torch.random.fork_rng(devices):
        for step in range(start.step, num_steps):
            next_save = min(num_steps, (step // save_every + 1) * save_every)
            if not account.charge(step, next_save, seconds[-1] if seconds else None):
                break
            job = at_step(job, step)
            began = time.perf_counter()
            stats = _step(job, step)
            seconds.append(time.perf_counter() - began)
            done, is_saved = step + 1, False
            # Before anything of a step can be seen: a run that goes on clips as it did before.
            has_plan = has_plan or write_plan(job, folder)
            metrics = _step_metrics(job, account, stats, done, seconds[-1])
            if done % every == 0 and done < num_steps:
                held_out, place = _held_out(job)
                with suppress(EvaluationStopped):
                    found = _evaluate(job, held_out, stop)
                    metrics |= found.named(place)
                    watched, has_diverged = job.task.progress(found.metrics), found.has_diverged
            progress(done, num_steps, metrics["privacy/epsilon"], watched)
            if done < num_steps:  # the last step's line waits for the last evaluation
                folder.log_metrics(done, metrics)
                mirror.log(done, metrics)
            if stop.is_set or has_diverged or done == next_save:
                write_plan(job, folder)
                _save(job, folder, account, done, metrics)
                is_saved = True
            if has_diverged or stop.is_set:
                break
        account.give_back(done)
        if stop.is_set and done < num_steps:
            return Outcome("interrupted", done, None, None, _median(seconds))
        if not is_saved:  # also where an earlier process died between the two files of its last
            _save(job, folder, account, done, metrics)
        try:
            outcome = _finish(job, done, has_diverged, seconds, stop)
        except EvaluationStopped:
            return Outcome("interrupted", done, None, None, _median(seconds))
        if not has_diverged and _last_logged(folder) < done:
            metrics = {**metrics, **outcome.named()}
            folder.log_metrics(done, metrics)
            mirror.log(done, metrics)
        return outcome


def _save(job: Job, folder: RunFolder, account: Account, done: int, row: Mapping[str, Any]) -> None:
    """Write all that a run goes on from, but for the plan, which is known once a step was taken."""
    save_checkpoint(folder, job.model, job.optimizer, Saved(done, account.digest, row))
    folder.set_status("running", step=done, steps=job.deal.num_steps)


def _step(job: Job, step: int) -> StepStats:
    """Draw one batch and take one step."""
    config = job.config
    mechanism, num_train = job.deal.mechanism, job.deal.num_train
    if mechanism is None:
        indices = poisson_batch(num_train, job.deal.sampling_rate, job.seed, step)
    else:
        indices = draw(mechanism, num_train, job.seed, step, secure=config.noise.secure)
    job.seed_noise(step)
    torch.manual_seed(derive_seed(job.seed, "dropout", step))
    set_lr(job.optimizer, base_lr(job, step) * lr_factor(config.schedule, step, job.deal.num_steps))

    def pieces() -> Iterator[tuple[Tensor, Tensor]]:
        for rows in micro_batches(indices, job.micro_batch):
            images, labels = job.splits.train.batch(rows)
            yield images.to(job.device), labels.to(job.device)

    return train_step(
        job.model,
        job.optimizer,
        job.engine,
        pieces(),
        expected_batch_size=config.batch,
        autocast=job.autocast(),
        loss=job.task.loss,
    )


def _step_metrics(
    job: Job, account: Account, stats: StepStats, done: int, seconds: float
) -> dict[str, Any]:
    """Return what is logged of a step; what is computed from training data is under unsafe/."""
    metrics: dict[str, Any] = {
        "lr": job.optimizer.param_groups[0]["lr"],
        "privacy/epsilon": account.epsilon(done),
        "time/step_seconds": seconds,
        "unsafe/batch_size": len(stats.losses),
    }
    if len(stats.losses):
        metrics[f"unsafe/{job.task.loss_name}"] = float(stats.losses.mean())
    if len(stats.grad_norms) and job.deal.mechanism is not None:
        norms = stats.grad_norms
        metrics["unsafe/grad_norm_median"] = float(norms.median())
        above = norms > job.deal.mechanism.clip_norm
        metrics["unsafe/clipped_fraction"] = float(above.float().mean())
        metrics["unsafe/nonfinite_samples"] = int((~torch.isfinite(norms)).sum())
    return metrics


def _last_logged(folder: RunFolder) -> int:
    """Return the last step in the record; 0 if there is none."""
    rows = folder.read_metrics()
    return rows[-1]["step"] if rows else 0


def _held_out(job: Job) -> tuple[Split, str]:
    """Return what progress is watched on: some of the validation set, or else of the test set."""
    if job.splits.validation is not None:
        return some_of(job.splits.validation, _WATCHED), "val"
    return some_of(job.test, _WATCHED), "test"


def _evaluate(job: Job, split: Split, stop: StopRequest) -> Evaluation:
    return evaluate(
        job.model,
        split,
        batch=job.micro_batch,
        autocast=job.autocast(),
        should_stop=lambda: stop.is_set,
    )


def _finish(
    job: Job, steps_done: int, has_diverged: bool, seconds: list[float], stop: StopRequest
) -> Outcome:
    test = _evaluate(job, job.test, stop)
    validation = _evaluate(job, job.splits.validation, stop) if job.splits.validation else None
    state = "diverged" if has_diverged or test.has_diverged else "done"
    return Outcome(state, steps_done, test, validation, _median(seconds))


def _median(seconds: list[float]) -> float | None:
    return sorted(seconds)[len(seconds) // 2] if seconds else None
