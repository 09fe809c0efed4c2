"""What this machine can run, and what is missing. Asks the machine only, never the network."""

import importlib
import os
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

GIB = 1024**3
PACKAGES = (
    "timm",
    "torchvision",
    "prv-accountant",
    "dp-accounting",
    "hydra-core",
    "scikit-learn",
    "pyarrow",
    "matplotlib",
)


def report() -> str:
    """Return the findings as a table of plain text: what, what was found, what to do about it."""
    rows = [
        row for part in (_machine, _torch, _packages, _wandb, _weights, _folders) for row in part()
    ]
    width = max(len(name) for name, _ in rows)
    return "".join(f"{name:<{width}}  {found}\n" for name, found in rows)


def _machine() -> list[tuple[str, str]]:
    memory = _or_unknown(
        lambda: f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GIB:.1f} GiB"
    )
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return [
        ("dpexp", _version("dpexp") or "not installed; pip install -e ."),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("cores", f"{cores} usable"),
        ("memory", f"{memory} in all"),
    ]


def _torch() -> list[tuple[str, str]]:
    torch = _imported("torch")
    if isinstance(torch, str):
        return [("torch", torch)]
    rows = [("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")]
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"built for CUDA {built}, but no device or driver" if built else "built without CUDA"
        return [*rows, ("gpu", f"none ({why}); small models train on the CPU, beit and vit crawl")]
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if card.major >= 8 else "no bf16"
        rows.append((f"cuda:{index}", f"{card.name}, {card.total_memory / GIB:.0f} GiB, {bf16}"))
    return rows


def _packages() -> list[tuple[str, str]]:
    return [(name, _version(name) or f"missing; pip install {name}") for name in PACKAGES]


def _wandb() -> list[tuple[str, str]]:
    installed = _version("wandb")
    if installed is None:
        return [("wandb", "missing; runs are recorded without it")]
    mode = os.environ.get("WANDB_MODE", "not set, so wandb.mode holds (offline by default)")
    key = "WANDB_API_KEY is set" if os.environ.get("WANDB_API_KEY") else _netrc_key()
    return [("wandb", f"{installed}; WANDB_MODE {mode}; {key}")]


def _netrc_key() -> str:
    from netrc import NetrcParseError, netrc

    try:
        is_known = netrc().authenticators("api.wandb.ai") is not None
    except (OSError, NetrcParseError):
        is_known = False
    return "logged in by ~/.netrc" if is_known else "no key, only needed for wandb.mode=online"


def _weights() -> list[tuple[str, str]]:
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    kept = sorted(folder.name for folder in hub.glob("models--timm--*"))
    names = ", ".join(name.removeprefix("models--timm--") for name in kept[:5])
    more = f" and {len(kept) - 5} more" if len(kept) > 5 else ""
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    network = (
        "off (HF_HUB_OFFLINE): only these weights, model.checkpoint=<file> or model.pretrained=off"
        if offline
        else "allowed (HF_HUB_OFFLINE not set); not tried here"
    )
    return [
        ("weights", f"{len(kept)} of timm in {hub}{': ' if kept else ''}{names}{more}"),
        ("downloads", network),
    ]


def _folders() -> list[tuple[str, str]]:
    data = Path("data")
    found = ", ".join(sorted(p.name for p in data.iterdir())) if data.is_dir() else ""
    here = Path.cwd()
    free = _or_unknown(lambda: f"{shutil.disk_usage(here).free / GIB:.1f} GiB")
    writable = "writable" if os.access(here, os.W_OK) else "not writable; set output=<folder>"
    return [
        ("data", f"{data.resolve()}: {found or 'absent or empty; downloads go there'}"),
        ("disk", f"{free} free in {here}, {writable}"),
    ]


def _imported(name: str) -> Any:
    """Return a module, or why it cannot be had."""
    if find_spec(name) is None:
        return f"missing; pip install {name}"
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: a shared library does not load
        return f"does not load ({str(error).splitlines()[0]}); install it anew"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _or_unknown(measure: Callable[[], str]) -> str:
    try:
        return measure()
    except (OSError, ValueError, AttributeError):
        return "unknown"
