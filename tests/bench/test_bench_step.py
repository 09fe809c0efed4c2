"""`dpexp bench step`: what is written follows from what was measured."""

import json
import statistics
from importlib.metadata import version

import pytest
import torch

from dpexp.bench import step
from dpexp.bench.clock import clock_of
from dpexp.bench.subject import prepare
from dpexp.cli.main import main

WORDS = ["model=digits_cnn", "batch=6", "rounds=3"]


def document(folder):
    (path,) = folder.glob("*.json")

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_every_number_follows_from_the_seconds_bytes_and_counts_beside_it(tmp_path, capsys):
    words = ["algorithms=auto,ghost", "styles=flat,layerwise", f"output={tmp_path / 'results'}"]
    assert main(["bench", "step", *WORDS, *words]) == 0
    found = document(tmp_path / "results")
    assert [(row["algorithm"], row["style"]) for row in found["rows"]] == [
        ("auto", "flat"), ("auto", "layerwise"), ("ghost", "flat"),
    ]  # fmt: skip
    for row in found["rows"]:
        pairs = zip(row["ordinary_seconds"], row["clipped_seconds"], strict=True)
        ratios = [b / a for a, b in pairs]
        assert len(ratios) == 3
        assert row["time_ratio"] == statistics.median(ratios)
        assert (row["time_ratio_min"], row["time_ratio_max"]) == (min(ratios), max(ratios))
        assert row["memory_ratio"] == row["clipped_bytes"] / row["ordinary_bytes"]
        counts = row["multiply_adds"]
        extra = counts["norms"] + counts["second_pass"]
        assert row["counted_ratio"] == 1 + extra / counts["ordinary"]
        assert row["backward_passes"] == (2 if row["algorithm"] == "ghost" else 1)
    table = capsys.readouterr().out
    assert f"{found['rows'][0]['time_ratio']:.3f}" in table
    assert f"{found['rows'][2]['counted_ratio']:.3f}" in table


def test_what_made_the_numbers_is_beside_them(tmp_path, capsys):
    assert main(["bench", "step", *WORDS, f"output={tmp_path}"]) == 0
    found = document(tmp_path)
    provenance = found["provenance"]
    assert provenance["command"].startswith("dpexp bench step model=digits_cnn batch=6 rounds=3")
    assert provenance["packages"]["torch"] == version("torch")
    assert provenance["threads"] == 1
    assert provenance["cpu"]
    assert found["setting"]["model"] == "digits_cnn"
    assert found["setting"]["batch"] == 6
    assert (tmp_path / "step-digits_cnn-8-batch6.json").exists()


def test_a_slow_engine_is_measured_as_slow(request_of, monkeypatch):
    """A planted fault: a clipped step that does three more ordinary ones."""
    subject = prepare(request_of("model=mnist_cnn", "batch=16").config)
    right = step.in_pairs
    with clock_of(subject.device) as clock:
        honest = step.measure(subject, "nonprivate", "flat", 5, clock)

        def slowed(base, other, rounds, clock):
            return right(base, lambda: [other(), base(), base(), base()], rounds, clock)

        monkeypatch.setattr(step, "in_pairs", slowed)
        slow = step.measure(subject, "nonprivate", "flat", 5, clock)
    assert honest.pairs.ratio < 2.5
    assert slow.pairs.ratio - honest.pairs.ratio == pytest.approx(3, abs=1)


def test_an_ordinary_step_against_itself_needs_no_more_memory(request_of):
    subject = prepare(request_of("model=mnist_cnn").config)
    with clock_of(subject.device) as clock:
        row = step.measure(subject, "nonprivate", "flat", 1, clock)
    assert row.memory_ratio == pytest.approx(1, abs=0.1)
    assert row.counts.ratio == 1


def test_both_steps_have_the_same_model_and_the_ordinary_one_is_the_mean(request_of):
    subject = prepare(request_of("model=digits_cnn", "clipping.norm=1000000").config)
    subject.ordinary_step()()
    plain = [param.grad.clone() for param in subject.model.parameters()]
    with subject.clipped_step("auto", "flat") as (clipped, engine):
        clipped()
        # Nothing reaches so large a bound: the clipped sum is the plain sum.
        for mean, param in zip(plain, engine.model.parameters(), strict=True):
            torch.testing.assert_close(param.grad / subject.batch, mean)
        assert engine.model is not subject.model
    assert not subject.model._forward_hooks
