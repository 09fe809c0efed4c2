"""What is typed, and what comes back: configurations, error lines, exit codes."""

import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from dpexp.cli.compose import changes, compose
from dpexp.cli.main import RUNNERS, main
from dpexp.config import TrainConfig
from dpexp.errors import ConfigError
from dpexp.schema import convert, describe, key_types

ROOT = Path(__file__).parents[1]


def error_lines(capsys, *words: str) -> list[str]:
    """Exit code 2 is demanded; what was written to stderr comes back, nothing on stdout."""
    assert main(list(words)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err.splitlines()


def run_dpexp(*words: str, **environment: str) -> tuple[subprocess.CompletedProcess, float]:
    script = (
        "import sys; from dpexp.cli.main import main; code = main();"
        "print('torch' in sys.modules, file=sys.stderr); sys.exit(code)"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    return done, time.monotonic() - start


# What is typed after `dpexp train`, and what the one line must hold.
WRONG_WORDS = {
    "not a number": ("eps=abc", ["eps=abc", "must be a number"]),
    "nan": ("eps=nan", ["eps=nan", "must be a number"]),
    "empty": ("eps=", ["eps=", "must be a number"]),
    "negative": ("eps=-1", ["eps=-1", "above 0", "eps=inf"]),
    "misspelt key": ("esp=1", ["esp=1", "did you mean eps=1?"]),
    "inner key alone": ("lr=0.1", ["did you mean optimizer.lr=0.1?"]),
    "word of another library": ("max_grad_norm=1", ["did you mean clipping.norm=1?"]),
    "misspelt inner key": ("optimizer.momentun=0.9", ["did you mean optimizer.momentum=0.9?"]),
    "misspelt option": ("model=beet", ["did you mean beit?", "known: beit, beit_large"]),
    "timm name as option": ("model=resnet50", ["model=resnet50", "model.name=<any timm name>"]),
    "unknown data set": ("dataset=imagenet", ["no such dataset", "cifar10"]),
    "data set by name": ("dataset.name=cifar", ["dataset.name=cifar", "cifar10"]),
    "choice": ("clipping.style=flatt", ["one of flat, layerwise, blockwise, paramwise"]),
    "dash": ("--seed=1", ["--seed=1", "write seed=1"]),
    "sweep": ("seed=1,2", ["seed=1,2", "several values", "sweep"]),
    "sweep of options": ("model=vit,beit", ["model=vit,beit", "no such model"]),
    "bare word": ("cifar10", ["cifar10", "write key=value"]),
    "added key": ("+eps=1", ["+eps=1", "write eps=1"]),
    "section": ("wandb=offline", ["wandb is a section", "wandb.mode"]),
    "not whole": ("steps=2.5", ["steps=2.5", "whole number"]),
    "null": ("batch=null", ["batch=null", "may not be null"]),
    "not on or off": ("dp=maybe", ["dp=maybe", "on or off"]),
    "list": ("optimizer.betas=[a,b]", ["optimizer.betas=[a,b]", "a list such as"]),
    "delta above 1/N": ("delta=0.1", ["delta=0.1", "N = 1438", "below 1/N"]),
    "delta no probability": ("delta=2", ["delta=2", "in (0, 1)"]),
    "batch above N": ("batch=1500", ["batch=1500", "N = 1438"]),
    "validation takes all": ("dataset.validation=1438", ["1438 of 1438"]),
    "no such config": ("config=/nowhere.yaml", ["config=/nowhere.yaml", "no such file"]),
    "interpolation": ("output=${nothing}", ["nothing", "could not be filled in"]),
}


@pytest.mark.parametrize(("word", "parts"), WRONG_WORDS.values(), ids=WRONG_WORDS)
def test_a_wrong_word_is_one_line_and_exit_2(capsys, word, parts):
    (line,) = error_lines(capsys, "train", word)
    assert line.startswith("error: ")
    assert [part for part in parts if part not in line] == []


def test_words_in_the_manner_of_other_programs(capsys):
    (line,) = error_lines(capsys, "train", "--eps", "1")
    assert "--eps 1: keys take no dashes; write eps=1" in line
    (line,) = error_lines(capsys, "train", "seed", "=", "3")
    assert "seed = 3: no spaces around =; write seed=3" in line


def test_all_problems_come_at_once(capsys):
    words = ["esp=1", "model=beet", "batch=abc", "optimizer.lr=-1", "delta=3", "--seed", "2"]
    lines = error_lines(capsys, "train", *words)
    assert len(lines) == 6
    for part in ("esp", "beet", "batch=abc", "optimizer.lr=-1", "delta=3", "--seed 2"):
        assert sum(part in line for line in lines) == 1


def test_a_rejected_value_brings_no_second_complaint(capsys):
    (line,) = error_lines(capsys, "train", "steps=abc", "epochs=null")
    assert line.startswith("error: steps=abc")


@pytest.mark.parametrize("command", ["train", "selfcheck"])
def test_commands_that_compose_share_their_errors(capsys, command):
    (line,) = error_lines(capsys, command, "esp=1")
    assert f"dpexp {command} --help lists them" in line


def test_unknown_command_names_the_nearest_and_all(capsys):
    (line,) = error_lines(capsys, "trian", "eps=1")
    assert "did you mean train?" in line
    assert f"commands: {', '.join(RUNNERS)}" in line


def test_override_without_a_command_says_where_to_put_one(capsys):
    (line,) = error_lines(capsys, "eps=1")
    assert line == "error: eps=1: a command comes first; write dpexp train eps=1"


def test_traceback_is_shown_when_asked_for(capsys, monkeypatch):
    assert main(["train", "eps=abc", "-v"]) == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("DPEXP_TRACEBACK", "1")
    assert main(["train", "eps=abc"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_interrupt_is_130(monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setitem(RUNNERS, "train", interrupt)
    assert main(["train"]) == 130


@pytest.mark.parametrize(("text", "is_private"), [("on", True), ("off", False), ("true", True)])
def test_dp_on_and_off(text, is_private):
    assert compose([f"dp={text}"]).dp is is_private


def test_eps_inf_and_null():
    assert compose(["eps=inf"]).eps == float("inf")
    with pytest.raises(ConfigError, match="eps=null: give a target eps, or a noise_multiplier"):
        compose(["eps=null"])


def test_noise_multiplier_replaces_the_default_eps():
    config = compose(["noise_multiplier=1.1"])
    assert (config.noise_multiplier, config.eps) == (1.1, None)


def test_noise_multiplier_with_an_eps_that_was_asked_for_is_an_error():
    with pytest.raises(ConfigError, match=r"eps=2.0 and noise_multiplier=1.1: one follows"):
        compose(["eps=2", "noise_multiplier=1.1"])
    assert compose(["eps=null", "noise_multiplier=1.1"]).noise_multiplier == 1.1


def test_eps_replaces_the_noise_multiplier_of_an_experiment():
    config = compose(["experiment=convergence/mnist_cnn", "eps=2"])
    assert (config.eps, config.noise_multiplier) == (2.0, None)


def test_steps_and_epochs_replace_each_other():
    assert (compose(["steps=3"]).steps, compose(["steps=3"]).epochs) == (3, None)
    with pytest.raises(ConfigError, match=r"epochs=2.0 and steps=3: give exactly one"):
        compose(["steps=3", "epochs=2"])


def test_texts_may_hold_what_a_grammar_would_trip_over():
    config = compose(["dataset=parquet", "dataset.root=/my data(1)/a=b", "model.trainable=head,b*"])
    assert config.dataset.root == "/my data(1)/a=b"
    assert config.model.trainable == "head,b*"


def test_environment_is_filled_in(monkeypatch):
    monkeypatch.setenv("SCRATCH", "/scratch")
    assert compose(["output=${oc.env:SCRATCH}/runs"]).output == "/scratch/runs"


def test_config_and_experiment_exclude_each_other(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    words = [f"config={tmp_path}", "experiment=convergence/mnist_cnn"]
    (line,) = error_lines(capsys, "train", *words)
    assert "each is a whole run to start from; give one" in line


@pytest.mark.parametrize("text", ["[", "- 1", "", "seed: abc", "sed: 1"])
def test_saved_configuration_that_is_wrong_is_one_line(tmp_path, capsys, text):
    (tmp_path / "config.yaml").write_text(text)
    assert len(error_lines(capsys, "train", f"config={tmp_path}")) == 1


def test_changes_hold_only_what_was_asked_for():
    assert changes(["device=cpu", "micro_batch=4"], command="eval") == {
        "device": "cpu",
        "micro_batch": 4,
    }
    of_group = changes(["dataset=cifar10"], command="eval")
    assert of_group["dataset.name"] == "cifar10"
    assert {key.split(".")[0] for key in of_group} == {"dataset"}


def test_resume_refuses_what_would_change_the_mathematics(tmp_path, capsys):
    words = [f"resume={tmp_path}", "seed=3", "model=vit", "device=cpu", "wandb.mode=disabled"]
    first, second = error_lines(capsys, "train", *words)
    assert first.startswith("error: model=vit: would change what the run computes")
    assert second.startswith("error: seed=3: would change what the run computes")


def test_resume_and_eval_of_nothing_are_one_line(capsys):
    (line,) = error_lines(capsys, "train", "resume=/nowhere")
    assert "resume=/nowhere: no such folder" in line
    (line,) = error_lines(capsys, "eval", "/nowhere")
    assert "/nowhere: no such folder or file" in line
    (line,) = error_lines(capsys, "eval")
    assert "dpexp eval <run folder or checkpoint>" in line


def test_config_dir_that_is_absent(capsys):
    (line,) = error_lines(capsys, "train", "--config-dir", "/nowhere")
    assert "--config-dir /nowhere: no such folder" in line


def test_help_fits_a_screen_and_names_every_command(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    for command in RUNNERS:
        assert any(line.startswith(f"  {command} ") for line in lines)


@pytest.mark.parametrize("command", RUNNERS)
def test_every_command_has_help(capsys, command):
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"dpexp {command}: ")


def test_help_of_train_lists_every_key(capsys):
    main(["train", "--help"])
    text = capsys.readouterr().out
    assert [key for key in key_types(TrainConfig) if f"  {key}" not in text] == []
    assert "time | memory | paper" in text
    assert "sigma, in place of eps" in text


def test_printed_configuration_holds_values_and_their_comments(capsys):
    assert main(["train", "--cfg", "eps=2"]) == 0
    text = capsys.readouterr().out
    assert "eps: 2.0 " in text
    assert "# B, samples; a public constant; q = B / N" in text


def test_version(capsys):
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dpexp {stated}\n"


def test_doctor_reports_and_exits_0(capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for name in ("python", "torch", "memory", "timm", "wandb", "weights", "disk"):
        assert any(line.startswith(name) for line in text.splitlines())
    assert "off (HF_HUB_OFFLINE)" in text
    assert "WANDB_MODE disabled" in text


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["train", "--cfg"]], ids=str)
def test_help_needs_no_torch_and_a_second(words):
    done, seconds = run_dpexp(*words)
    assert done.returncode == 0
    assert done.stderr.strip() == "False"
    # A second on a quiet machine; twice that where tests run side by side.
    assert seconds < 2


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("1e-5", float, 1e-5),
        ("inf", float, float("inf")),
        ("1e3", int, 1000),
        ("None", int | None, None),
        ("[]", list[str], []),
        ("[1,2.5]", list[float], [1.0, 2.5]),
        (3, str, "3"),
        (False, bool, False),
    ],
)
def test_convert(text, annotation, value):
    assert convert(text, annotation) == value


@pytest.mark.parametrize(
    ("value", "annotation"),
    [(True, int), (True, float), ("1.5", int), ([1], str), ("x", list[float])],
)
def test_convert_refuses(value, annotation):
    with pytest.raises(ValueError, match=describe(annotation).split()[0]):
        convert(value, annotation)
