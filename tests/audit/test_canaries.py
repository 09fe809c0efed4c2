"""Canaries as the engine sees them, and what an attacker can count on."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from dpexp.audit.attack import CERTAIN, known
from dpexp.audit.audit import perform
from dpexp.audit.canaries import HUGE, canary_records, image_records
from dpexp.audit.gradient import coins, training_samples
from dpexp.audit.guesses import Guesses, epsilon_of_guesses
from dpexp.audit.mislabelled import choose_images
from dpexp.audit.one_run import refuting_count
from dpexp.audit.subject import Subject
from dpexp.audit.subsampled import Family
from dpexp.audit.targets import find_target, parameters_of, weights
from dpexp.audit.trials import chosen_tensors
from dpexp.audit.watch import Look, best_threshold, log_ratio, rehearsed, watch


def subject_of(materials, *, sigma=1e-6, rate=1.0, steps=2, batch=8.0, canaries=50):
    return Subject(
        materials, sigma=sigma, rate=rate, steps=steps, batch=batch, canaries=canaries,
        purpose="test",
    )  # fmt: skip


@pytest.mark.parametrize("function", ["abadi", "autos", "autov", "psac", "global"])
@pytest.mark.parametrize("style", ["flat", "layerwise"])
def test_a_canary_moves_its_coordinate_by_its_share_of_r_and_no_other(small, function, style):
    _, materials, _ = small(
        f"clipping.function={function}", f"clipping.style={style}", "clipping.norm=3"
    )
    subject = subject_of(materials)
    assert subject.share == 1.0 if style == "flat" else subject.share < 0.6
    records = canary_records(torch.tensor([3, 7]), subject.factor * torch.tensor([1.0, -1.0]), 64)
    subject.step(records, torch.zeros(2, dtype=torch.int64), 0)
    expected = torch.zeros(51, dtype=torch.float64)
    expected[3], expected[7] = -3 * subject.share, 3 * subject.share
    found = subject.noisy_sum(subject.model.table.weight)
    assert_close(found, expected, rtol=2e-4, atol=2e-4)
    for param in (*parameters_of(subject).values(), subject.model.blank):
        assert subject.noisy_sum(param).abs().max() < 1e-4
    assert not subject.model.table.weight.any()


def test_an_image_is_what_it_was_without_canaries(small):
    _, materials, _ = small()
    subject = subject_of(materials)
    images, _ = materials.images([0, 1, 2])
    assert_close(subject.model(image_records(images)), subject.model.network(images))
    assert_close(subject.model(image_records(images, HUGE)), HUGE * subject.model.network(images))


def test_a_frozen_step_moves_nothing_even_where_the_sum_is_not_finite(small, monkeypatch):
    _, materials, _ = small()
    subject = subject_of(materials)
    monkeypatch.setattr(type(subject._noise), "normal", lambda self, like: like * math.nan)
    before = [p.clone() for p in subject.model.parameters()]
    images, labels = materials.images([0])
    subject.step(image_records(images), labels, 0, is_frozen=True)
    assert all(map(torch.equal, before, subject.model.parameters()))
    assert subject.noisy_sum(subject.model.blank).isnan().all()
    subject.step(image_records(images), labels, 1)
    assert not all(map(torch.equal, before, subject.model.parameters()))


def test_a_target_lies_in_its_parameter_and_has_autograds_gradient(small):
    _, materials, _ = small()
    subject = subject_of(materials)
    before = [p.clone() for p in subject.model.parameters()]
    for name in parameters_of(subject):
        target = find_target(subject, materials, name, row=0)
        assert target.share > 0.9
        with weights(subject, name, target.factors):
            subject.step(target.record, target.label, 1, is_frozen=True)
        # One sample, clipped to R = 1, and hardly any noise: the sum is its direction.
        for each, param in parameters_of(subject).items():
            found = subject.noisy_sum(param)
            assert_close(found, target.gradient[each], rtol=1e-3, atol=1e-4)
    assert all(map(torch.equal, before, subject.model.parameters()))


def test_biases_of_hidden_layers_can_be_set_apart_too(small):
    _, materials, _ = small("model=cifar_cnn", "dataset=fake")
    subject = subject_of(materials)
    shares = [
        find_target(subject, materials, name, row=0).share
        for name in ("conv1b.bias", "conv2a.bias", "conv3b.bias")
    ]
    assert min(shares) > 0.8


def test_many_tensors_are_spread_over_and_few_all_taken():
    assert chosen_tensors(["a", "b"]) == ["a", "b"]
    chosen = chosen_tensors([str(number) for number in range(100)])
    assert (len(chosen), chosen[0], chosen[-1]) == (16, "0", "99")


def test_what_is_not_a_number_gives_a_canary_away():
    found = known(np.array([np.nan, np.inf, -np.inf, 1.0]))
    assert found.tolist() == [CERTAIN, CERTAIN, -CERTAIN, 1.0]


@pytest.mark.parametrize(("rate", "share"), [(1.0, 1.0), (0.3, 1.0), (0.3, 0.5)])
def test_the_score_is_the_ratio_of_densities(rate, share):
    x, sigma = np.linspace(-6, 6, 25), 1.3

    def density(mean):
        return np.exp(-((x - mean) ** 2) / (2 * sigma**2))

    expected = np.log(((1 - rate) * density(0) + rate * density(share)) / density(0))
    np.testing.assert_allclose(log_ratio(x, rate, sigma, share), expected, rtol=1e-10, atol=1e-12)


def test_scores_of_the_engine_are_those_of_the_mechanism_as_claimed(small):
    # The engine's scores and simulated ones have one distribution; at another noise they have not.
    from scipy.stats import ks_2samp

    _, materials, _ = small()
    is_in = coins(1, "test", 3000)
    family = Family(1.4, 0.4, 6)
    subject = subject_of(materials, sigma=1.4, rate=0.4, steps=6, batch=500, canaries=3000)
    ratio, *_ = watch(subject, training_samples(materials), is_in, Look(1e-5, 0.05), 0)
    rng = np.random.default_rng(2)
    for family_, is_alike in ((family, True), (Family(1.9, 0.4, 6), False)):
        out, inside = rehearsed(family_, 1.0, rng, 20_000)
        chances = (
            ks_2samp(ratio.scores[~is_in], out).pvalue,
            ks_2samp(ratio.scores[is_in], inside).pvalue,
        )
        assert (min(chances) > 1e-3) == is_alike


def test_the_threshold_proves_more_than_one_far_from_it():
    rng = np.random.default_rng(0)
    family, look = Family(1.4, 0.09, 20), Look(1e-5, 0.01)
    found = best_threshold(family, 1.0, look, 8000, rng)
    out, inside = rehearsed(family, 1.0, rng, 50_000)
    assert 0 < (out > found).mean() < 0.5
    assert (inside > found).mean() > (out > found).mean()


def test_image_canaries_are_some_of_the_training_images_with_wrong_labels(small):
    _, materials, _ = small()
    images = choose_images(materials, 400, np.random.default_rng(0))
    assert len(images.rows) == len(images.labels) == len(images.is_in) == 400
    assert sorted([*images.rows, *images.kept]) == list(range(1438))
    _, true = materials.images(list(images.rows))
    assert (images.labels != true).all()
    samples = images.samples(materials)
    assert samples.num == 1038 + images.is_in.sum()
    records, labels = samples.read(torch.tensor([0, samples.num - 1]))
    last = int(images.rows[images.is_in][-1])
    pixels, _ = materials.images([int(images.kept[0]), last])
    assert_close(records, image_records(pixels))
    assert labels[1] == images.labels[torch.from_numpy(images.is_in)][-1]


def test_so_many_right_guesses_refute_the_claim():
    count = refuting_count(10_000, 4.0, 1e-5, 0.005)
    proven = [epsilon_of_guesses(Guesses(10_000, r, r), 1e-5, 0.005) for r in (count // 2, count)]
    assert proven[0] < 4.3 < proven[1]
    assert refuting_count(100, 4.0, 1e-5, 0.005) == 100


def test_the_same_seed_is_the_same_audit(small):
    request, materials, _ = small("audit.trials=20", "steps=4")
    one, other = (perform(request, materials, lambda line: None) for _ in range(2))
    for a, b in zip(one.parts, other.parts, strict=True):
        assert a.findings == b.findings
    assert [p.findings for p in one.run.parts] == [p.findings for p in other.run.parts]


def test_secure_noise_is_audited_too(small):
    request, materials, _ = small("noise.secure=true", "audit.trials=20", "steps=4")
    audit = perform(request, materials, lambda line: None)
    assert not audit.is_violated
    assert audit.parts[0].best.epsilon > 0
