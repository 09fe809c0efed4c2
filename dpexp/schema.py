"""Typed dataclasses as a schema: flat keys, values from text or YAML, nearest names.

Knows no particular key. Problems are returned as sentences, one each, so that a caller can show
all of them at once. A key is dotted: `clipping.norm` is the field `norm` of the field `clipping`.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

_TRUE, _FALSE = {"true", "on", "yes"}, {"false", "off", "no"}
_NULL = {"null", "None", "~"}  # a sweep agent written in Python passes None


def key_types(cls: type) -> dict[str, Any]:
    """Return the annotation of every key of a dataclass and of the dataclasses inside it."""
    types: dict[str, Any] = {}
    for name, annotation in get_type_hints(cls).items():
        if dataclasses.is_dataclass(annotation):
            inner = key_types(annotation)  # type: ignore[arg-type]
            types.update({f"{name}.{key}": value for key, value in inner.items()})
        else:
            types[name] = annotation
    return types


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the name most like `name`, or None; a dotted key counts by its last part too."""
    names = list(names)
    whole = {key: key for key in names}
    last_part = {key.rsplit(".", 1)[-1]: key for key in names}
    for table in (whole, last_part):
        close = get_close_matches(name.lower(), list(table), n=1)
        if close:
            return table[close[0]]
    return None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return "did you mean X? " when something among `names` is close, else nothing."""
    close = nearest(name, names)
    return f"did you mean {close}? " if close else ""


def convert(value: Any, annotation: Any) -> Any:
    """Return `value`, a text or a YAML value, as the type that `annotation` asks for.

    Raises:
        ValueError: If it cannot be read so; the text says what is allowed.
    """
    inner, optional = _split_optional(annotation)
    if value is None or (isinstance(value, str) and value in _NULL):
        if optional:
            return None
        raise ValueError(f"must be {describe(annotation)}, and may not be null")
    reader = _READERS.get(get_origin(inner) or inner)
    if reader is None:
        raise TypeError(f"no reader for {inner}")
    try:
        return reader(value, inner)
    except (ValueError, TypeError):
        raise ValueError(f"must be {describe(annotation)}") from None


def describe(annotation: Any) -> str:
    """Return in words what values an annotation allows."""
    inner, optional = _split_optional(annotation)
    if get_origin(inner) is Literal:
        words = "one of " + ", ".join(str(choice) for choice in get_args(inner))
    elif get_origin(inner) is list:
        words = f"a list such as [{', '.join(['1.0' if get_args(inner)[0] is float else 'a'] * 2)}]"
    else:
        words = {
            bool: "on or off",
            int: "a whole number",
            float: "a number",
            str: "a text",
        }.get(inner, str(inner))
    return f"{words}, or null" if optional else words


def from_dict(
    cls: type[T], values: Mapping[str, Any], prefix: str = ""
) -> tuple[T, dict[str, str]]:
    """Build a dataclass from nested values; a key that is missing or wrong keeps its default.

    Returns:
        The object, and for each wrong key, dotted, the sentence that says what is wrong with it.
    """
    hints = get_type_hints(cls)
    known: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if name not in hints:
            problems[key] = f"{key}: no such key; {did_you_mean(str(name), hints)}" + (
                f"known here: {', '.join(hints)}"
            )
        elif dataclasses.is_dataclass(hints[name]):
            if isinstance(value, Mapping):
                known[name], inner = from_dict(
                    hints[name],  # type: ignore[arg-type]
                    value,
                    f"{key}.",
                )
                problems.update(inner)
            else:
                problems[key] = f"{key}={value}: a section, not a value; set {key}.<key>=<value>"
        else:
            try:
                known[name] = convert(value, hints[name])
            except ValueError as error:
                problems[key] = f"{key}={value}: {error}"
    return cls(**known), problems


def to_dict(config: Any) -> dict[str, Any]:
    """Return a dataclass as nested plain values, in the order of its fields."""
    return dataclasses.asdict(config)


def choice_problems(config: Any, prefix: str = "") -> list[str]:
    """Return one sentence for each field whose value is not among the choices it declares."""
    problems = []
    for name, annotation in get_type_hints(type(config)).items():
        value = getattr(config, name)
        inner, optional = _split_optional(annotation)
        if dataclasses.is_dataclass(value):
            problems += choice_problems(value, f"{prefix}{name}.")
        elif get_origin(inner) is Literal and not (optional and value is None):
            allowed = get_args(inner)
            if value not in allowed:
                close = did_you_mean(str(value), map(str, allowed))
                problems.append(f"{prefix}{name}={value}: {close}must be {describe(annotation)}")
    return problems


def _split_optional(annotation: Any) -> tuple[Any, bool]:
    """Return the annotation without None, and whether None was in it."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation, False
    rest = [arg for arg in get_args(annotation) if arg is not NoneType]
    return rest[0], len(rest) < len(get_args(annotation))


def _read_bool(value: Any, _: Any) -> bool:
    word = str(value).lower()
    if word not in _TRUE | _FALSE:
        raise ValueError
    return word in _TRUE


def _read_int(value: Any, _: Any) -> int:
    if isinstance(value, bool):
        raise ValueError
    number = float(value)
    if not number.is_integer():
        raise ValueError
    return int(value) if isinstance(value, str) and value.lstrip("+-").isdigit() else int(number)


def _read_float(value: Any, _: Any) -> float:
    if isinstance(value, bool) or math.isnan(float(value)):
        raise ValueError
    return float(value)


def _read_str(value: Any, _: Any) -> str:
    if isinstance(value, (list, Mapping)):
        raise TypeError
    return str(value)


def _read_choice(value: Any, annotation: Any) -> Any:
    if value not in get_args(annotation):
        raise ValueError
    return value


def _read_list(value: Any, annotation: Any) -> list[Any]:
    if isinstance(value, str):
        inside = value.strip().removeprefix("[").removesuffix("]").strip()
        value = [part.strip() for part in inside.split(",")] if inside else []
    if not isinstance(value, list):
        raise TypeError
    return [convert(part, get_args(annotation)[0]) for part in value]


_READERS = {
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
    str: _read_str,
    Literal: _read_choice,
    list: _read_list,
}
