"""Read the words after a command: key=value, and what people write in its place."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_origin

from dpexp.schema import convert, did_you_mean, nearest

# What the field, or a neighboring library, calls our keys.
ALSO_KNOWN_AS = {
    "epsilon": "eps",
    "sigma": "noise_multiplier",
    "batch_size": "batch",
    "expected_batch_size": "batch",
    "lr": "optimizer.lr",
    "learning_rate": "optimizer.lr",
    "norm": "clipping.norm",
    "clip_norm": "clipping.norm",
    "max_grad_norm": "clipping.norm",
    "num_steps": "steps",
    "data": "dataset",
}


@dataclass
class Overrides:
    """What was asked for on the command line, sorted; texts are not yet converted.

    Attributes:
        choices: Group name -> option, as in model=beit.
        values: Dotted key -> text, as in optimizer.lr=0.1.
        problems: One sentence for each word that is neither.
        rejected: Keys whose words are among the problems.
    """

    choices: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    rejected: set[str] = field(default_factory=set)


def sort_words(
    words: Sequence[str],
    *,
    keys: Mapping[str, Any],
    groups: Mapping[str, Sequence[str]],
    command: str,
) -> Overrides:
    """Sort the words after a command into group choices, values and problems.

    Args:
        words: As typed, without the command.
        keys: Dotted key -> annotation, as from `dpexp.schema.key_types`.
        groups: Group -> the options it has.
        command: Named in the problems.
    """
    overrides = Overrides()
    pairs, overrides.problems = split_pairs(words, command)
    sections = {key.split(".")[0] for key in keys if "." in key}
    for key, text in pairs:
        if key in groups:
            problem = _choice_problem(key, text, groups[key])
        elif key in keys:
            problem = _value_problem(key, text, keys[key], command)
        elif key in sections:
            inside = ", ".join(k for k in keys if k.startswith(f"{key}."))
            problem = f"{key}={text}: {key} is a section; set one of {inside}"
        else:
            problem = _unknown_key(key, text, [*keys, *groups], command)
        if problem:
            overrides.problems.append(problem)
            overrides.rejected.add(key)
        elif key in groups:
            overrides.choices[key] = text
        else:
            overrides.values[key] = text
    return overrides


def split_pairs(words: Sequence[str], command: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the key=value pairs among `words`, and one sentence for each word that is none."""
    pairs: list[tuple[str, str]] = []
    problems = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("-"):
            problems.append(_dashes(word, rest, command))
        elif rest and rest[0] == "=":
            value = rest[1] if len(rest) > 1 else "<value>"
            del rest[:2]
            problems.append(f"{word} = {value}: no spaces around =; write {word}={value}")
        elif word[0:1] in ("+", "~"):
            bare = word.lstrip("+~")
            problems.append(f"{word}: keys are neither added nor removed; write {bare}")
        elif not re.match(r"[A-Za-z_][\w.]*=", word):
            problems.append(f"{word}: not an override; write key=value, as in eps=1")
        else:
            key, text = word.split("=", 1)
            pairs.append((key, _unquote(text)))
    return pairs, problems


def raw(values: Mapping[str, str], keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return texts as the types that their keys ask for; they have been checked."""
    return {key: convert(text, keys[key]) for key, text in values.items()}


def _dashes(word: str, rest: list[str], command: str) -> str:
    """Say how to write `--eps 1`; takes the value off `rest` if it belongs to the word."""
    key, is_pair, value = word.lstrip("-").partition("=")
    if not is_pair and rest and "=" not in rest[0] and not rest[0].startswith("--"):
        value = rest.pop(0)
        word = f"{word} {value}"
    key = key.replace("-", "_")
    return (
        f"{word}: keys take no dashes; write {key}={value or '<value>'} "
        f"(options: dpexp {command} --help)"
    )


def _unquote(text: str) -> str:
    """Take off one pair of quotes that the shell left."""
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if is_quoted else text


def _choice_problem(group: str, option: str, options: Iterable[str]) -> str | None:
    if option in options:
        return None
    return (
        f"{group}={option}: no such {group}; {did_you_mean(option, options)}"
        f"known: {', '.join(options)}" + ("; or model.name=<any timm name>" * (group == "model"))
    )


def _value_problem(key: str, text: str, annotation: Any, command: str) -> str | None:
    """Return what is wrong with a value; one with an interpolation is judged once it is known."""
    if "${" in text:
        return None
    try:
        convert(text, annotation)
    except ValueError as error:
        # A comma belongs to the value only in texts and lists, and those convert.
        if "," in text and get_origin(annotation) is not list:
            return (
                f"{key}={text}: several values, but {command} is one run; give one value "
                f"(a grid is a sweep, which is a command of its own)"
            )
        return f"{key}={text}: {error}"
    return None


def _unknown_key(key: str, text: str, names: Sequence[str], command: str) -> str:
    close = ALSO_KNOWN_AS.get(key) or nearest(key, names)
    hint = f"did you mean {close}={text}? " if close in names else ""
    return f"{key}={text}: no such key; {hint}dpexp {command} --help lists them"
