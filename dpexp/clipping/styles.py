"""Clipping styles: which parameters share one norm, and what bound each group gets."""

import math
import re
from collections.abc import Iterable

from dpexp.config import Split, Style


def layer_of(name: str) -> str:
    """Return the module that owns a parameter: `blocks.0.fc` of `blocks.0.fc.weight`."""
    return name.rpartition(".")[0]


def block_of(name: str) -> str:
    """Return the block that a parameter belongs to.

    A block is a numbered member of a list called `blocks` (`stages.0.blocks.1`), else of the
    outermost numbered list (`layer1.0`), else the top-level module (`patch_embed`).
    """
    inner = re.match(r"(.*?\bblocks\.\d+)\.", name)
    outer = re.match(r"(.*?\.\d+)\.", name)
    return inner[1] if inner else outer[1] if outer else name.partition(".")[0]


def group_names(names: Iterable[str], style: Style) -> dict[str, list[str]]:
    """Return the groups of a style: for each, the names of its parameters, in the model's order."""
    groups: dict[str, list[str]] = {}
    for name in names:
        key = {
            "flat": "",
            "layerwise": layer_of(name),
            "blockwise": block_of(name),
            "paramwise": name,
        }[style]
        groups.setdefault(key, []).append(name)
    return groups


def group_bound(clip_norm: float, num_groups: int, split: Split) -> float:
    """Return the bound of each of M groups: R / sqrt(M) for `equal`, R for `per_group`."""
    return clip_norm / math.sqrt(num_groups) if split == "equal" else clip_norm


def total_bound(clip_norm: float, num_groups: int, split: Split) -> float:
    """Return the bound on a sample's whole gradient, sqrt(sum_m R_m^2), which sets the noise."""
    return clip_norm if split == "equal" else clip_norm * math.sqrt(num_groups)
