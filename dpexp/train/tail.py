"""Another clip norm for the last steps of a run.

Noise has standard deviation sigma R on a gradient sum, whatever R is, so a step costs the same with
either norm, and the epsilon of the run does not change.

Source: Bu et al. 2023, arXiv:2106.07830, the SNLI experiment: R 0.1, then R 20 for the last 2,500
of 54,000 steps.
"""

from dataclasses import replace

from dpexp.train.job import Job, build_engine, sensitivity_of


def at_step(job: Job, step: int) -> Job:
    """Return the job that takes `step`: with the clip norm of the tail from its first step on.

    The engine of the tail is a new one, which clips by the plan of the one before, so that sums
    round alike.
    """
    mechanism, engine = job.deal.mechanism, job.engine
    norm = job.config.clipping.tail_norm
    if norm is None or mechanism is None or engine is None or not _is_in_tail(job, step):
        return job
    clipping = replace(job.config.clipping, norm=norm)
    bound = sensitivity_of(job.model, replace(job.config, clipping=clipping))
    if mechanism.clip_norm == bound:
        return job
    mechanism = replace(mechanism, clip_norm=bound)
    engine.detach()
    of_tail = build_engine(job.config, job.model, job.optimizer, mechanism, job.noise)
    of_tail.load_plan(engine.plan_rows())
    of_tail.load_state_dict(engine.state_dict())
    return replace(job, engine=of_tail, deal=replace(job.deal, mechanism=mechanism))


def base_lr(job: Job, step: int) -> float:
    """Return the learning rate of a step before the schedule's factor."""
    lr = job.config.clipping.tail_lr
    return job.config.optimizer.lr if lr is None or not _is_in_tail(job, step) else lr


def _is_in_tail(job: Job, step: int) -> bool:
    length = job.config.clipping.tail_steps
    return length is not None and step >= job.deal.num_steps - length
