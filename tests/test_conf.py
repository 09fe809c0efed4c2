"""The YAML files: each composes, holds only known keys, and says first how to choose it."""

import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from dpexp.cli.compose import GROUPS, compose, conf_folder, group_options
from dpexp.cli.help import as_yaml
from dpexp.config import TrainConfig
from dpexp.data.public import KNOWN_SETS, OWN_SETS
from dpexp.errors import ConfigError

ROOT = Path(__file__).parents[1]
OPTIONS = [(group, option) for group, options in group_options().items() for option in options]
# What a data set cannot do without: a folder, or a network for tables and a batch that is no larger
# than the data; nothing is opened here.
NEEDS = {
    "imagefolder": ["dataset.root=photos"],
    "parquet": ["dataset.root=photos"],
    "diabetes": ["model=mlp", "batch=64"],
    "california": ["model=mlp"],
}


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids="/".join)
def test_every_file_composes_and_passes_the_checks(group, option):
    config = compose([f"{group}={option}", *NEEDS.get(option, [])])
    assert isinstance(config, TrainConfig)


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids="/".join)
def test_every_value_in_a_file_reaches_the_configuration(group, option):
    stated = yaml.safe_load((conf_folder() / group / f"{option}.yaml").read_text())
    stated.pop("defaults", None)
    config = asdict(compose([f"{group}={option}", *NEEDS.get(option, [])]))
    reached = config if group == "experiment" else config[group]

    def compare(stated, reached, key):
        for name, value in stated.items():
            if isinstance(value, dict):
                compare(value, reached[name], f"{key}.{name}")
            else:
                assert reached[name] == value, f"{key}.{name}"

    compare(stated, reached, group)


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids="/".join)
def test_every_file_begins_with_how_to_choose_it(group, option):
    first, *rest = (conf_folder() / group / f"{option}.yaml").read_text().splitlines()
    if group == "experiment":
        assert first == "# @package _global_"
        commands = [line for line in rest if line.startswith("# Run")]
        assert f"dpexp train experiment={option}" in commands[0]
    else:
        assert first.startswith(f"# {group}={option}   ")


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids="/".join)
def test_every_number_has_a_comment(group, option):
    for line in (conf_folder() / group / f"{option}.yaml").read_text().splitlines():
        if re.match(r"\s*\w+: [\d.\[]", line):
            assert re.search(r"\d\]? +# \S", line), line


def test_the_files_of_a_group_are_the_choices_of_its_schema():
    assert set(group_options()["dataset"]) == {*KNOWN_SETS, *OWN_SETS}
    assert set(group_options()["optimizer"]) == {"sgd", "adam", "adamw"}
    assert set(group_options()["schedule"]) == {"constant", "cosine"}


def test_every_folder_is_a_group():
    assert {path.name for path in conf_folder().iterdir() if path.is_dir()} - {
        "__pycache__"
    } == set(GROUPS)


def test_default_run():
    config = compose([])
    assert (config.dataset.name, config.model.name) == ("digits", "digits_cnn")
    assert (config.eps, config.delta, config.dp) == (4.0, 1e-5, True)


def test_published_mnist_setting():
    config = compose(["experiment=convergence/mnist_cnn"])
    assert (config.batch, config.noise_multiplier, config.eps, config.epochs) == (
        256,
        1.1,
        None,
        60,
    )
    assert (config.optimizer.lr, config.clipping.norm) == (0.15, 1.0)
    assert (config.model.name, config.dataset.name) == ("mnist_cnn", "mnist")


def test_anything_may_be_overridden_after_an_experiment():
    config = compose(
        ["experiment=convergence/mnist_cnn", "dataset=cifar10", "model=cifar_cnn", "batch=500"]
    )
    assert (config.dataset.name, config.model.name, config.batch) == ("cifar10", "cifar_cnn", 500)
    assert config.optimizer.lr == 0.15


@pytest.mark.parametrize("model", ["vit", "beit"])
def test_transformers_are_pretrained_at_the_size_of_their_weights(model):
    config = compose([f"model={model}"]).model
    assert config.pretrained
    assert config.image_size is None
    assert re.search(r"patch16_224\.\w+$", config.name), "the weights are pinned by timm's tag"


def test_a_folder_of_ones_own_adds_options(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("name: resnet50\nnorm: groupnorm\n")
    assert compose(["model=mine"], config_dir=tmp_path).model.name == "resnet50"
    assert compose(["model=beit"], config_dir=tmp_path).model.pretrained
    with pytest.raises(ConfigError, match="model=mine: no such model"):
        compose(["model=mine"])


def test_a_wrong_key_in_a_file_of_ones_own_is_named_with_the_nearest(tmp_path):
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "mine.yaml").write_text("name: sgd\nmomentun: 0.9\nlr: fast\n")
    with pytest.raises(ConfigError) as caught:
        compose(["optimizer=mine"], config_dir=tmp_path)
    first, second = str(caught.value).splitlines()
    assert first.startswith("optimizer.momentun: no such key; did you mean momentum?")
    assert second == "optimizer.lr=fast: must be a number"


def test_a_file_of_ones_own_that_is_no_yaml_is_one_line(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("name: [\n")
    with pytest.raises(ConfigError) as caught:
        compose(["model=mine"], config_dir=tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_printed_configuration_runs_again_as_it_is(tmp_path):
    words = ["model=vit", "eps=inf", "wandb.tags=[a,b]", "wandb.name=a: b # c", "steps=7"]
    config = compose(words)
    (tmp_path / "config.yaml").write_text(as_yaml(config))
    assert compose([f"config={tmp_path}/config.yaml"]) == config
    assert compose([f"config={tmp_path}"]) == config
    again = compose([f"config={tmp_path}", "model=resnet", "seed=4"])
    assert (again.model.name, again.seed, again.steps) == ("resnet18", 4, 7)


def test_wheel_carries_the_files_and_runs_from_any_folder(tmp_path):
    source = tmp_path / "source"
    for name in ("dpexp", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source)
    build = "import setuptools.build_meta as b; b.build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    script = (
        f"import sys; sys.path.insert(0, {str(installed)!r}); import dpexp.cli.main as m;"
        "assert m.__file__.startswith(sys.path[0]); sys.exit(m.main())"
    )
    command = [sys.executable, "-c", script, "train", "--cfg", "experiment=convergence/mnist_cnn"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["noise_multiplier"] == 1.1
