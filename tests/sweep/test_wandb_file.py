"""A grid as a sweep file of W&B: its points, what ranks them, and what such a grid cannot say."""

import itertools

import pytest
import yaml

from dpexp.cli.main import main


def written(path, *words):
    assert main(["sweep", *words, f"wandb_file={path}"]) == 0
    return yaml.safe_load(path.read_text())


def test_its_product_is_the_grid_and_its_command_is_dpexp_train(tmp_path):
    found = written(tmp_path / "grid.yaml", "clipping.norm=0.1,10", "seed=0,1", "eps=2")
    assert found["method"] == "grid"
    assert found["command"][:2] == ["dpexp", "train"]
    values = {key: entry["values"] for key, entry in found["parameters"].items()
              if "values" in entry}  # fmt: skip
    assert list(itertools.product(*values.values())) == [(0.1, 0), (0.1, 1), (10, 0), (10, 1)]
    fixed = {key: entry["value"] for key, entry in found["parameters"].items() if "value" in entry}
    assert fixed == {"wandb.mode": "online", "eps": 2}


@pytest.mark.parametrize(
    ("words", "measure"),
    [
        (["dataset.validation=0.2"], "val/accuracy"),
        (["dataset=diabetes", "model=mlp", "dataset.validation=73", "batch=64"], "val/r2"),
        ([], None),
    ],
)
def test_it_ranks_by_what_validation_measures(tmp_path, words, measure):
    found = written(tmp_path / "grid.yaml", "seed=0,1", *words)
    assert found.get("metric", {}).get("name") == measure


@pytest.mark.parametrize(
    ("words", "which"),
    [
        (["seed=0,1", "batch=8,16", "zip=seed,batch"], "wandb_file with zip=seed,batch"),
        (["lr_times_norm=1,2", "clipping.norm=1"], "wandb_file with lr_times_norm"),
    ],
)
def test_keys_in_step_are_refused(tmp_path, capsys, words, which):
    assert main(["sweep", *words, f"wandb_file={tmp_path / 'grid.yaml'}"]) == 2
    assert which in capsys.readouterr().err
    assert not (tmp_path / "grid.yaml").exists()
