"""A run of each sampler from the command line, and what it then says of itself."""

import math
import signal

import pytest
from runs import document, folders, is_same, metrics, weights

from dpexp.accounting import balls_and_bins, shuffled, truncated
from dpexp.accounting.bounds import epsilon_bounds
from dpexp.cli.compose import compose
from dpexp.cli.main import main
from dpexp.config import check
from dpexp.errors import ConfigError
from dpexp.train import fit
from dpexp.train.deal import make_deal

N = 1438
WORDS = ("steps=23", "batch=64", "wandb.mode=disabled", "evaluate_samples=50")


def train(output, capsys, *words):
    """Run a command line; return its folder and what it said."""
    before = folders(output)
    assert main(["train", *WORDS, f"output={output}", *words]) == 0
    (made,) = folders(output) - before
    return made, capsys.readouterr().out


def deal_of(*words):
    return make_deal(compose([*WORDS, *words]), N, 1.0)


def test_truncated_poisson_says_its_limit_and_meets_its_target(tmp_path, capsys):
    folder, out = train(tmp_path, capsys, "sampling=truncated_poisson", "batch_limit=66", "eps=2")
    privacy = document(folder, "privacy")
    assert (privacy["sampler"], privacy["guarantee"]) == ("truncated_poisson", "seeded")
    assert privacy["adjacency"] == "add or remove one sample"
    sigma, q = privacy["noise_multiplier"], 64 / N
    epsilon = truncated.epsilon(sigma, q, 23, 1e-5, N, 66)
    assert epsilon == pytest.approx(privacy["epsilon"], rel=1e-6)
    assert 1.98 < privacy["epsilon"] <= 2.0
    assert max(row["unsafe/batch_size"] for row in metrics(folder)) == 66
    assert "truncated poisson batches; add or remove one sample" in out
    assert "at most 66 samples, a random subset of a larger draw; the chance of one in this" in out
    assert "accountant: PLD of dp-accounting, truncated Poisson sampling" in out
    # Poisson would need less noise for the same epsilon.
    poisson = epsilon_bounds(sigma, q, 23, 1e-5).epsilon
    assert f"beside it, Poisson draws of that size: epsilon <= {poisson:.4g}" in out
    assert poisson < 1.5


def test_a_limit_that_is_not_given_is_hardly_ever_reached():
    deal = deal_of("sampling=truncated_poisson", "noise_multiplier=1", "eps=null")
    limit = deal.mechanism.batch_limit
    assert limit == truncated.default_limit(N, 64 / N, 23, 1e-5)
    assert 64 < limit < 2 * 64
    assert 0 < deal.overflow_chance < 1e-8
    assert deal.mechanism.num_train == N
    poisson = deal.bounds.pld
    assert deal.epsilon_after(23) == pytest.approx(poisson, rel=1e-4)


def test_truncated_poisson_may_be_drawn_by_the_operating_system(tmp_path, capsys):
    words = ("sampling=truncated_poisson", "noise.secure=true", "noise_multiplier=1", "eps=null")
    folder, _ = train(tmp_path, capsys, *words)
    assert document(folder, "privacy")["guarantee"] == "valid"


def test_balls_and_bins_take_every_sample_once_an_epoch(tmp_path, capsys):
    folder, out = train(tmp_path, capsys, "sampling=balls_and_bins", "eps=2")
    privacy = document(folder, "privacy")
    assert (privacy["sampler"], privacy["guarantee"]) == ("balls_and_bins", "seeded")
    assert privacy["adjacency"] == "add or remove one sample"
    assert privacy["sampling_rate"] == 1 / 22  # floor(1438 / 64) batches
    sizes = [row["unsafe/batch_size"] for row in metrics(folder)]
    assert (len(sizes), sum(sizes[:22])) == (23, N)
    # The 23rd step began a second epoch, which counts whole.
    epsilons = [row["privacy/epsilon"] for row in metrics(folder)]
    assert epsilons[0] == epsilons[21] < epsilons[22]
    sigma = privacy["noise_multiplier"]
    assert balls_and_bins.epsilon(sigma, 22, 2, 1e-5) == pytest.approx(epsilons[22], rel=1e-6)
    assert 1.98 < privacy["epsilon"] == epsilons[22] <= 2.0
    assert privacy["epsilon"] < shuffled.epsilon(sigma, 2, 1e-5)
    assert "balls-and-bins batches; add or remove one sample" in out
    assert "K = 23 of expected 65.36 samples, 22 an epoch (sums are divided by B = 64)" in out
    assert "one of 22 batches; an epoch once started counts whole" in out
    assert "accountant: privacy loss distribution of an epoch, balls-and-bins sampling" in out


