"""Checkpoints: what a stopped run goes on from, and the plain weights for everybody else."""

import os
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dpexp.errors import RunFolderError
from dpexp.record.folder import RunFolder

# What torch raises on files that are cut off, are something else, or do not fit.
_DAMAGE = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    pickle.UnpicklingError,
)


@dataclass(frozen=True)
class Saved:
    """Where a run was when it was saved.

    Attributes:
        step: Steps taken.
        ledger: Digest of the ledger's last line; empty without a ledger.
    """

    step: int = 0
    ledger: str = ""


def save_checkpoint(
    folder: RunFolder, model: nn.Module, optimizer: Optimizer, saved: Saved
) -> None:
    """Write state.pt, all that resuming needs in one file, then model.pt, the weights alone.

    Each is written whole or not at all, so a run killed here goes on from the one before.
    """
    weights = model.state_dict()
    state = {**asdict(saved), "model": weights, "optimizer": optimizer.state_dict()}
    _save(folder.state_checkpoint, state)
    _save(folder.model_checkpoint, weights)


def load_state(folder: RunFolder, model: nn.Module, optimizer: Optimizer) -> Saved:
    """Put model and optimizer where `save_checkpoint` left them; return where the run was then.

    Without a checkpoint they stay as they are, at step 0.

    Raises:
        RunFolderError: If the file is damaged.
    """
    path = folder.state_checkpoint
    if not path.exists():
        return Saved()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return Saved(int(state["step"]), str(state["ledger"]))
    except _DAMAGE as error:
        raise RunFolderError(
            f"{path} is damaged ({type(error).__name__}), so the run cannot go on from it; restore "
            f"the file, or start a new run"
        ) from error


def _save(path: Path, content: Any) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        torch.save(content, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        # torch's own words for a full disk name a line of its C++ source.
        reason = error.strerror if isinstance(error, OSError) else "torch could not write it"
        raise RunFolderError(
            f"{path} cannot be written ({reason}); the last good checkpoint is intact. Make room "
            f"or give the folder write permission, then go on with dpexp train resume="
            f"{path.parent.parent}"
        ) from error
