"""What made a result: commit, versions, machine, time, command. No path of anybody's home."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "scikit-learn",
    "prv-accountant",
    "dp-accounting",
    "hydra-core",
    "omegaconf",
    "pyarrow",
    "pillow",
    "matplotlib",
    "wandb",
)
_PACKAGE_FOLDER = Path(__file__).parents[1]


def describe_provenance(command: Sequence[str]) -> dict[str, Any]:
    """Return what made the run that `command` starts now, for provenance.json.

    Devices are listed where torch is already imported; this function does not import it.
    """
    return {
        "command": shorten_command(command),
        "started": timestamp(),
        "git": _git_state(),
        "packages": package_versions(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "gpus": _gpu_names(),
    }


def shorten_command(command: Sequence[str]) -> str:
    """Return `command` as it would be typed: the program by its name, words quoted as needed."""
    words = list(command)
    if words:
        words[0] = Path(words[0]).name
    return shlex.join(words)


def timestamp() -> str:
    """Return the local time with its offset from UTC, to the second (ISO 8601)."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def package_versions() -> dict[str, str | None]:
    """Return the versions of dpexp and of the packages that its results hang on."""
    return {"dpexp": _own_version()} | {name: _version(name) for name in PACKAGES}


def _own_version() -> str:
    # Not the metadata: a source tree may run without being installed, or beside an older install.
    return str(sys.modules["dpexp"].__version__)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any] | None:
    """Return commit and dirty flag of the tree that the package is part of, or None."""
    # An installed copy may lie inside somebody else's tree: only one that tracks us counts.
    if _git("ls-files", "--error-unmatch", "errors.py") is None:
        return None
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", ".", "../conf")
    if commit is None or changes is None:
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(_PACKAGE_FOLDER), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def cpu_name() -> str:
    """Return the name of the processor, as the operating system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _gpu_names() -> list[str]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
