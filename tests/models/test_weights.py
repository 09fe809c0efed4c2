"""Weights: from a checkpoint file, from timm's cache, and what is said when there are none."""

import hashlib
import urllib.error
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch.testing import assert_close

from dpexp.config import ModelConfig
from dpexp.errors import ModelError
from dpexp.models.build import build
from dpexp.models.checkpoint import read_state

VIT = "vit_tiny_patch16_224"
REPOSITORY = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def digits_state(num_classes=10, seed=7):
    return build(ModelConfig(), num_classes=num_classes, seed=seed).module.state_dict()


def load_digits(file, num_classes=10):
    return build(ModelConfig(checkpoint=str(file)), num_classes=num_classes, seed=0)


def wrap_plain(state):
    return state


def wrap_under_state_dict(state):
    return {"state_dict": state, "epoch": 3}


def wrap_under_model(state):
    return {"model": state}


def wrap_as_distributed(state):
    return {f"module.{name}": value for name, value in state.items()}


@pytest.mark.parametrize(
    "wrap", [wrap_plain, wrap_under_state_dict, wrap_under_model, wrap_as_distributed]
)
def test_a_checkpoint_gives_every_weight(tmp_path, wrap):
    state = digits_state()
    torch.save(wrap(state), tmp_path / "model.pt")
    built = load_digits(tmp_path / "model.pt")
    assert built.weights == str(tmp_path / "model.pt")
    assert built.notes[0] == f"weights: {tmp_path / 'model.pt'}"
    for name, value in built.module.state_dict().items():
        assert torch.equal(value, state[name])


def test_safetensors_are_read(tmp_path):
    save_file(digits_state(), tmp_path / "model.safetensors")
    built = load_digits(tmp_path / "model.safetensors")
    assert torch.equal(built.module.state_dict()["conv.weight"], digits_state()["conv.weight"])


def test_a_classifier_of_another_shape_is_new_and_said_to_be(tmp_path):
    torch.save(digits_state(num_classes=5), tmp_path / "model.pt")
    built = load_digits(tmp_path / "model.pt")
    fresh = build(ModelConfig(), num_classes=10, seed=0).module
    assert torch.equal(built.module.state_dict()["conv.weight"], digits_state()["conv.weight"])
    assert torch.equal(built.module.head.weight, fresh.head.weight)
    assert torch.equal(built.module.head.bias, fresh.head.bias)
    assert any("classifier initialised at random: head.weight, head.bias" in n for n in built.notes)


def test_an_ordinary_resnet_gives_all_but_its_running_statistics(tmp_path):
    original = timm.create_model("resnet18", num_classes=4)
    torch.save(original.state_dict(), tmp_path / "resnet.pt")
    config = ModelConfig(name="resnet18", checkpoint=str(tmp_path / "resnet.pt"))
    built = build(config, num_classes=4, seed=0)
    for name, param in original.named_parameters():
        assert torch.equal(built.module.get_parameter(name), param)
    assert "running statistics of 20 replaced BatchNorms dropped" in built.notes


def test_position_embeddings_are_resampled_to_another_image_size(tmp_path):
    original = timm.create_model(VIT, num_classes=4)
    torch.save(original.state_dict(), tmp_path / "vit.pt")
    config = ModelConfig(name=VIT, checkpoint=str(tmp_path / "vit.pt"), image_size=64)
    built = build(config, num_classes=4, seed=0)
    assert built.module.pos_embed.shape == (1, 17, 192)
    assert_close(built.module.blocks[0].attn.qkv.weight, original.blocks[0].attn.qkv.weight)
    assert any("converted by timm" in note for note in built.notes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("conv.bias"), ["1 missing: conv.bias"]),
        (lambda s: s.update(extra=torch.zeros(1)), ["1 unknown: extra"]),
        (
            lambda s: s.update({"conv.bias": torch.zeros(3)}),
            ["1 of another shape: conv.bias (3,) for (16,)"],
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_key(tmp_path, change, words):
    state = digits_state()
    change(state)
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ModelError) as caught:
        load_digits(tmp_path / "model.pt")
    for word in ["does not fit the network", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_an_unreadable_checkpoint_is_refused_in_one_line(tmp_path, suffix):
    file = tmp_path / f"model.{suffix}"
    for content in (b"", b"not a checkpoint at all"):
        file.write_bytes(content)
        with pytest.raises(ModelError, match="not a checkpoint that can be read") as caught:
            read_state(str(file))
        assert "\n" not in str(caught.value)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch.save({"model": Path("anything")}, tmp_path / "model.pt")
    with pytest.raises(ModelError, match="files that hold code are not opened"):
        read_state(str(tmp_path / "model.pt"))


@pytest.mark.parametrize(
    ("content", "found"),
    [([1, 2], "holds list"), ({"lr": 0.1}, "holds lr, a float"), ({}, "holds dict")],
)
def test_a_file_without_a_state_dict_is_refused(tmp_path, content, found):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ModelError, match=found):
        read_state(str(tmp_path / "model.pt"))


