"""Which run a configuration describes."""

import hashlib
from collections.abc import Mapping
from typing import Any

from dpexp.record.strict_json import to_strict, to_text

# Keys that change nothing mathematical: where a run goes and what it runs on. Runs that differ in
# them alone are the same run, and only they may be overridden when it is resumed.
FREE_KEYS = ("device", "micro_batch", "wandb", "output", "resume")


def config_hash(config: Mapping[str, Any]) -> str:
    """Return eight hexadecimal digits that are equal for equal runs, whatever `FREE_KEYS` hold."""
    fixed = {key: value for key, value in sorted(flatten(config).items()) if not _is_free(key)}
    return hashlib.sha256(to_text(fixed).encode()).hexdigest()[:8]


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys whose values differ and that are not free, in order."""
    before, after = flatten(old), flatten(new)
    missing = object()
    return [
        key
        for key in sorted(before.keys() | after.keys())
        if not _is_free(key) and before.get(key, missing) != after.get(key, missing)
    ]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return one entry a leaf, under its dotted key, each in its strict JSON form."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = to_strict(value, f"{prefix}{key}")
    return leaves


def _is_free(key: str) -> bool:
    return key.partition(".")[0] in FREE_KEYS
