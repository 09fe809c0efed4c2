"""What is typed after `dpexp bench`, and what comes back."""

import pytest

from dpexp.cli.bench import PARTS, read
from dpexp.cli.help import USAGES
from dpexp.cli.main import main

# What is typed, and what the one line must hold.
WRONG = {
    "no part": ([], ["a part comes first", "step, plan, layers, max-batch"]),
    "a key in place of a part": (["model=vit"], ["write dpexp bench step model=vit"]),
    "misspelt part": (["stpe"], ["did you mean step?", "max-batch"]),
    "misspelt word": (["step", "round=3"], ["did you mean rounds=3?"]),
    "misspelt key": (["step", "model.nam=x"], ["did you mean model.name=x?"]),
    "key without its section": (["step", "plan=time"], ["did you mean clipping.plan=time?"]),
    "misspelt algorithm": (["step", "algorithms=auto,ghots"], ["algorithms=ghots", "ghost?"]),
    "misspelt style": (["step", "styles=layrwise"], ["did you mean layerwise?"]),
    "no algorithm": (["step", "algorithms="], ["nothing to measure", "mixed_ghost"]),
    "no rounds": (["step", "rounds=0"], ["rounds=0", "at least 1"]),
    "no memory": (["max-batch", "memory_gib=0"], ["memory_gib=0", "above 0 GiB"]),
    "not a number": (["step", "rounds=few"], ["rounds=few", "whole number"]),
    "key of a run": (["step", "optimizer.lr=1"], ["changes nothing that bench measures"]),
    "range": (["step", "clipping.norm=-1"], ["clipping.norm=-1", "above 0"]),
    "style it cannot clip": (
        ["step", "algorithms=ghost", "styles=layerwise"],
        ["can only clip flat", "use auto or instantiate"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("words", "parts"), WRONG.values(), ids=WRONG)
def test_a_wrong_word_is_one_line_and_exit_2(capsys, words, parts):
    assert main(["bench", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert [part for part in parts if part not in line] == []


def test_all_problems_come_at_once(capsys):
    words = ["round=3", "algorithms=x", "clipping.norm=-1", "eps=1", "batch=abc"]
    assert main(["bench", "step", *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 5


def test_what_holds_unless_it_is_said():
    part, request = read(["step"])
    assert part == "step"
    assert request.config.batch == 8
    assert request.rounds == 9
    assert request.memory_gib == 16
    assert request.output is None
    assert request.rows([request.config.clipping.algorithm]) == [("auto", "flat")]


def test_words_of_a_run_are_those_of_train():
    words = ["model=beit", "batch=4", "clipping.style=layerwise", "device=cpu", "seed=3"]
    _, request = read(["step", *words, "algorithms=auto,instantiate"])
    config = request.config
    assert (config.batch, config.seed, config.model.pretrained) == (4, 3, False)
    assert request.rows(["auto"]) == [("auto", "layerwise"), ("instantiate", "layerwise")]
    assert request.command == ["dpexp", "bench", "step", *words, "algorithms=auto,instantiate"]


def test_what_a_run_asks_of_its_data_does_not_hold_here():
    # 100,000 samples are more than the digits have; nonprivate may not ask for noise.
    _, request = read(["step", "batch=100000", "clipping.algorithm=nonprivate"])
    assert request.config.batch == 100_000
    assert request.rows([request.config.clipping.algorithm]) == [("nonprivate", "flat")]


def test_every_part_is_in_the_help(capsys):
    for part in PARTS:
        assert f"  {part} " in USAGES["bench"]
    assert main(["bench", "--help"]) == 0
    out = capsys.readouterr().out
    assert "clipping.plan" in out
    assert "optimizer.lr" not in out
