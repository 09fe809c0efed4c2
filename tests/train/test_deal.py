"""What a run will do and what may be said about it."""

import math

import pytest
from runs import document, is_same, train, weights

from dpexp.accounting.bounds import epsilon_bounds
from dpexp.accounting.stated import stated
from dpexp.cli.compose import compose
from dpexp.errors import ConfigError
from dpexp.train.deal import make_deal


def config(*words):
    return compose(["wandb.mode=disabled", *words])


def test_the_noise_meets_the_target_and_hardly_more():
    asked = config("eps=2", "steps=20", "batch=144")
    deal = make_deal(asked, 1438, sensitivity=3.0)
    mechanism = deal.mechanism
    assert mechanism.sampling_rate == deal.sampling_rate == 144 / 1438
    assert (mechanism.num_steps, mechanism.expected_batch_size) == (20, 144)
    assert mechanism.clip_norm == 3.0
    sigma = mechanism.noise_multiplier
    bounds = epsilon_bounds(sigma, 144 / 1438, 20, 1e-5)
    assert 1.97 < bounds.epsilon <= 2.0
    assert deal.epsilon_after(20) == bounds.epsilon
    assert deal.epsilon_after(0) == 0.0
    assert deal.target_epsilon == 2.0


def test_epochs_are_expected_passes_over_the_data():
    deal = make_deal(config("epochs=2.5", "batch=100", "dp=off"), 1438, 1.0)
    assert deal.num_steps == round(2.5 * 1438 / 100)
    assert math.isinf(deal.epsilon_after(deal.num_steps))


def test_published_protocol_gives_three_numbers_and_no_guarantee(tmp_path, capsys):
    folder = train(tmp_path, "protocol=published")
    privacy = document(folder, "privacy")
    assert (privacy["guarantee"], privacy["sampler"]) == ("none", "shuffle")
    published, poisson, shuffled = (
        privacy["published"][key]
        for key in (
            "epsilon_as_published",
            "epsilon_if_poisson",
            "epsilon_shuffled_without_amplification",
        )
    )
    assert published < poisson < shuffled
    assert privacy["epsilon"] == shuffled
    out = capsys.readouterr().out
    assert f"NO GUARANTEE; the papers' protocol would state epsilon {published:.4g} at" in out
    assert f"epsilon <= {stated(poisson)} had the batches been Poisson draws" in out
    assert f"epsilon <= {stated(shuffled)} for the shuffled batches" in out
    assert privacy["adjacency"] == "replace one sample by an empty one"
    assert document(folder, "summary")["privacy/guarantee"] == "none"


def test_published_protocol_finds_sigma_as_published():
    deal = make_deal(config("protocol=published", "eps=2", "steps=20", "batch=144"), 1438, 1.0)
    assert deal.bounds.gdp == pytest.approx(2.0, abs=1e-3)
    assert deal.bounds.epsilon > 2.0


def test_secure_noise_is_valid_and_never_the_same(tmp_path):
    one, other = (train(tmp_path, "noise.secure=true") for _ in range(2))
    for folder in (one, other):
        assert document(folder, "privacy")["guarantee"] == "valid"
        assert document(folder, "status")["state"] == "done"
    assert not is_same(weights(one), weights(other))


def test_seeded_noise_says_that_it_is_not_for_release(tmp_path):
    privacy = document(train(tmp_path), "privacy")
    assert privacy["guarantee"] == "seeded"
    assert "not for release" in privacy["reason"]
    assert (privacy["steps_done"], privacy["steps_planned"]) == (3, 3)
    assert 0 < privacy["epsilon"] <= privacy["whole_run_if_poisson"]["epsilon"]


@pytest.mark.parametrize(
    ("num_train", "words", "part"),
    [
        (1000, ["delta=0.001", "batch=10"], "give a delta below 1/N = 0.001"),
        (100, ["batch=101", "delta=1e-5"], "larger than the training set of N = 100"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(num_train, words, part):
    asked = config(*[word for word in words if not word.startswith("delta=0.001")], "steps=3")
    if "delta=0.001" in words:
        asked.delta = 0.001
    with pytest.raises(ConfigError) as refusal:
        make_deal(asked, num_train, 1.0)
    assert part in str(refusal.value)
