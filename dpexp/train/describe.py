"""What a run says of itself before its first step: model, data, steps, privacy, cost."""

from dpexp.accounting.stated import stated
from dpexp.mechanism import Sampler, whole_batches
from dpexp.sampling import num_dropped
from dpexp.train.deal import Deal
from dpexp.train.job import Job
from dpexp.train.optimization import lr_factor

_SAMPLER_WORDS: dict[Sampler, str] = {
    "poisson": "poisson",
    "truncated_poisson": "truncated poisson",
    "balls_and_bins": "balls-and-bins",
    "shuffle": "shuffled",
}


def describe(job: Job) -> list[str]:
    """Return the deal of a run in lines, for people."""
    config, built, deal = job.config, job.built, job.deal
    lines = [
        f"model     {built.name}: {built.num_params:,} parameters, {built.num_trainable:,} "
        f"trainable ({_percent(built.num_trainable / built.num_params)}), "
        f"{built.num_params - built.num_trainable:,} frozen; weights: {built.weights}"
        + f", seed {config.seed}"
        * (built.weights == "random"),
        *(f"          {note}" for note in built.notes),
        f"data      {config.dataset.name}: N = {deal.num_train:,} training"
        + (f", {len(job.splits.validation):,} validation" if job.splits.validation else "")
        + f", {len(job.splits.test):,} test {_samples(job)}",
        *_test_lines(job),
        *(f"          {note}" for note in job.splits.notes),
        f"steps     K = {deal.num_steps:,} of {_batch(job)}, in micro-batches of at most "
        f"{job.micro_batch}",
        *_schedule_lines(job),
        *_privacy_lines(job),
    ]
    seconds = deal.num_steps * config.batch * job.seconds_a_sample
    cost = f"cost      about {duration(seconds)} on {job.device.type}, by the time of a few samples"
    return [*lines, cost]


def _samples(job: Job) -> str:
    """Return what the samples are, and their size."""
    built = job.built
    if job.splits.train.form.target is not None:
        return f"rows; {built.channels} columns"
    return f"images; {built.channels} x {built.image_size} x {built.image_size}"


def _batch(job: Job) -> str:
    """Return how large a step's batch is."""
    deal, batch = job.deal, job.config.batch
    sampler = deal.mechanism.sampler if deal.mechanism else "poisson"
    per_epoch = whole_batches(deal.sampling_rate)
    if sampler == "shuffle":
        left_out = num_dropped(deal.num_train, batch)
        return f"B = {batch:,}, shuffled, {per_epoch:,} an epoch; {left_out:,} samples are left out"
    if sampler == "balls_and_bins":
        return (
            f"expected {deal.num_train / per_epoch:.4g} samples, {per_epoch:,} an epoch (sums are "
            f"divided by B = {batch:,})"
        )
    return f"expected batch B = {batch:,} (q = {deal.sampling_rate:.4g})"


def _schedule_lines(job: Job) -> list[str]:
    schedule, num_steps = job.config.schedule, job.deal.num_steps
    if schedule.warmup_steps < num_steps:
        return []
    highest = lr_factor(schedule, num_steps - 1, num_steps)
    return [
        f"          schedule.warmup_steps={schedule.warmup_steps} is no shorter than the run: the "
        f"learning rate gets to {highest:.2g} of optimizer.lr"
    ]


def _test_lines(job: Job) -> list[str]:
    if len(job.test) == len(job.splits.test):
        return []
    return [
        f"          a fixed part of {len(job.test)} test samples is evaluated"
        + ("" if job.config.evaluate_samples else ": the run is short")
        + f"; evaluate_samples={len(job.splits.test)} for all"
    ]


def _privacy_lines(job: Job) -> list[str]:
    config, deal, mechanism = job.config, job.deal, job.deal.mechanism
    if mechanism is None:
        return ["privacy   none: dp=off, ordinary training on the same batches and steps"]
    clipping = config.clipping
    assert job.engine is not None
    groups = len(job.engine.groups)
    shared = f"total R = {mechanism.clip_norm:.6g}" + (f" over {groups} groups" * (groups > 1))
    lines = [
        f"clipping  {clipping.style} {clipping.function}, {shared}, algorithm {clipping.algorithm}"
    ]
    if config.clipping.tail_norm is not None:
        lines.append(
            f"          clipping.norm={config.clipping.tail_norm:g} in the last "
            f"{config.clipping.tail_steps:,} steps; noise grows with it, epsilon does not"
        )
    if mechanism.noise_multiplier == 0:
        what = "neither clipped nor noised" if clipping.algorithm == "nonprivate" else "not noised"
        return [*lines, f"privacy   none: gradients are {what}"]
    epsilon, bounds = deal.epsilon_after(deal.num_steps), deal.bounds
    assert bounds is not None
    target = f" (target {deal.target_epsilon:g})" if deal.target_epsilon else ""
    noise = f"at delta {deal.delta:g}, sigma = {mechanism.noise_multiplier:.4f}"
    if config.protocol == "published":
        head = [
            f"privacy   NO GUARANTEE; the papers' protocol would state epsilon {bounds.gdp:.4g} "
            f"{noise}",
            f"          epsilon <= {stated(bounds.epsilon)} had the batches been Poisson draws",
            f"          epsilon <= {stated(epsilon)} for the shuffled batches of this run, without "
            f"amplification; neighbors {deal.adjacency}",
        ]
    else:
        kind = _SAMPLER_WORDS[mechanism.sampler]
        head = [
            f"privacy   epsilon <= {stated(epsilon)}{target} {noise}; {kind} batches; "
            f"{deal.adjacency}",
            *_sampler_lines(deal),
        ]
    lines += [
        *head,
        f"          accountants: PRV {_number(bounds.prv)}, PLD {_number(bounds.pld)}, "
        f"RDP {stated(bounds.rdp)}; central limit (no bound) {bounds.gdp:.4g}",
        *(f"          {note}" for note in bounds.notes),
        f"          guarantee: {deal.guarantee} ({deal.reason})",
    ]
    return lines


def _sampler_lines(deal: Deal) -> list[str]:
    """Return what a sampler other than Poisson does, and where its epsilon comes from."""
    mechanism, bounds = deal.mechanism, deal.bounds
    assert mechanism is not None
    assert bounds is not None
    lines = []
    if mechanism.batch_limit is not None:
        lines.append(
            f"          a step takes at most {mechanism.batch_limit:,} samples, a random subset of "
            f"a larger draw; the chance of one in this run is at most {deal.overflow_chance:.2g}"
        )
    if mechanism.sampler == "balls_and_bins":
        num_batches = whole_batches(mechanism.sampling_rate)
        lines.append(
            f"          each epoch every sample goes to one of {num_batches:,} batches; an epoch "
            f"once started counts whole"
        )
    if lines:
        lines += [
            f"          accountant: {deal.accountant}",
            f"          beside it, Poisson draws of that size: epsilon <= {stated(bounds.epsilon)}",
        ]
    return lines


def _percent(share: float) -> str:
    return "100%" if share == 1 else f"{100 * share:.3g}%"


def _number(value: float | None) -> str:
    return "failed" if value is None else stated(value)


def duration(seconds: float) -> str:
    """Return a time for people: 48 s, 12 min, 3.5 h, 2.1 days."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
