"""Another clip norm for the last steps: the same noise over the norm, hence the same epsilon."""

import pytest
import yaml
from crashes import Killed, dying_after
from runs import config_of, document, is_same, metrics, train, weights
from test_twin import check
from torch.testing import assert_close

from dpexp.errors import ConfigError
from dpexp.train import run

TAIL = ("clipping.norm=3", "clipping.tail_norm=12", "clipping.tail_steps=1", "optimizer.lr=1")


def test_the_last_steps_are_clipped_and_noised_by_the_tail_norm(tmp_path):
    folder = train(tmp_path, *TAIL)
    check(folder, config_of(tmp_path, *TAIL), batch=64, sigma=1.0, bound=[3.0, 3.0, 12.0])


@pytest.mark.parametrize("style", ["layerwise", "paramwise"])
def test_a_tail_of_the_same_norm_changes_nothing(tmp_path, style):
    words = (f"clipping.style={style}", "clipping.split=per_group", "clipping.norm=2")
    plain = train(tmp_path, *words)
    tail = train(tmp_path, *words, "clipping.tail_norm=2", "clipping.tail_steps=2")
    other = train(tmp_path, *words, "clipping.tail_norm=4", "clipping.tail_steps=2")
    assert_close(weights(plain), weights(tail), rtol=1e-5, atol=1e-6)
    assert (weights(plain)["head.bias"] - weights(other)["head.bias"]).abs().max() > 1e-2


def test_the_tail_has_a_learning_rate_of_its_own_if_asked(tmp_path):
    rows = metrics(train(tmp_path, *TAIL, "clipping.tail_lr=0.25", "schedule=cosine"))
    assert [row["lr"] for row in rows] == pytest.approx([1.0, 0.75, 0.25 * 0.25])
    assert [row["lr"] for row in metrics(train(tmp_path, *TAIL))] == [1.0, 1.0, 1.0]


def test_epsilon_does_not_depend_on_the_tail(tmp_path):
    with_tail, without = train(tmp_path, *TAIL), train(tmp_path, "clipping.norm=3")
    found, expected = (document(folder, "privacy") for folder in (with_tail, without))
    assert found["epsilon"] == expected["epsilon"]
    assert (found["clip_norm"], found["tail_norm"], found["tail_steps"]) == (3.0, 12.0, 1)
    assert (expected["tail_norm"], expected["tail_steps"]) == (None, None)
    said = (with_tail / "train.log").read_text()
    assert "clipping.norm=12 in the last 1 steps; noise grows with it, epsilon does not" in said


def test_the_clipped_fraction_is_that_of_the_norm_in_force(tmp_path):
    words = ("clipping.norm=1e-6", "clipping.tail_norm=1e6", "clipping.tail_steps=1")
    rows = metrics(train(tmp_path, *words, "noise_multiplier=0.01", "optimizer.lr=1e-9"))
    assert [row["unsafe/clipped_fraction"] for row in rows] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_a_run_that_dies_anywhere_goes_on_as_if_it_had_not(tmp_path, stop):
    words = (*TAIL, "steps=5", "clipping.tail_steps=2", "checkpoint_every=1")
    whole = train(tmp_path / "whole", *words)
    with dying_after(stop), pytest.raises(Killed):
        train(tmp_path / "stopped", *words)
    (stopped,) = (tmp_path / "stopped").iterdir()
    run.resume(stopped, {})
    assert document(stopped, "status")["state"] == "done"
    assert is_same(weights(whole), weights(stopped))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("clipping.tail_norm=2",),
            "clipping.tail_norm=2.0 and clipping.tail_steps=None: the clip norm of the last steps",
        ),
        (("clipping.tail_lr=2",), "clipping.tail_lr=2.0: there is no tail for it to be the"),
        (("clipping.tail_norm=0", "clipping.tail_steps=1"), "tail_norm=0.0: must be finite and"),
        (
            ("clipping.tail_norm=2", "clipping.tail_steps=3"),
            "clipping.tail_steps=3: the run has 3 steps, so none would be taken with "
            "clipping.norm=1; give fewer than 3",
        ),
    ],
)
def test_what_is_refused(tmp_path, words, message):
    with pytest.raises(ConfigError) as caught:
        train(tmp_path, *words)
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_run_from_before_there_was_a_tail_goes_on(tmp_path):
    words = ("noise_multiplier=0", "checkpoint_every=1")  # no ledger, which knows the file's hash
    with dying_after(2), pytest.raises(Killed):
        train(tmp_path, *words)
    (folder,) = tmp_path.iterdir()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for key in ("tail_norm", "tail_steps", "tail_lr"):
        del config["clipping"][key]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    run.resume(folder, {})
    assert document(folder, "status")["state"] == "done"
