"""Weights that timm pins to a model name: found in the cache or downloaded, and identified."""

import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpexp.errors import ModelError

HUB_FILENAMES = ("model.safetensors", "pytorch_model.bin")
PROBE_SECONDS = 10
WAYS_ON = (
    "connect to a network once, or give model.checkpoint=<file>, or start from random weights with "
    "model.pretrained=false"
)


@dataclass(frozen=True)
class Weights:
    """A file of pretrained weights.

    Attributes:
        file: Where it lies now.
        origin: Repository and commit, or address; what to write down.
    """

    file: Path
    origin: str


def find_weights(
    name: str, pinned: dict[str, Any], *, size_mib: float, announce: Callable[[str], None]
) -> Weights:
    """Return the weights that timm pins, downloading them if no copy is in the cache.

    Args:
        name: Architecture and tag, for messages.
        pinned: timm's pretrained configuration of the model.
        size_mib: About how large the file is, MiB.
        announce: Told before a download starts.

    Raises:
        ModelError: If timm has none, or they are neither cached nor within reach.
    """
    repository, url = pinned.get("hf_hub_id"), pinned.get("url")
    if repository:
        chosen = pinned.get("hf_hub_filename")
        filenames = (chosen,) if chosen else HUB_FILENAMES
        return _from_hub(repository, filenames, size_mib=size_mib, announce=announce)
    if url:
        return _from_url(url, size_mib=size_mib, announce=announce)
    raise ModelError(
        f"model.name={name}: timm has no pretrained weights for it; give model.checkpoint=<file>, "
        f"or a tag that has them (timm.list_pretrained), or model.pretrained=false"
    )


def _from_hub(
    repository: str,
    filenames: tuple[str, ...],
    *,
    size_mib: float,
    announce: Callable[[str], None],
) -> Weights:
    """Return a file of a Hugging Face repository."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for filename in filenames:
        cached = try_to_load_from_cache(repository, filename)
        if isinstance(cached, str):
            return _identified(repository, Path(cached))

    source = f"{constants.ENDPOINT}/{repository}"
    if constants.HF_HUB_OFFLINE:
        raise _out_of_reach(source, "HF_HUB_OFFLINE is set")
    _probe(source)
    announce(f"downloading about {size_mib:.0f} MiB from {source} to {constants.HF_HUB_CACHE}")
    for filename in filenames:
        try:
            return _identified(repository, Path(hf_hub_download(repository, filename)))
        except LocalEntryNotFoundError as error:
            raise _out_of_reach(source, error) from error
        except EntryNotFoundError:
            continue
        except (OSError, ValueError, RuntimeError) as error:
            raise _out_of_reach(source, error) from error
    raise _out_of_reach(source, f"no {' or '.join(filenames)} in it")


def _identified(repository: str, file: Path) -> Weights:
    """Return the weights with the commit, which the cache keeps in the name of the folder."""
    return Weights(file, f"{repository}@{file.parent.name}")


def _from_url(url: str, *, size_mib: float, announce: Callable[[str], None]) -> Weights:
    """Return a file by its address; the hash in its name, if it has one, is checked."""
    from timm.models._hub import download_cached_file, get_cache_dir

    if not (Path(get_cache_dir()) / url.rpartition("/")[2]).is_file():
        _probe(url)
        announce(f"downloading about {size_mib:.0f} MiB from {url} to {get_cache_dir()}")
    try:
        return Weights(Path(download_cached_file(url, check_hash=True)), url)
    except (OSError, ValueError, RuntimeError) as error:
        raise _out_of_reach(url, error) from error


def _probe(source: str) -> None:
    """Check that `source` answers, because the hub's own client tries for most of a minute."""
    try:
        with urllib.request.urlopen(
            urllib.request.Request(source, method="HEAD"), timeout=PROBE_SECONDS
        ):
            return
    except urllib.error.HTTPError:
        return  # an answer all the same
    except OSError as error:
        raise _out_of_reach(source, error) from error


def _out_of_reach(source: str, reason: object) -> ModelError:
    first_line = (str(reason) or type(reason).__name__).splitlines()[0]
    return ModelError(
        f"model.pretrained=true needs {source}, which is neither cached nor within reach "
        f"({first_line}); {WAYS_ON}"
    )
