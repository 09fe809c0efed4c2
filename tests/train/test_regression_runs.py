"""Regression through a run: its step by definition, what it leaves behind, what it refuses.

That classification takes the steps it took is held by test_golden.py.
"""

from contextlib import nullcontext

import pytest
import torch
from reference.clip import clipped_sum
from reference.gradients import by_loop, norms
from runs import document, is_same, metrics, train, weights
from sklearn.datasets import load_diabetes
from torch import nn
from torch.testing import assert_close

from dpexp.cli.main import main
from dpexp.clipping.engine import PrivacyEngine
from dpexp.config import DatasetConfig, ModelConfig
from dpexp.data.splits import load
from dpexp.errors import RunFailedError
from dpexp.models.build import build
from dpexp.train import fit, run
from dpexp.train.step import train_step
from dpexp.train.task import half_squared_error, task_of

WORDS = ("dataset=diabetes", "model=mlp")
R, SIGMA, B, LR = 1.5, 1.2, 8.0, 0.25


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("outputs"), *WORDS, "dataset.validation=50")


def make():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
    return model, torch.optim.SGD(model.parameters(), lr=LR)


@pytest.mark.parametrize("size", [2, 9])
def test_a_private_step_is_the_clipped_sum_of_squared_error_and_noise_over_b(size):
    generator = torch.Generator().manual_seed(1)
    rows, targets = torch.randn(9, 4, 1, 1, generator=generator), torch.linspace(-2, 2, 9)
    model, optimizer = make()
    noise = torch.Generator().manual_seed(8)
    engine = PrivacyEngine(
        model, optimizer, clip_norm=R, noise_multiplier=SIGMA, expected_batch_size=B,
        generator=noise,
    )  # fmt: skip
    pieces = list(zip(rows.split(size), targets.split(size), strict=True))
    stats = train_step(
        model, optimizer, engine, pieces,
        expected_batch_size=B, autocast=nullcontext(), loss=half_squared_error,
    )  # fmt: skip

    plain = make()[0]
    one_by_one = [
        by_loop(plain, x[None], lambda f, y=y: (f[:, 0] - y) ** 2 / 2)
        for x, y in zip(rows, targets, strict=True)
    ]
    grads = {name: torch.cat([g[name] for g in one_by_one]) for name in one_by_one[0]}
    assert 0 < (norms(grads) > R).sum() < 9
    sums = clipped_sum(grads, [list(grads)], [R], "abadi", 0.0)
    noise.manual_seed(8)
    start = dict(plain.named_parameters())
    for name, p in model.named_parameters():
        drawn = SIGMA * R * torch.randn(p.shape, generator=noise)
        assert_close(p, start[name] - LR * (sums[name] + drawn) / B)
    assert_close(stats.grad_norms, norms(grads))
    errors = [plain(x[None]).item() - y.item() for x, y in zip(rows, targets, strict=True)]
    assert_close(stats.losses, torch.tensor([error**2 / 2 for error in errors]))


def test_a_run_measures_errors_and_nothing_of_classes(trained):
    summary = document(trained, "summary")
    errors = {"mse", "rmse", "mae", "r2", "mse_scaled", "num_samples", "num_nonfinite"}
    for place, count in (("test", 89), ("val", 50)):
        assert {k for k in summary if k.startswith(place)} == {f"{place}/{e}" for e in errors}
        assert summary[f"{place}/num_samples"] == count
    assert sorted(path.name for path in trained.rglob("*reliability*")) == []
    assert not (trained / "calibration.json").exists()
    assert document(trained, "status")["state"] == "done"
    rows = metrics(trained)
    assert all("unsafe/loss_half_squared" in row for row in rows)
    assert not [key for row in rows for key in row if "accuracy" in key or "nats" in key]


def test_the_errors_are_those_of_the_saved_weights_on_the_rows_of_scikit_learn(trained):
    test = load(DatasetConfig(name="diabetes"), image_size=1, channels=10, mean=(), std=()).test
    rows = [int(test.images.place(row).split()[-1]) for row in range(89)]
    values, progression = (torch.from_numpy(x[rows]) for x in load_diabetes(return_X_y=True))
    state = {name: w.double() for name, w in weights(trained).items()}
    hidden = torch.tanh(values / 0.05 @ state["fc.weight"].T + state["fc.bias"])
    predicted = 150 + 75 * (hidden @ state["head.weight"].T + state["head.bias"])[:, 0]
    summary = document(trained, "summary")
    mse = float((predicted - progression).square().mean())
    assert summary["test/mse"] == pytest.approx(mse, rel=1e-5)
    assert summary["test/mae"] == pytest.approx(
        float((predicted - progression).abs().mean()), rel=1e-5
    )


