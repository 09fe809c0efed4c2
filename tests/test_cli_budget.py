"""`dpexp budget`: what is asked, what comes back, and how fast."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dpexp.cli.budget import read, run
from dpexp.cli.main import main
from dpexp.data.public import KNOWN_SETS
from dpexp.errors import ConfigError

ROOT = Path(__file__).parents[1]
GIVEN = ["noise_multiplier=.7792", "batch=1000", "steps=150", "n=50000"]

WRONG_WORDS = {
    "nothing": ([], ["eps or noise_multiplier is missing", "batch is missing"], 4),
    "type": (["eps=abc", *GIVEN[1:]], ["eps=abc: must be a number"], 1),
    "range": (["eps=-1", *GIVEN[1:]], ["eps=-1.0", "above 0"], 1),
    "key": (["esp=1", *GIVEN], ["did you mean eps=1?"], 1),
    "both": (["eps=1", *GIVEN], ["eps=1.0 and noise_multiplier=0.7792", "give one"], 1),
    "data set": (["dataset=cifar", *GIVEN[:3]], ["dataset=cifar", "did you mean cifar10?"], 1),
    "not public": (["dataset=parquet", *GIVEN[:3]], ["dataset=parquet", "give n="], 1),
    "batch": (["batch=60000", "n=50000", "eps=1", "steps=1"], ["batch=60000", "N = 50000"], 1),
    "delta": ([*GIVEN, "delta=0.1"], ["delta=0.1", "below 2e-05"], 1),
    "steps": ([*GIVEN[:2], "steps=0", "n=50000"], ["steps=0", "above 0"], 1),
    "runs": ([*GIVEN, "runs=0"], ["runs=0: must be finite and above 0"], 1),
    "half a run": ([*GIVEN, "runs=2.5"], ["runs=2.5: must be a whole number"], 1),
    "several": (["eps=abc", "batch=0", "steps=-1", "n=0"], ["eps=abc", "batch=0", "n=0"], 4),
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An accounting cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize(("words", "parts", "count"), WRONG_WORDS.values(), ids=WRONG_WORDS)
def test_wrong_words_are_lines_and_exit_2(capsys, words, parts, count):
    assert main(["budget", *words]) == 2
    text = capsys.readouterr().err
    assert len(text.splitlines()) == count, text
    assert [part for part in parts if part not in text] == []


@pytest.mark.parametrize("name", KNOWN_SETS)
def test_size_of_a_published_set_is_known(name):
    setting = read(["eps=1", "batch=10", "epochs=1", f"dataset={name}"])
    assert setting["num_train"] == KNOWN_SETS[name].num_train


def test_validation_leaves_less_to_train_on():
    words = ["eps=1", "batch=10", "epochs=1", "dataset=cifar10", "dataset.validation=0.1"]
    assert read(words)["num_train"] == 45_000


def test_json_holds_the_numbers_and_is_strict(cache, capsys):
    assert main(["budget", *GIVEN, "json=true"]) == 0

    def refuse(constant):
        raise AssertionError(f"{constant} is not strict JSON")

    result = json.loads(capsys.readouterr().out, parse_constant=refuse)
    bounds = result["rows"][0]["bounds"]
    # Origin: dp-accounting's PLD at a finer grid; PRV's upper bound lies 0 to 0.012 above.
    assert bounds["pld"] == pytest.approx(3.186, abs=0.005)
    assert 0 <= bounds["prv"] - bounds["pld"] <= 0.012
    assert bounds["epsilon"] == max(bounds["prv"], bounds["pld"])


def test_infinite_budget_is_strict_json_too(cache, capsys):
    assert main(["budget", "eps=inf", *GIVEN[1:], "json=true"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["eps"], result["rows"][0]["noise_multiplier"]) == ("inf", 0)
    assert result["rows"][0]["bounds"]["epsilon"] == "inf"


def test_table_shows_every_accountant_and_what_is_no_bound(cache, capsys):
    words = ["eps=2", "batch=100", "steps=20", "n=1000"]
    assert main(["budget", *words, "delta=1e-5"]) == 0
    text = capsys.readouterr().out
    rows = [line.split() for line in text.splitlines() if re.match(r" *(PRV|PLD|RDP|GDP\*) ", line)]
    assert [row[0] for row in rows] == ["PRV", "PLD", "RDP", "GDP*"]
    sound = {row[0]: float(row[-1]) for row in rows}
    assert 1.95 < sound["PRV"] <= 2
    assert sound["GDP*"] > 2, "the central limit asks for too little noise"
    assert sound["RDP"] < sound["PRV"], "the looser accountant asks for too much"
    assert "* central-limit estimate, not a bound" in text


def test_cached_budget_needs_no_torch_and_a_second(tmp_path):
    script = (
        "import sys; from dpexp.cli.main import main; code = main();"
        "print({'torch', 'hydra', 'scipy'} & set(sys.modules), file=sys.stderr); sys.exit(code)"
    )
    for _ in ("cold", "cached"):
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", script, "budget", *GIVEN],
            cwd=ROOT,
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        seconds = time.monotonic() - start
    assert done.stderr.strip() == "set()"
    # A second on a quiet machine; twice that where tests run side by side.
    assert seconds < 2


@pytest.mark.slow
def test_papers_shows_what_is_published_what_is_sound_and_what_is_assumed(capsys):
    assert main(["budget", "papers"]) == 0
    text = capsys.readouterr().out
    (snli, *_) = [line.split() for line in text.splitlines() if line.startswith("SNLI, BERT")]
    assert snli[2:7] == ["32", "54000", "1.8e-06", "0.400", "1.25"]
    assert float(snli[7]) > 5  # PRV
    assert "[1]" not in snli, "every number of this setting is stated"
    beit = next(line for line in text.splitlines() if "BEiT" in line)
    assert "~1.127" in beit, "the noise follows from epsilon, and is marked"
    assert "[1]" in beit
    assert "[1] assumed: batch and epochs are those of the readme's command" in text
    assert "unknown: CIFAR-10, ViT-base (Figure 3)" in text
    assert "no guarantee" in text
    assert "without amplification" in text


@pytest.mark.slow
def test_papers_can_be_asked_for_one_paper_as_strict_json(capsys):
    assert main(["budget", "papers", "paper=ghost", "json=true"]) == 0
    result = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert {s["setting"]["paper"] for s in result["settings"] + [{"setting": u} for u in
            result["unknown"]]} == {"ghost"}  # fmt: skip
    first = result["settings"][0]
    assert first["setting"]["eps"] == 1
    assert 1.2 < first["poisson"]["pld"] < 1.3 < first["shuffled"]


@pytest.mark.parametrize(
    ("words", "parts", "count"),
    [
        (["paper=gost"], ["paper=gost: must be one of convergence, ghost"], 1),
        (["papr=ghost"], ["papr=ghost: no such key; did you mean paper=ghost?"], 1),
        (["eps=1"], ["eps=1: no such key", "dpexp budget papers --help"], 1),
        (["json=3", "ghost"], ["json=3: must be on or off", "ghost: not an override"], 2),
    ],
)
def test_wrong_words_after_papers_are_lines_and_exit_2(capsys, words, parts, count):
    assert main(["budget", "papers", *words]) == 2
    text = capsys.readouterr().err
    assert len(text.splitlines()) == count, text
    assert [part for part in parts if part not in text] == []


SMALL = ["noise_multiplier=1.805", "batch=100", "steps=20", "n=1000"]


def test_runs_says_what_choosing_the_best_costs_and_when_which_number_holds(capsys):
    assert main(["budget", *SMALL, "runs=5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (fixed,) = [line for line in lines if line.startswith("choosing the best of 5 such runs: eps")]
    assert "all of them composed, which covers a fixed grid" in fixed
    composed = float(fixed.split("eps ")[1].split()[0])
    (drawn,) = [line for line in lines if "Papernot & Steinke 2022" in line]
    assert drawn.startswith("only if the number of runs was drawn at random, with mean 5")
    prices = [float(part.split()[0]) for part in drawn.split("): ")[1].split(", ")]
    assert len(prices) == 4
    assert 1.26 < min(prices) < composed
    # Without the word, nothing of it.
    assert main(["budget", *SMALL]) == 0
    assert "choosing" not in capsys.readouterr().out


def test_runs_is_in_json_too_and_infinite_without_noise(capsys):
    assert main(["budget", *SMALL, "runs=5", "json=true"]) == 0
    search = json.loads(capsys.readouterr().out)["search"]
    assert (search["num_runs"], search["delta"]) == (5, 1e-5)
    assert 1.25 < search["single"] < search["geometric"]
    assert main(["budget", "noise_multiplier=0", *SMALL[1:], "runs=5", "json=true"]) == 0
    assert json.loads(capsys.readouterr().out)["search"]["composed"] == "inf"
    assert main(["budget", *SMALL, "json=true"]) == 0
    assert "search" not in json.loads(capsys.readouterr().out)


def test_validation_is_held_out_of_n_too(capsys):
    words = ["noise_multiplier=2", "batch=100", "steps=5", "dataset.validation=0.5"]
    assert run([*words, "n=2000", "delta=1e-5"]) == 0
    assert "Poisson sampling of N 1000: batch 100, q 0.1" in capsys.readouterr().out


@pytest.mark.parametrize("validation", ["-1", "inf"])
def test_odd_validation_is_refused(validation):
    words = ["noise_multiplier=2", "batch=100", "steps=5", f"dataset.validation={validation}"]
    for size in ("n=2000", "dataset=cifar10"):
        with pytest.raises(ConfigError, match=r"dataset.validation=.*: must be a fraction below 1"):
            read([*words, size])


def test_the_last_line_is_a_command_for_the_setting_that_was_asked(capsys):
    words = ["batch=100", "n=1000", "steps=5", "delta=1e-6"]
    assert run(["noise_multiplier=2", *words]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("use this noise, on 1000 training samples: dpexp train ")
    assert last.endswith("noise_multiplier=2 batch=100 steps=5 delta=1e-06")
