"""`dpexp eval`: a run folder or a file with weights, keys of a run, and recalibration's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpexp.cli.compose import EVAL_KEYS, KEYS, changes, group_options
from dpexp.cli.overrides import raw, sort_words
from dpexp.errors import ConfigError

if TYPE_CHECKING:
    from dpexp.recalibration.request import Request


def run(words: Sequence[str], config_dir: Path | None = None) -> int:
    """Measure saved weights, and recalibrate them if that is asked for; return 0.

    Raises:
        ConfigError: If a word is wrong; one line a problem, all of them at once.
        DpexpError: If the weights cannot be measured.
    """
    if not words:
        raise ConfigError("eval: nothing to evaluate; write dpexp eval <run folder or checkpoint>")
    target, *rest = words
    if not Path(target).exists():
        raise ConfigError(
            f"{target}: no such folder or file; give a run folder, or a checkpoint such as "
            f"<run>/checkpoints/model.pt"
        )
    overrides, request = read(rest, config_dir)
    # Imported late: wrong words need no torch.
    if request is not None:
        from dpexp.recalibration import recalibrate

        recalibrate.recalibrate(Path(target), overrides, request, ["dpexp", "eval", *words])
        return 0
    from dpexp.train import saved

    saved.evaluate_saved(Path(target), overrides)
    return 0


def read(
    words: Sequence[str], config_dir: Path | None = None
) -> tuple[dict[str, Any], "Request | None"]:
    """Return what the words after the folder change, and which recalibration they ask for, if any.

    Raises:
        ConfigError: If a word is wrong; one line a problem, all of them at once.
    """
    from dpexp.recalibration.request import Method, Request, problems_of

    own_keys: dict[str, Any] = {"recalibration": Method, "recalibration.eps": float}
    groups = group_options(config_dir)
    del groups["experiment"]
    asked = sort_words(words, keys={**KEYS, **own_keys}, groups=groups, command="eval")
    own = raw({key: text for key, text in asked.values.items() if key in own_keys}, own_keys)
    method, eps = own.get("recalibration"), own.get("recalibration.eps")
    problems = list(asked.problems)
    if own and not asked.rejected & set(own_keys):
        problems += problems_of(method, eps)
    given = {**asked.choices, **asked.values}
    rest = [f"{key}={text}" for key, text in given.items() if key not in own_keys]
    overrides: dict[str, Any] = {}
    try:
        overrides = changes(rest, command="eval", only=EVAL_KEYS, config_dir=config_dir)
    except ConfigError as error:
        problems += str(error).splitlines()
    if problems:
        raise ConfigError("\n".join(problems))
    return overrides, Request(method=method, eps=eps) if method and eps else None