def test_an_absent_checkpoint_is_refused():
    with pytest.raises(ModelError, match=r"model.checkpoint=/nowhere.pt: no such file"):
        load_digits("/nowhere.pt")


# Pretrained weights.


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """An empty cache of the Hugging Face hub, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def no_network(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    return tmp_path / "hub"


def fill_cache(cache, state):
    """Put a state dict into the cache as the hub's own client would; return its file."""
    folder = cache / f"models--{REPOSITORY.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    save_file(state, snapshot / "model.safetensors")
    return snapshot / "model.safetensors"


def test_cached_weights_are_used_and_identified(empty_cache):
    original = timm.create_model(VIT)
    file = fill_cache(empty_cache, original.state_dict())
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    announced = []
    config = ModelConfig(name=VIT, pretrained=True)
    built = build(config, num_classes=10, seed=0, announce=announced.append)
    assert announced == []
    assert built.name == "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert built.weights == f"{REPOSITORY}@{COMMIT}"
    assert f"weights: {REPOSITORY}@{COMMIT}" in built.notes
    for name, param in original.named_parameters():
        if not name.startswith("head"):
            assert torch.equal(built.module.get_parameter(name), param), name
    assert built.module.head.weight.shape == (10, 192)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before


def test_normalisation_is_that_of_the_weights(empty_cache):
    fill_cache(empty_cache, timm.create_model(VIT).state_dict())
    pinned = timm.get_pretrained_cfg(VIT)
    built = build(ModelConfig(name=VIT, pretrained=True), num_classes=10, seed=0)
    assert (built.mean, built.std) == (pinned.mean, pinned.std)
    grey = build(ModelConfig(name=VIT, pretrained=True), num_classes=10, channels=1, seed=0)
    assert grey.mean == (sum(pinned.mean) / 3,)


@pytest.mark.usefixtures("empty_cache")
def test_offline_without_a_cache_gives_three_ways_on():
    with pytest.raises(ModelError) as caught:
        build(ModelConfig(name=VIT, pretrained=True), num_classes=10, seed=0)
    message = str(caught.value)
    for words in (REPOSITORY, "network", "model.checkpoint=<file>", "model.pretrained=false"):
        assert words in message
    assert "\n" not in message


def test_a_download_is_announced_first(empty_cache, monkeypatch):
    events = []

    def fail(repository, filename):
        events.append((repository, filename))
        raise OSError("connection lost")

    monkeypatch.setattr("dpexp.models.pretrained._probe", lambda source: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    config = ModelConfig(name=VIT, pretrained=True)
    with pytest.raises(ModelError, match="connection lost"):
        build(config, num_classes=10, seed=0, announce=events.append)
    announced, requested = events
    assert announced.startswith("downloading about 21 MiB from https://huggingface.co/timm/vit")
    assert announced.endswith(str(empty_cache))
    assert requested == (REPOSITORY, "model.safetensors")


def test_a_broken_file_in_the_cache_is_named(empty_cache):
    file = fill_cache(empty_cache, {"weight": torch.zeros(1)})
    with pytest.raises(ModelError, match="not the pretrained weights of") as caught:
        build(ModelConfig(name=VIT, pretrained=True), num_classes=1000, seed=0)
    assert str(file) in str(caught.value)


def test_a_network_without_pretrained_weights_says_so():
    with pytest.raises(ModelError, match="digits_cnn: there are no pretrained weights"):
        build(ModelConfig(pretrained=True), num_classes=10, seed=0)
    with pytest.raises(ModelError, match="timm has no pretrained weights for it"):
        build(ModelConfig(name="convnext_atto_rms", pretrained=True), num_classes=2, seed=0)
