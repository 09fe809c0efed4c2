"""The audit finds faults planted in the engine, and none where there is none."""

from contextlib import nullcontext

import pytest
from reference import privacy_bugs as bugs

from dpexp.audit import gradient
from dpexp.audit.attack import lower_bound
from dpexp.audit.audit import perform

EVERY_STEP, SUBSAMPLED = gradient.audit_every_step, gradient.audit_subsampled
ONE_SAMPLE = gradient.audit_one_sample
ERROR = 0.01

# Fault, what is run, and which attack is to find it.
CASES = {
    "noise too small": (bugs.noise_scaled(1 / 2), EVERY_STEP, "likelihood"),
    "noise too small, subsampled": (bugs.noise_scaled(1 / 2), SUBSAMPLED, "likelihood"),
    "clipping skipped": (bugs.clipping_skipped(), EVERY_STEP, "likelihood"),
    "clipping skipped, subsampled": (bugs.clipping_skipped(), SUBSAMPLED, "coordinate"),
    "drawn size": (bugs.normaliser_drawn(), ONE_SAMPLE, "scale of what"),
    "noise for two updates": (bugs.noise_reused(2), EVERY_STEP, "likelihood"),
    "noise for two updates, subsampled": (bugs.noise_reused(2), SUBSAMPLED, "signed"),
    "noise for all updates": (bugs.noise_reused(10**9), EVERY_STEP, "likelihood"),
    "noise for all updates, subsampled": (bugs.noise_reused(10**9), SUBSAMPLED, "signed"),
    "noise split": (bugs.noise_split(), EVERY_STEP, "likelihood"),
    "noise for all tensors": (bugs.noise_same_for_tensors(), EVERY_STEP, "less a blank"),
    "not finite": (bugs.nonfinite_kept(), ONE_SAMPLE, "not finite"),
    "sampled often": (bugs.sampled_more_often(2.5), SUBSAMPLED, "likelihood"),
    "conv.weight": (bugs.missing_from_norm((16, 1, 3, 3)), ONE_SAMPLE, "conv.weight"),
    "conv.bias": (bugs.missing_from_norm((16,)), ONE_SAMPLE, "conv.bias"),
    "head.weight": (bugs.missing_from_norm((10, 256)), ONE_SAMPLE, "head.weight"),
    "head.bias": (bugs.missing_from_norm((10,)), ONE_SAMPLE, "head.bias"),
}


@pytest.mark.parametrize(("bug", "audit_part", "attack"), CASES.values(), ids=CASES)
def test_a_planted_fault_is_above_the_claim(small, bug, audit_part, attack):
    request, materials, deal = small()
    with bug:
        part = audit_part(request, materials, deal, ERROR)
    assert part.is_violated
    assert attack in part.best.name
    assert lower_bound(part.best) > 1.05 * part.claimed


def test_a_scale_without_r_is_found_where_r_is_not_one(small):
    request, materials, deal = small("clipping.norm=2")
    for bug, is_found in ((bugs.noise_of_sigma(), True), (nullcontext(), False)):
        with bug:
            part = EVERY_STEP(request, materials, deal, ERROR)
        assert part.is_violated == is_found


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("audit_part", [EVERY_STEP, SUBSAMPLED, ONE_SAMPLE])
def test_no_bound_of_the_engine_as_it_is_passes_the_claim(small, audit_part, seed):
    request, materials, deal = small(f"seed={seed}")
    part = audit_part(request, materials, deal, ERROR)
    assert not part.is_violated
    if audit_part is not ONE_SAMPLE:
        assert part.best.epsilon > 0


@pytest.mark.slow
@pytest.mark.parametrize("is_planted", [True, False])
def test_a_clipped_sum_of_unclipped_gradients_is_found(small, is_planted):
    # It moves by 2 R where R is claimed, no more: only many trials show that.
    request, materials, deal = small("audit.trials=500", "noise_multiplier=1", "steps=10")
    with bugs.clipped_after_sum() if is_planted else nullcontext():
        part = ONE_SAMPLE(request, materials, deal, ERROR)
    assert part.is_violated == is_planted
    assert "opposite" in part.best.name or not is_planted


# The one-run audit: what its canaries, which have coordinates of their own, can see.
RUN = ("audit.kind=one_run", "steps=10", "noise_multiplier=4")
RUN_CASES = {
    "clipping skipped": bugs.clipping_skipped(),
    "noise far too small": bugs.noise_scaled(1 / 5),
    "noise for two updates": bugs.noise_reused(2),
    "noise for all updates": bugs.noise_reused(10**9),
}


@pytest.mark.parametrize("bug", RUN_CASES.values(), ids=RUN_CASES)
def test_one_run_finds_a_planted_fault(small, bug):
    request, materials, _ = small(*RUN)
    with bug:
        audit = perform(request, materials, lambda line: None)
    assert audit.is_violated
    assert audit.run.parts[1].best.epsilon > audit.run.claimed


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_one_run_of_the_engine_as_it_is_does_not_pass_the_claim(small, seed):
    request, materials, _ = small(*RUN, f"seed={seed}")
    audit = perform(request, materials, lambda line: None)
    assert not audit.is_violated
    assert audit.run.parts[1].best.epsilon > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 14))
def test_audits_of_many_seeds_never_pass_the_claim_and_come_near_it(small, seed):
    request, materials, _ = small(
        f"seed={seed}", "audit.canaries=30000", "batch=512", "steps=30", "noise_multiplier=2.3"
    )
    audit = perform(request, materials, lambda line: None)
    assert not audit.is_violated
    every_step, subsampled, _ = audit.parts
    assert every_step.best.epsilon > 0.85 * every_step.claimed
    assert subsampled.best.epsilon > 0.6 * subsampled.claimed
