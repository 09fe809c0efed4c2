"""The networks by name: sizes, inputs, initialisation, and what an unknown name says."""

import warnings

import pytest
import torch

from dpexp.config import ModelConfig
from dpexp.errors import ModelError
from dpexp.models.build import build
from dpexp.models.networks import OWN_NETWORKS

# Parameters with 10 classes; the papers' tables give them, or the arithmetic beside them.
SIZES = {
    "digits_cnn": 2_730,  # 16 (9 + 1) + 10 (256 + 1)
    "mnist_cnn": 26_010,  # arXiv:2106.07830, MNIST example
    "cifar_cnn": 550_570,  # arXiv:2205.10683, Table 4: 0.551 M
    "cifar_cnn4": 131_466,  # the CIFAR-10 example of the code base of arXiv:2106.07830
    "mlp": 682,  # 32 (10 + 1) + 10 (32 + 1)
    "vgg11_cifar": 9_231_114,  # 9.2 M there
    "vgg13_cifar": 9_416_010,  # 9.4 M
    "vgg16_cifar": 14_728_266,  # 14.7 M
    "vgg19_cifar": 20_040_522,  # 20 M
    "resnet18_cifar": 11_173_962,  # the number that the paper's first code release prints
    "resnet34_cifar": 21_282_122,  # 21 M
    "resnet50_cifar": 23_520_842,  # 23.5 M
    "resnet18": 11_181_642,  # timm's 11,689,512 less 990 outputs of 513
}


def forward(built):
    images = torch.randn(2, built.channels, built.image_size, built.image_size)
    with torch.no_grad():
        return built.module(images)


@pytest.mark.parametrize("name", SIZES)
def test_network_has_the_published_size_and_classifies(name):
    built = build(ModelConfig(name=name), num_classes=10, seed=0)
    assert built.num_params == SIZES[name]
    assert built.num_trainable == SIZES[name]
    assert built.module.training
    logits = forward(built)
    assert logits.shape == (2, 10)
    assert logits.std() > 0


@pytest.mark.parametrize(
    ("name", "image_size", "channels"),
    [
        ("digits_cnn", 8, 1),
        ("mnist_cnn", 28, 1),
        ("cifar_cnn", 32, 3),
        ("cifar_cnn4", 32, 3),
        ("mlp", 1, 10),
        ("vgg11_cifar", 32, 3),
        ("resnet18", 224, 3),
        ("vit_tiny_patch16_224", 224, 3),
    ],
)
def test_native_input(name, image_size, channels):
    built = build(ModelConfig(name=name), num_classes=3, seed=0)
    assert (built.image_size, built.channels) == (image_size, channels)
    assert built.mean == built.std == (0.5,) * channels
    assert built.weights == "random"
    assert built.name == name


@pytest.mark.parametrize("name", ["resnet18", "resnet18_cifar", "vit_tiny_patch16_224"])
def test_another_input_is_taken(name):
    built = build(ModelConfig(name=name), num_classes=7, channels=1, image_size=64, seed=0)
    assert (built.image_size, built.channels, len(built.mean)) == (64, 1, 1)
    assert forward(built).shape == (2, 7)
    config = ModelConfig(name=name, image_size=64)
    assert build(config, num_classes=7, seed=0).image_size == 64


def test_two_image_sizes_that_differ_are_refused():
    config = ModelConfig(name="resnet18", image_size=64)
    with pytest.raises(ModelError, match=r"model.image_size=64 and dataset.image_size=32"):
        build(config, num_classes=2, image_size=32, seed=0)


@pytest.mark.parametrize("name", ["digits_cnn", "mnist_cnn", "cifar_cnn", "cifar_cnn4", "mlp"])
def test_a_size_that_the_linear_layer_does_not_fit_is_refused(name):
    with pytest.raises(ModelError, match=rf"image_size=40: {name} takes .* images only"):
        build(ModelConfig(name=name, image_size=40), num_classes=10, seed=0)


@pytest.mark.parametrize("name", ["digits_cnn", "resnet18", "vit_tiny_patch16_224"])
def test_the_seed_decides_the_weights_and_global_randomness_goes_on(name):
    def weights(seed):
        module = build(ModelConfig(name=name), num_classes=10, seed=seed).module
        return torch.cat([param.detach().flatten() for param in module.parameters()])

    torch.manual_seed(123)
    expected = torch.rand(5)
    torch.manual_seed(123)
    first = weights(0)
    assert torch.equal(torch.rand(5), expected)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("beet", "nearest: beit_base_patch16_224"),
        ("rezznet18", "nearest: resnet18"),
        ("mnist_cn", "nearest: mnist_cnn"),
        ("qqqqqqqq", "nothing has a name like it"),
    ],
)
def test_an_unknown_name_gives_the_nearest_and_ours(name, nearest):
    with pytest.raises(ModelError) as caught:
        build(ModelConfig(name=name), num_classes=10, seed=0)
    message = str(caught.value)
    assert f"model.name={name}: no such network" in message
    assert nearest in message
    assert all(own in message for own in OWN_NETWORKS)
    assert "\n" not in message


def test_an_unknown_tag_gives_those_there_are():
    with pytest.raises(ModelError, match=r"resnet18 has no weights of that tag.*a1_in1k"):
        build(ModelConfig(name="resnet18.a9"), num_classes=10, seed=0)


def test_a_size_that_the_architecture_cannot_have_is_refused():
    config = ModelConfig(name="nest_tiny", image_size=50)
    with pytest.raises(ModelError, match=r"nest_tiny cannot be built .* size 50 .*divide"):
        build(config, num_classes=2, seed=0)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vgg11_cifar"])
def test_a_size_too_small_to_pass_through_is_refused(name):
    with pytest.raises(ModelError, match=rf"{name} cannot take images of 8x8 pixels"):
        build(ModelConfig(name=name), num_classes=2, image_size=8, seed=0)


def test_a_deprecated_name_is_one_note_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = ModelConfig(name="gluon_resnet18_v1b", image_size=32)
        built = build(config, num_classes=10, seed=0)
    notes = [note for note in built.notes if "deprecated" in note]
    assert notes == [
        "timm: mapping deprecated model name gluon_resnet18_v1b to current resnet18.gluon_in1k"
    ]
    assert built.name == "resnet18"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg11", "vit_base_patch16_224", "beit_base_patch16_224"])
def test_every_parameter_of_the_named_groups_trains(name):
    built = build(ModelConfig(name=name), num_classes=10, seed=0)
    assert built.num_trainable == built.num_params
    assert any("(100 %)" in note for note in built.notes)
