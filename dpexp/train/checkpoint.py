"""Checkpoints: what a stopped run goes on from, and the plain weights for everybody else."""

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dpexp.errors import RunFolderError
from dpexp.record.folder import RunFolder
from dpexp.record.strict_json import sync_folder

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
        row: What was measured of the last step; its line waits for the last evaluation.
    """

    step: int = 0
    ledger: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(
    folder: RunFolder, model: nn.Module, optimizer: Optimizer, saved: Saved
) -> None:
    """Write state.pt, all that resuming needs in one file, then model.pt, the weights alone.

    Each is written whole or not at all, so a run killed here goes on from the one before.
    """
    weights = model.state_dict()
    state = {**vars(saved), "model": weights, "optimizer": optimizer.state_dict()}
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
        if int(state["step"]) < 0:
            raise ValueError(f"step {state['step']}")
        return Saved(int(state["step"]), str(state["ledger"]), dict(state["row"]))
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
        sync_folder(path.parent)  # or its name could be lost while the ledger goes on from it
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        # torch's own words for a full disk name a line of its C++ source.
        reason = error.strerror if isinstance(error, OSError) else "torch could not write it"
        raise RunFolderError(
            f"{path} cannot be written ({reason}); a checkpoint from before is as it was. Make "
            f"room or give the folder write permission, then go on with dpexp train resume="
            f"{path.parent.parent}"
        ) from error