def test_the_deal_and_the_last_lines_speak_of_rows_and_errors(trained):
    log = (trained / "train.log").read_text()
    assert "diabetes: N = 303 training, 50 validation, 89 test rows; 10 columns" in log
    assert "target: disease progression, an index from 25 to 346; trained on (y - 150) / 75" in log
    summary = document(trained, "summary")
    assert f"test      MSE {summary['test/mse']:.4g}, RMSE {summary['test/rmse']:.4g}, MAE " in log
    assert f"R2 {summary['test/r2']:.4g} (disease progression" in log


def test_eval_measures_the_same(trained, tmp_path, capsys):
    assert main(["eval", str(trained), f"output={tmp_path}"]) == 0
    assert "test      MSE " in capsys.readouterr().out
    (folder,) = tmp_path.iterdir()
    summary = document(folder, "summary")
    whole = document(trained, "summary")
    assert summary["test/mse"] == whole["test/mse"]
    assert not (folder / "reliability.json").exists()


def test_the_bar_shows_r2(tmp_path, monkeypatch):
    through, shown = fit.fit, []

    def spied(*args, progress, **kwargs):
        return through(*args, progress=lambda *seen: shown.append(seen[-1]), **kwargs)

    monkeypatch.setattr(run, "fit", spied)
    train(tmp_path, *WORDS, "evaluate_every=2")
    assert shown[0] == ""
    assert shown[1].startswith("R2 ")
    assert shown[2] == shown[1]


def test_progress_of_a_diverged_model_is_no_number():
    split = load(DatasetConfig(name="diabetes"), image_size=1, channels=10, mean=(), std=()).test
    task = task_of(split)
    found = task.measure(torch.full((89, 1), float("nan")), split.labels)
    assert task.progress(found) == ""
    assert task.words(found).startswith("MSE -, RMSE -, MAE -, R2 - (")


def test_a_run_that_diverges_says_so(tmp_path):
    with pytest.raises(RunFailedError, match="the model diverged: its outputs are not finite"):
        train(tmp_path, *WORDS, "dp=off", "optimizer.lr=1e6", "steps=60", "noise_multiplier=null")
    (folder,) = tmp_path.iterdir()
    assert document(folder, "status")["state"] == "diverged"
    summary = document(folder, "summary")
    assert summary["test/num_nonfinite"] == 89
    assert summary["test/mse"] is None


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    whole = train(tmp_path / "whole", *WORDS, "checkpoint_every=1")
    step, taken = fit._step, []

    def interrupted(job, number):
        if number == 2 and not taken:
            taken.append(number)
            raise KeyboardInterrupt
        return step(job, number)

    monkeypatch.setattr(fit, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", *WORDS, "checkpoint_every=1")
    (folder,) = (tmp_path / "stopped").iterdir()
    run.resume(folder, {})
    assert is_same(weights(folder), weights(whole))
    same = ("test/mse", "test/r2", "privacy/epsilon")
    assert [document(folder, "summary")[k] for k in same] == [
        document(whole, "summary")[k] for k in same
    ]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["train", "dataset=diabetes", "batch=64"], "takes images; use model=mlp"),
        (["train", "dataset=diabetes", "model=resnet", "batch=64"], "takes images; use model=mlp"),
        (["train", "model=mlp"], "an image would be shrunk to one pixel; use another model"),
        (["train", *WORDS, "batch=64", "dataset.num_classes=3"], "no pixels and no classes"),
        (["train", *WORDS, "batch=64", "dataset.root=x"], "these data come with the program"),
        (["audit", *WORDS, "batch=64"], "canaries are made for classes"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(capsys, tmp_path, words, part):
    assert main([*words, f"output={tmp_path}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert part in line
    assert not list(tmp_path.iterdir())


def test_selfcheck_needs_no_batch_that_fits_the_table(capsys):
    assert main(["selfcheck", *WORDS]) == 0
    assert "verdict   exact" in capsys.readouterr().out


def test_the_network_of_a_run_has_as_many_inputs_as_the_table_and_one_output(trained):
    state = weights(trained)
    assert state["fc.weight"].shape == (32, 10)
    assert state["head.weight"].shape == (1, 32)
    assert build(ModelConfig(name="mlp"), num_classes=1, channels=8, seed=0).num_params == 321
