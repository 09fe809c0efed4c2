"""Saved weights, measured again: the numbers of the run that made them."""

import pytest
import torch
from runs import document, folders, train

from dpexp.cli.main import main

# A figure whose axes were squeezed out by a long caption only warns.
pytestmark = pytest.mark.filterwarnings("error")

WORDS = ("dataset.mean=[0.2]", "dataset.std=[0.3]", "evaluate_samples=100")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run normalised by other numbers than the default's, as pretrained weights would be."""
    return train(tmp_path_factory.mktemp("trained"), *WORDS)


def measures(folder):
    summary = document(folder, "summary")
    return {key: value for key, value in summary.items() if key.startswith("test/")}


@pytest.mark.parametrize("part", ["", "checkpoints/model.pt"])
def test_a_folder_and_its_weights_give_the_runs_numbers(trained, tmp_path, part):
    assert main(["eval", str(trained / part), f"output={tmp_path}"]) == 0
    (folder,) = folders(tmp_path)
    assert measures(folder) == pytest.approx(measures(trained), rel=1e-5)
    assert measures(folder)["test/num_samples"] == 100
    assert document(folder, "reliability")["count"] == document(trained, "reliability")["count"]
    assert document(folder, "status")["state"] == "done"
    assert (folder / "figures" / "reliability.png").stat().st_size > 1000


def test_weights_alone_are_measured_with_the_keys_given(trained, tmp_path):
    weights = tmp_path / "weights.pt"
    weights.write_bytes((trained / "checkpoints" / "model.pt").read_bytes())
    output = tmp_path / "outputs"
    assert main(["eval", str(weights), *WORDS, f"output={output}"]) == 0
    (folder,) = folders(output)
    assert measures(folder) == pytest.approx(measures(trained), rel=1e-5)


def refused(capsys, *words):
    assert main(["eval", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_cannot_be_measured_is_one_line(trained, tmp_path, capsys):
    assert "no such folder or file" in refused(capsys, str(tmp_path / "nowhere"))
    text = tmp_path / "text.pt"
    text.write_text("no weights")
    assert "not a checkpoint" in refused(capsys, str(text))
    other = tmp_path / "other.pt"
    torch.save({"a": torch.zeros(1)}, other)
    assert "does not fit the network" in refused(capsys, str(other))
    words = ["dataset.name=fake", "dataset.num_classes=7", f"output={tmp_path / 'outputs'}"]
    assert "holds no last layer for the 7 outputs of fake" in refused(capsys, str(trained), *words)
    assert not (tmp_path / "outputs").exists()


def test_a_run_without_weights_is_one_line(tmp_path, capsys):
    folder = train(tmp_path)
    (folder / "checkpoints" / "model.pt").unlink()
    assert "stopped before its first checkpoint" in refused(capsys, str(folder))
