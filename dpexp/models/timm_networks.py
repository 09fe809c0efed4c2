"""The networks of timm, by name, at any image size they take, with the weights that timm pins."""

import difflib
import warnings
from collections.abc import Callable
from typing import Any

import timm
from torch import nn

from dpexp.config import ModelConfig
from dpexp.errors import ModelError, UnknownNetworkError
from dpexp.models.networks import NEUTRAL, OWN_NETWORKS, Blank
from dpexp.models.pretrained import WAYS_ON, find_weights

MIB = 2**20
Options = dict[str, Any]  # keyword arguments of timm.create_model


def timm_network(
    config: ModelConfig,
    options: Options,
    *,
    image_size: int | None,
    announce: Callable[[str], None],
) -> Blank:
    """Return a network of timm, with the weights pinned to its name if `config` asks for them.

    Args:
        config: Its name may carry a tag; a deprecated name becomes a note.
        options: `num_classes`, and `in_chans` if images have other channels than its own.
        image_size: Pixels a side, or None for its own.
        announce: Told of a download before it starts.

    Raises:
        ModelError: If the name is unknown, the size impossible, or the weights out of reach.
    """
    _check_name(config.name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module, size_options = _create(config.name, options, image_size)
    pinned: dict[str, Any] = module.pretrained_cfg  # type: ignore[assignment]
    name = ".".join(part for part in (pinned["architecture"], pinned.get("tag")) if part)
    channels = options.get("in_chans") or pinned["input_size"][0]
    neutral = (NEUTRAL,) * channels
    size = image_size or pinned["input_size"][-1]
    notes = _deprecations(caught)
    if not config.pretrained:
        return Blank(module, pinned["architecture"], "", size, channels, neutral, neutral, notes)

    size_mib = sum(p.numel() * p.element_size() for p in module.parameters()) / MIB
    weights = find_weights(name, pinned, size_mib=size_mib, announce=announce)
    return Blank(
        module=_create_from(weights.file, name, {**options, **size_options}, pinned),
        name=name,
        weights=weights.origin,
        image_size=size,
        channels=channels,
        mean=_per_channel(pinned["mean"], channels),
        std=_per_channel(pinned["std"], channels),
        notes=(*notes, f"weights: {weights.origin}"),
    )


def _check_name(name: str) -> None:
    """Check that timm has a network of that name, and weights of that tag."""
    try:
        if timm.is_model(name):
            timm.get_pretrained_cfg(name)
            return
    except RuntimeError as error:
        architecture = name.partition(".")[0]
        tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
        raise UnknownNetworkError(
            f"model.name={name}: {architecture} has no weights of that tag, and another's would be "
            f"a different experiment; tags: {', '.join(tags)}"
        ) from error
    raise UnknownNetworkError(
        f"model.name={name}: no such network, neither here nor in timm; {_nearest(name)}; "
        f"here: {', '.join(OWN_NETWORKS)}; timm's: timm.list_models()"
    )


def _nearest(name: str) -> str:
    """Return a hint at a network with a similar name, or of a family with a similar name."""
    models = [*OWN_NETWORKS, *timm.list_models()]
    close = difflib.get_close_matches(name, models, n=1, cutoff=0.8)
    if not close:
        # "beet" is nearer to the family beit than to any of its members.
        families = {model.partition("_")[0]: model for model in reversed(models)}
        family = difflib.get_close_matches(name.partition("_")[0], families, n=1)
        close = [families[match] for match in family]
    return f"nearest: {close[0]}" if close else "nothing has a name like it"


def _create(name: str, options: Options, image_size: int | None) -> tuple[nn.Module, Options]:
    """Return the network with random weights, and what it needed to be told of the image size."""
    sized: Options = {} if image_size is None else {"img_size": (image_size, image_size)}
    try:
        return timm.create_model(name, **options, **sized), sized
    except TypeError as error:
        # Convolutional networks take images of any size and no such argument.
        if "img_size" not in str(error):
            raise
        return timm.create_model(name, **options), {}
    except (AssertionError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"model.name={name} cannot be built with {options} at image size {image_size} "
            f"({_first_line(error)}); leave model.image_size and dataset.channels null for its own"
        ) from error


def _create_from(file: Any, name: str, options: Options, pinned: Options) -> nn.Module:
    """Return the network with the weights in `file`, by timm's own conversion."""
    # From the hub, the file is a state dict even where timm's address holds another format.
    overlay = {"file": str(file), "custom_load": pinned["custom_load"] and not pinned["hf_hub_id"]}
    try:
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(
            f"{file}: not the pretrained weights of {name} ({_first_line(error)}); delete it and "
            f"{WAYS_ON}"
        ) from error


def _deprecations(caught: list[warnings.WarningMessage]) -> tuple[str, ...]:
    """Return timm's deprecated names as notes; let every other warning through."""
    notes = []
    for warning in caught:
        text = str(warning.message)
        if "deprecated model name" in text:
            notes.append(f"timm: {text[0].lower()}{text[1:].rstrip('.')}")
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    return tuple(dict.fromkeys(notes))


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Return `values`, or as often as there are channels their average."""
    if len(values) == channels:
        return tuple(values)
    return (sum(values) / len(values),) * channels


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
