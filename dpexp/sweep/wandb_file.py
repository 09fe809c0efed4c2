"""A grid as a sweep file of Weights & Biases, for its agents to run through `dpexp train`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpexp.errors import ConfigError
from dpexp.record.strict_json import write_text, writing
from dpexp.sweep.grid import LR_TIMES_NORM, Grid

# What an agent starts for each point: its parameters follow as key=value.
COMMAND = ["dpexp", "train", "${args_no_hyphens}"]
_ONLINE = {"wandb.mode": "online"}  # a run that is offline cannot tell its agent anything


def document(grid: Grid, measure: str | None) -> dict[str, Any]:
    """Return the sweep file of a grid, as plain dicts and lists.

    Args:
        grid: A product of single keys.
        measure: What W&B is to rank the runs by; None leaves it out.

    Raises:
        ConfigError: If keys go in step, which a W&B grid cannot say.
    """
    tied = [axis.keys for axis in grid.axes if len(axis.keys) > 1]
    keys = [word.partition("=")[0] for word in grid.words]
    if tied or LR_TIMES_NORM in keys:
        which = f"zip={','.join(tied[0])}" if tied else LR_TIMES_NORM
        raise ConfigError(
            f"wandb_file with {which}: a W&B grid is a plain product of keys that dpexp train "
            f"knows, and would run other points; leave {which} out, or run the sweep here"
        )
    varied = {axis.keys[0]: [row[0] for row in axis.values] for axis in grid.axes}
    fixed = dict(word.split("=", 1) for word in grid.words if word.partition("=")[0] not in varied)
    parameters: dict[str, Any] = {
        key: {"value": _plain(text)} for key, text in (_ONLINE | fixed).items()
    }
    parameters |= {key: {"values": list(map(_plain, texts))} for key, texts in varied.items()}
    ranked = {} if measure is None else {"metric": {"name": measure, "goal": "maximize"}}
    return {"program": "dpexp", "command": COMMAND, "method": "grid", **ranked} | {
        "parameters": parameters
    }


def write_file(path: Path, content: Mapping[str, Any]) -> None:
    """Write a sweep file, in one move.

    Raises:
        RunFolderError: If it cannot be written.
    """
    import yaml

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True))


def _plain(text: str) -> Any:
    """Return a value as W&B shows it best: a number where it comes back as the same text."""
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if str(value) == text and text not in ("inf", "-inf", "nan"):
            return value
    return text
