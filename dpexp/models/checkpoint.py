"""Weights from a file that the user gives: read without running code in it, fitted by name."""

import pickle
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpexp.errors import ModelError
from dpexp.models.trainable import classifier_params, shorten

State = dict[str, Tensor]

NEW_HEAD = "classifier initialised at random"  # begins the note that says so
WRAPPERS = ("state_dict", "model")  # keys under which training scripts put the state dict
PREFIXES = ("module.", "_orig_mod.")  # left on names by DistributedDataParallel and torch.compile
RUNNING = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Fit:
    """How a state dict compares with a network, by name.

    Attributes:
        new_head: Classifier parameters that the state lacks or has in another shape.
        problems: One phrase for each kind of mismatch outside the classifier.
    """

    new_head: list[str]
    problems: list[str]


def load_checkpoint(
    module: nn.Module, file: str, *, replaced_norms: Collection[str] = ()
) -> list[str]:
    """Load a state dict into `module`; return lines that say what did not come from the file.

    A classifier of another shape keeps its initialisation. Running statistics of replaced
    BatchNorms are left out. If names do not fit, timm's own conversion for the architecture is
    tried, which also resamples position embeddings to another image size.

    Args:
        module: Already at its number of classes, with its norms replaced.
        file: A state dict, plain or under "state_dict" or "model"; from torch.save or safetensors.
        replaced_norms: Names of the layers that were a BatchNorm.

    Raises:
        ModelError: If the file is missing, unreadable, or does not fit; names the keys.
    """
    statistics = {f"{name}.{suffix}" for name in replaced_norms for suffix in RUNNING}
    read = read_state(file)
    state = {name: value for name, value in read.items() if name not in statistics}
    notes = [f"weights: {file}"]
    fit = _compare(module, state)
    if fit.problems and (converted := _convert(module, state)) is not None:
        converted_fit = _compare(module, converted)
        if not converted_fit.problems:
            state, fit = converted, converted_fit
            notes.append(f"{file}: names and shapes converted by timm for this architecture")
    if fit.problems:
        raise ModelError(
            f"model.checkpoint={file} does not fit the network: {'; '.join(fit.problems)}; weights "
            f"left at random would go unnoticed; give the model.name that the file was made with"
        )
    if len(state) < len(read):
        notes.append(f"running statistics of {len(replaced_norms)} replaced BatchNorms dropped")
    if fit.new_head:
        head = classifier_params(module)
        state = {name: value for name, value in state.items() if name not in head}
        notes.append(f"{NEW_HEAD}: {shorten(fit.new_head)} not in the file")
    module.load_state_dict(state, strict=False)
    return notes


def read_state(file: str) -> State:
    """Return the tensors of a checkpoint file by name, on the CPU.

    Raises:
        ModelError: If the file is missing, unreadable, or holds no state dict.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise ModelError(
            f"model.checkpoint={file}: no such file ({path.resolve()}); there are no weights to "
            f"start from; correct the path, or set model.checkpoint=null"
        )
    content = _read(path)
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise _no_state(path, type(content).__name__)
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise _no_state(path, f"{name}, a {type(value).__name__}")
    state = dict(content)
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise _unreadable(path, error) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: BaseException) -> ModelError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return ModelError(
        f"{path}: not a checkpoint that can be read as plain tensors ({reason[:200]}); files that "
        f"hold code are not opened; save model.state_dict() with torch.save or safetensors"
    )


def _no_state(path: Path, found: str) -> ModelError:
    return ModelError(
        f"{path}: holds {found}, where a tensor for each parameter name is needed, plain or under "
        f"{' or '.join(WRAPPERS)}; save model.state_dict() alone"
    )


def _compare(module: nn.Module, state: State) -> Fit:
    own = module.state_dict()
    head = classifier_params(module)
    missing = [name for name in own if name not in state]
    reshaped = [name for name in own if name in state and state[name].shape != own[name].shape]
    unknown = [name for name in state if name not in own]
    kinds = {
        "missing": [name for name in missing if name not in head],
        "unknown": unknown,
        "of another shape": [
            f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
            for name in reshaped
            if name not in head
        ],
    }
    problems = [f"{len(names)} {kind}: {shorten(names)}" for kind, names in kinds.items() if names]
    return Fit([name for name in (*missing, *reshaped) if name in head], problems)


def _convert(module: nn.Module, state: State) -> State | None:
    """Return `state` as timm converts foreign checkpoints of the architecture, or None."""
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return None
    try:
        return dict(convert(dict(state), module))
    except (KeyError, RuntimeError, ValueError, AttributeError, IndexError, TypeError):
        return None  # not a foreign checkpoint of this architecture either
