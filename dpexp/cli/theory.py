"""`dpexp theory`: which claims, how many states and seeds, and where to."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpexp.cli.overrides import raw, sort_words
from dpexp.errors import ConfigError

if TYPE_CHECKING:
    from dpexp.theory.request import Request

KEYS: dict[str, Any] = {"claims": list[str], "states": int, "seeds": int, "output": str}


def run(words: Sequence[str]) -> int:
    """Test the claims that the words ask for, whatever comes out, and return 0.

    Raises:
        ConfigError: If a word is wrong; one line a problem, all of them at once.
        RunFolderError: If the output cannot be written.
    """
    request = read(words)
    # Imported late: wrong words need no torch.
    from dpexp.theory import run as theory

    theory.run(request)
    return 0


def read(words: Sequence[str]) -> "Request":
    """Return what is asked for.

    Raises:
        ConfigError: If a word is wrong; one line a problem, all of them at once.
    """
    from dpexp.theory.request import Request, problems_of

    asked = sort_words(words, keys=KEYS, groups={}, command="theory")
    given = raw(asked.values, KEYS)
    if "output" in given:
        given["output"] = Path(given["output"])
    request = Request(command=["dpexp", "theory", *words], **given)
    problems = [*asked.problems, *problems_of(request)]
    if problems:
        raise ConfigError("\n".join(problems))
    return request
