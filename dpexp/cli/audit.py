"""`dpexp audit`: the keys of a run, and a few of its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpexp.cli.compose import KEYS, compose, group_options
from dpexp.cli.overrides import raw, sort_words
from dpexp.config import TrainConfig
from dpexp.errors import ConfigError

if TYPE_CHECKING:
    from dpexp.audit.request import Request

WORDS: dict[str, Any] = {
    "audit.kind": str,
    "audit.canaries": int,
    "audit.images": int,
    "audit.steps": int,
    "audit.trials": int,
    "audit.confidence": float,
}


def run(words: Sequence[str], config_dir: Path | None = None) -> int:
    """Audit what the words describe; return 0 if it is consistent with its claim, else 1.

    Raises:
        ConfigError: If a word is wrong; one line a problem, all of them at once.
        DpexpError: If what is asked for cannot be audited.
    """
    request = read(words, config_dir)
    # Imported late: wrong words need no torch.
    from dpexp.audit import audit

    return 0 if audit.run(request) else 1


def read(words: Sequence[str], config_dir: Path | None = None) -> "Request":
    """Return what is asked for.

    Raises:
        ConfigError: If anything is wrong; one line a problem, all of them at once.
    """
    from dpexp.audit.request import Request, kinds, problems_of

    keys = {**KEYS, "config": str, **WORDS}
    asked = sort_words(words, keys=keys, groups=group_options(config_dir), command="audit")
    given = {**asked.choices, **asked.values}
    own = raw({key: text for key, text in asked.values.items() if key in WORDS}, WORDS)
    inner = [f"{key}={text}" for key, text in given.items() if key not in WORDS]
    problems = list(asked.problems)
    config = TrainConfig()
    try:
        config = compose(inner, command="audit", config_dir=config_dir)
    except ConfigError as error:
        # What follows from a rejected word is not the user's doing.
        lines = str(error).splitlines()
        problems += [x for x in lines if not any(f"{key}=" in x for key in asked.rejected)]
    fields = {key.removeprefix("audit."): value for key, value in own.items()}
    problems += kinds(fields.get("kind", "both"))
    request = Request(config=config, command=["dpexp", "audit", *words], **fields)
    problems += problems_of(request)
    if problems:
        raise ConfigError("\n".join(problems))
    return request
