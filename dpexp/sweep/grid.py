"""Words with several values become points: the product of the axes, the last axis fastest.

A comma separates values; brackets and quotes protect it, as in Hydra: optimizer.betas=[0.9,0.99] is
one value. Two words say how axes belong together. zip=a,b walks the lists of a and b in step.
lr_times_norm=c sets optimizer.lr = c / clipping.norm at each point: where every gradient is clipped
an update is proportional to lr R, so a fair comparison over R holds that product, not lr.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dpexp.errors import ConfigError

ZIP, LR_TIMES_NORM = "zip", "lr_times_norm"
LR, NORM = "optimizer.lr", "clipping.norm"
_OPENING, _CLOSING = "([{", ")]}"


@dataclass(frozen=True)
class Axis:
    """What varies together.

    Attributes:
        keys: One key, or those that are zipped.
        values: For each place on the axis, the text of each key.
    """

    keys: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Place:
    """One point of a grid.

    Attributes:
        labels: Axis key -> text, in the order of the axes.
        words: The overrides of `dpexp train`.
    """

    labels: Mapping[str, str]
    words: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """A product of axes over words that all points share.

    Attributes:
        words: As typed, without zip.
        axes: In the order in which their first keys were typed.
    """

    words: tuple[str, ...]
    axes: tuple[Axis, ...]

    def places(self) -> list[Place]:
        """Return the points, the last axis fastest."""
        rows = itertools.product(*(axis.values for axis in self.axes))
        return [self._place(row) for row in rows]

    def _place(self, row: Sequence[tuple[str, ...]]) -> Place:
        labels = {
            key: text
            for axis, texts in zip(self.axes, row, strict=True)
            for key, text in zip(axis.keys, texts, strict=True)
        }
        pairs = [(key, labels.get(key, text)) for key, text in map(split_word, self.words)]
        given = dict(pairs)
        words = []
        for (key, text), word in zip(pairs, self.words, strict=True):
            if key == LR_TIMES_NORM:
                words.append(f"{LR}={_ratio(text, given[NORM])}")
            else:
                words.append(f"{key}={text}" if key in labels else word)
        return Place(labels, tuple(words))


def read_grid(words: Sequence[str]) -> Grid:
    """Return the grid that the words describe; a word that is no key=value is passed on as it is.

    Raises:
        ConfigError: If the words make no grid; one line a problem, all of them at once.
    """
    kept = [word for word in words if not word.startswith(f"{ZIP}=")]
    zips = [split_word(word)[1] for word in words if word.startswith(f"{ZIP}=")]
    lists = {key: values for key, values in _lists(kept) if len(values) > 1}
    problems = [*_value_problems(kept), *_ratio_problems(kept)]
    groups = [split_values(text) for text in zips]
    problems += _zip_problems(groups, lists)
    if problems:
        raise ConfigError("\n".join(problems))
    return Grid(tuple(kept), tuple(_axes(lists, groups)))


def split_values(text: str) -> list[str]:
    """Return the values of a text, split at the commas that no bracket and no quote protects."""
    values, depth, quote, start = [], 0, "", 0
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in _OPENING:
            depth += 1
        elif letter in _CLOSING:
            depth -= 1
        elif letter == "," and depth == 0:
            values.append(text[start:place].strip())
            start = place + 1
    return [*values, text[start:].strip()]


def varying(points: Sequence[Sequence[str]]) -> list[Place]:
    """Return points that are no product as places: what differs between them is their labels."""
    pairs = [dict(map(split_word, words)) for words in points]
    keys = list(dict.fromkeys(key for given in pairs for key in given))
    differs = [key for key in keys if len({given.get(key) for given in pairs}) > 1]
    return [
        Place({key: given.get(key, "") for key in differs}, tuple(words))
        for given, words in zip(pairs, points, strict=True)
    ]


def split_word(word: str) -> tuple[str, str]:
    """Return key and text of a word; one that is no override is a key without text."""
    if not re.match(r"[A-Za-z_][\w.]*=", word):
        return word, ""
    key, _, text = word.partition("=")
    return key, text


def _lists(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    for key, text in map(split_word, words):
        yield key, split_values(text)


def _axes(lists: Mapping[str, list[str]], groups: Sequence[list[str]]) -> Iterator[Axis]:
    seen: set[str] = set()
    for key in lists:
        if key in seen:
            continue
        # In the order typed, so that the labels of a point follow it too.
        group = next((group for group in groups if key in group), [key])
        keys = tuple(other for other in lists if other in group)
        seen.update(keys)
        yield Axis(keys, tuple(zip(*(lists[other] for other in keys), strict=True)))


def _value_problems(words: Sequence[str]) -> list[str]:
    problems = []
    parts = list(_lists(words))
    keys = [key for key, _ in parts]
    for key, values in parts:
        text = ",".join(values)
        if len(values) < 2:
            continue
        if "" in values:
            problems.append(
                f"{key}={text}: nothing stands before or after a comma, so it is not known which "
                f"value is missing; write {key}={','.join(filter(None, values))}"
            )
        repeated = [value for value in dict.fromkeys(values) if values.count(value) > 1]
        problems += [
            f"{key}={text}: {value} is there twice, and would be the same run twice; leave one out"
            for value in repeated
            if value
        ]
        if keys.count(key) > 1:
            problems.append(
                f"{key}={text}: {key} is given {keys.count(key)} times, so it is not known which "
                f"values are meant; give it once"
            )
    return list(dict.fromkeys(problems))


def _ratio_problems(words: Sequence[str]) -> list[str]:
    given = dict(_lists(words))
    if LR_TIMES_NORM not in given:
        return []
    shown = f"{LR_TIMES_NORM}={','.join(given[LR_TIMES_NORM])}"
    if LR in given:
        return [
            f"{shown} and {LR}={','.join(given[LR])}: the first sets {LR} = {LR_TIMES_NORM} / "
            f"{NORM}; give one of the two"
        ]
    if NORM not in given:
        return [
            f"{shown}: {LR} is that over {NORM}, which is not among the words; add {NORM}=<values>"
        ]
    return [
        f"{key}={text}: {LR} = {LR_TIMES_NORM} / {NORM} needs a finite number above 0 here"
        for key in (LR_TIMES_NORM, NORM)
        for text in given[key]
        if text and not _is_positive(text)
    ]


def _zip_problems(groups: Sequence[list[str]], lists: Mapping[str, list[str]]) -> list[str]:
    problems = []
    for group in groups:
        shown = f"{ZIP}={','.join(group)}"
        if len(set(group)) < 2:
            problems.append(f"{shown}: one list has nothing to go with; name two keys or more")
        missing = [key for key in group if key not in lists]
        problems += [
            f"{shown}: {key or 'an empty name'} has not several values here, so there is nothing "
            f"to walk in step; give it as many as the others have, or take it out of {ZIP}"
            for key in missing
        ]
        lengths = {key: len(lists[key]) for key in group if key in lists}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{key} has {count}" for key, count in lengths.items())
            problems.append(
                f"{shown}: walked in step, the lists must be equally long, but {counts} values"
            )
    named = [key for group in groups for key in dict.fromkeys(group)]
    problems += [
        f"{ZIP}: {key} is in two of them, and can go in step with one only; take it out of one"
        for key in dict.fromkeys(named)
        if named.count(key) > 1
    ]
    return problems


def _ratio(product: str, norm: str) -> str:
    """Return c / R in 12 digits: 0.3 / 0.1 is 3, the run that lr=3 would be."""
    return f"{float(product) / float(norm):.12g}"


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False