def test_a_run_stopped_within_an_epoch_goes_on_in_the_same_bins(tmp_path, capsys, monkeypatch):
    words = ("sampling=balls_and_bins", "noise_multiplier=1", "eps=null")
    whole, _ = train(tmp_path / "whole", capsys, *words)
    step = fit.train_step
    taken = []

    def stopping_step(*args, **keys):
        taken.append(None)
        if len(taken) == 5:
            signal.raise_signal(signal.SIGINT)
        return step(*args, **keys)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "train_step", stopping_step)
        command = ["train", *WORDS, f"output={tmp_path / 'stopped'}", *words]
        assert main(command) == 130
    (folder,) = folders(tmp_path / "stopped")
    assert document(folder, "status")["step"] == 5
    # A started epoch is spent whole, and going on in it costs no more.
    assert document(folder, "privacy")["epsilon"] == metrics(whole)[0]["privacy/epsilon"]
    assert main(["train", f"resume={folder}"]) == 0
    assert is_same(weights(folder), weights(whole))
    sizes = [[row["unsafe/batch_size"] for row in metrics(run)] for run in (folder, whole)]
    assert sizes[0] == sizes[1]
    assert document(folder, "privacy")["epsilon"] == document(whole, "privacy")["epsilon"]


def test_epochs_of_balls_and_bins_are_whole_numbers_of_batches():
    deal = deal_of("sampling=balls_and_bins", "steps=null", "epochs=3", "batch=500", "eps=inf")
    assert deal.num_steps == 3 * (N // 500)
    assert deal.mechanism.batches_per_epoch == 2
    assert deal.sampling_rate == deal.mechanism.sampling_rate == 0.5
    assert deal.mechanism.expected_batch_size == 500
    assert deal.accountant is None
    assert math.isinf(deal.epsilon_after(1))


def test_the_deal_names_the_accountant_of_each_sampler():
    words = ("noise_multiplier=1", "eps=null")
    kinds = ("sampling=poisson", "sampling=truncated_poisson", "sampling=balls_and_bins",
             "protocol=published")  # fmt: skip
    deals = [deal_of(*words, kind) for kind in kinds]
    assert [deal.mechanism.sampler for deal in deals] == [
        "poisson", "truncated_poisson", "balls_and_bins", "shuffle",
    ]  # fmt: skip
    assert len({deal.accountant for deal in deals}) == 4
    assert [deal.overflow_chance is None for deal in deals] == [True, False, True, True]
    assert deals[3].adjacency == "replace one sample by an empty one"
    assert deal_of("dp=off").accountant is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sampling=balls_and_bins", "noise.secure=true"], r"again at every step of an epoch"),
        (["sampling=balls_and_bins", "dp=off"], r"ordinary training takes Poisson batches"),
        (["batch_limit=80"], r"batch_limit=80 with sampling=poisson: dropping samples"),
        (["sampling=balls_and_bins", "batch_limit=80"], r"only sampling=truncated_poisson is acc"),
        (["sampling=truncated_poisson", "batch_limit=0"], r"batch_limit=0: must be at least 1"),
        (["sampling=balls_and_bins", "protocol=published"], r"the papers shuffle"),
        (["sampling=shuffle"], r"must be one of poisson, truncated_poisson, balls_and_bins"),
    ],
)
def test_samplers_that_do_not_fit_the_run_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        check(compose([*WORDS, *words]))
