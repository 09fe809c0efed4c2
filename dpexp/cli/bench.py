"""`dpexp bench`: a part, then keys of a run and a few words of its own."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from dpexp.cli.compose import KEYS, compose, group_options
from dpexp.cli.overrides import raw, sort_words
from dpexp.config import Algorithm, Style, TrainConfig
from dpexp.errors import ConfigError
from dpexp.schema import did_you_mean

if TYPE_CHECKING:
    from dpexp.bench.request import Request

# A benchmark holds its batch in memory at once, which a run's expected batch need not fit.
DEFAULTS = {"batch": "8"}
# Weights, data and noise change nothing that is measured, so what they ask of a run does not hold.
FIXED = {
    "model.pretrained": "off",
    "dp": "off",
    "dataset": "fake",
    "dataset.root": "null",
    "dataset.num_train": "1000000000",
}

PARTS = ("step", "plan", "layers", "max-batch")

WORDS: dict[str, Any] = {
    "algorithms": list[str],
    "styles": list[str],
    "rounds": int,
    "memory_gib": float,
    "output": str | None,
}

# Keys and sections of a run on which a benchmark depends.
READS = ("model", "clipping", "batch", "device", "precision", "seed", "config", "experiment")


def run(words: Sequence[str], config_dir: Path | None = None) -> int:
    """Run the part of the benchmark that the words ask for, and return 0.

    Raises:
        ConfigError: If a word is wrong; one line a problem, all of them at once.
        DpexpError: If what is asked for cannot be measured.
    """
    part, request = read(words, config_dir)
    # Imported late: wrong words need no torch.
    from dpexp.bench import layers, max_batch, plan, step

    runners = {"step": step.run, "plan": plan.run, "layers": layers.run, "max-batch": max_batch.run}
    runners[part](request)
    return 0


def read(words: Sequence[str], config_dir: Path | None = None) -> tuple[str, "Request"]:
    """Return the part and what it is asked for.

    Raises:
        ConfigError: If anything is wrong; one line a problem, all of them at once.
    """
    from dpexp.bench.request import Request

    part, *rest = words or [""]
    if part not in PARTS:
        raise ConfigError(_unknown_part(part))
    keys = {**KEYS, "config": str, **WORDS}
    groups = group_options(config_dir)
    asked = sort_words(rest, keys=keys, groups=groups, command="bench")
    given = {**asked.choices, **asked.values}
    own = raw({key: text for key, text in asked.values.items() if key in WORDS}, WORDS)
    inner = {key: text for key, text in given.items() if key not in WORDS}
    problems = [*asked.problems, *_own_problems(own), *_idle(inner)]
    inner = {**DEFAULTS, **{k: v for k, v in inner.items() if _is_read(k)}, **FIXED}
    config = TrainConfig()
    try:
        config = compose([f"{k}={v}" for k, v in inner.items()], command="bench",
                         config_dir=config_dir)  # fmt: skip
    except ConfigError as error:
        # What follows from a rejected word is not the user's doing.
        lines = str(error).splitlines()
        problems += [x for x in lines if not any(f"{key}=" in x for key in asked.rejected)]
    if problems:
        raise ConfigError("\n".join(problems))
    return part, Request(
        config=config,
        algorithms=tuple(own.get("algorithms", ())),
        styles=tuple(own.get("styles", (config.clipping.style,))),
        rounds=own.get("rounds", 9),
        memory_gib=own.get("memory_gib", 16.0),
        output=Path(own["output"]) if own.get("output") else None,
        command=["dpexp", "bench", *words],
    )


def _unknown_part(part: str) -> str:
    names = ", ".join(PARTS)
    if not part or "=" in part:
        first, found = PARTS[0], f"bench {part}".strip()
        example = f"dpexp bench {first} {part}".strip()
        return f"{found}: a part comes first, one of {names}; write {example}"
    return f"bench {part}: no such part; {did_you_mean(part, PARTS)}parts: {names}"


def _own_problems(own: dict[str, Any]) -> list[str]:
    problems = []
    for key, choices in (("algorithms", get_args(Algorithm)), ("styles", get_args(Style))):
        names = own.get(key, ["auto"])
        problems += [
            f"{key}={name}: no such {key[:-1]}; {did_you_mean(name, choices)}known: "
            f"{', '.join(choices)}"
            for name in own.get(key, [])
            if name not in choices
        ]
        if not names:
            problems.append(f"{key}=: nothing to measure; known: {', '.join(choices)}")
    if own.get("rounds", 1) < 1:
        problems.append(f"rounds={own['rounds']}: a median needs at least 1 round")
    if not 0 < own.get("memory_gib", 1.0) < math.inf:
        problems.append(f"memory_gib={own['memory_gib']}: must be finite and above 0 GiB")
    return problems


def _is_read(key: str) -> bool:
    return key.split(".")[0] in READS


def _idle(inner: dict[str, str]) -> list[str]:
    """Return a sentence for each key that a benchmark does not depend on."""
    return [
        f"{key}={text}: changes nothing that bench measures; leave it out (keys: "
        f"{', '.join(READS)}, and {', '.join(WORDS)})"
        for key, text in inner.items()
        if not _is_read(key)
    ]
