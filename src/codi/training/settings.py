"""Settings as people write them, in YAML or as KEY=VALUE: the kind of the setting decides what a text means.

YAML 1.1 makes false of `no`, a number of seconds of `12:30:45`, 8 of `010` and a date of `2024-01-02`. Here
whatever stands without quotes stays as it was typed until the setting is known that it is for:

    a word or text      what was typed: no, off, Yes, 007, 1_000, 12:30:45, 2024-01-02
    true or false       true, false, yes, no, on, off, in any case
    a number            10, 1_000, 1e-3, 0.1, inf
    may be left out     null, ~ and nothing at all mean None
"""

from __future__ import annotations

import math
import re
from dataclasses import is_dataclass
from enum import Enum
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from codi.errors import RecipeError

YES, NO = ("true", "yes", "on"), ("false", "no", "off")
NOTHING = ("", "~", "null")


class Typed(str):
    """Text without quotes, as it was typed. `read_as` makes of it what its setting wants."""

    __slots__ = ()


class _AsTyped(yaml.SafeLoader):
    """Leaves what stands without quotes as it is, and takes no key twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{name}' stands twice", key.start_mark
                )
            seen.add(name)
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}


def _scalar(loader: _AsTyped, node: yaml.ScalarNode) -> str:
    return Typed(node.value) if node.style is None else str(node.value)


for _tag in ("str", "null", "bool", "int", "float", "timestamp", "value", "merge"):
    _AsTyped.add_constructor(f"tag:yaml.org,2002:{_tag}", _scalar)


def read_yaml(text: str, where: str) -> Any:
    """The contents of a YAML text, unquoted values as `Typed`. Raises RecipeError about `where`."""
    try:
        return yaml.load(text, Loader=_AsTyped)  # a SafeLoader
    except yaml.YAMLError as error:
        raise RecipeError(f"{where} is not valid YAML: {error}") from error


def read_as(value: Any, kind: Any, name: str = "the setting") -> Any:
    """`value` as the setting `name`, of `kind` (a type annotation), takes it.

    What cannot be read so comes back as the plain value that it looks like, for a check to complain about.
    Raises RecipeError for a list or section that is not valid YAML.
    """
    if isinstance(value, dict):
        return _section(value, kind, name)
    if isinstance(value, list):
        inner = next((get_args(one) for one in _alternatives(kind) if get_origin(one) is list), None)
        return [read_as(one, inner[0] if inner else Any, name) for one in value]
    if isinstance(value, bool):
        return _word_of(value, kind)
    if not isinstance(value, str):
        return value
    if isinstance(value, Typed) and value.strip().startswith(("{", "[")) and _takes_parts(kind):
        return read_as(read_yaml(value, f"The value of '{name}', {str(value)!r},"), kind, name)
    return _text(value, kind)


def read_section(values: dict[str, Any], kinds: dict[str, Any], name: str) -> dict[str, Any]:
    """`read_as` on every value of the section `name`, by the kinds of its settings; others stay plain."""
    return {key: read_as(value, kinds.get(key, Any), f"{name}.{key}") for key, value in values.items()}


def _alternatives(kind: Any) -> tuple[Any, ...]:
    if get_origin(kind) in (Union, UnionType):
        return tuple(inner for one in get_args(kind) for inner in _alternatives(one))
    return (kind,)


def _takes_parts(kind: Any) -> bool:
    """Whether a list or a section can be given; what cannot be anything but a number is told so later."""
    kinds = _alternatives(kind)
    return str not in kinds or any(one is dict or get_origin(one) in (list, dict) for one in kinds)


def _section(value: dict[str, Any], kind: Any, name: str) -> dict[str, Any]:
    for one in _alternatives(kind):
        if isinstance(one, type) and is_dataclass(one):
            return read_section(value, get_type_hints(one), name)
        if get_origin(one) is dict and get_args(one)[1] is str:  # names of columns: 2024 is one, too
            named = {key: isinstance(inner, Typed) and inner.strip() for key, inner in value.items()}
            return {key: str(v) if named[key] else read_as(v, str, name) for key, v in value.items()}
    return {key: read_as(inner, Any, f"{name}.{key}") for key, inner in value.items()}


def _word_of(value: bool, kind: Any) -> Any:
    """A boolean that another YAML reader made of `no`: the word again, where only the word is a choice."""
    kinds = _alternatives(kind)
    choices = [one for one in kinds if isinstance(one, type) and issubclass(one, Enum)]
    words = [str(choice.value) for one in choices for choice in one]
    fitting = [word for word in words if word.lower() in (YES if value else NO)]
    return fitting[0] if fitting and bool not in kinds else value


def _text(value: str, kind: Any) -> Any:
    kinds, plain = _alternatives(kind), isinstance(value, Typed)
    typed = value.strip()
    low = typed.lower()
    if Any in kinds:
        return _plain(typed) if plain else value
    takes_text = any(one is str or (isinstance(one, type) and issubclass(one, Enum)) for one in kinds)
    if plain and low in NOTHING:
        if type(None) in kinds or not takes_text:
            return None
        return str(value) if low == "~" or not typed else None
    fixed = [choice for one in kinds if get_origin(one) is Literal for choice in get_args(one)]
    flags = ("true", "false") if takes_text else YES + NO
    if (bool in kinds or True in fixed or False in fixed) and low in flags:
        return low in YES
    if takes_text:
        if kinds != (str,):
            return str(typed) if plain else str(value)
        # A lone number where only text will do is a slip more often than a name: it must be in quotes.
        return int(typed) if plain and low == str(_number(typed, whole=True)) else str(value)
    number = _number(typed, whole=float not in kinds)
    if number is not None and (int in kinds or float in kinds):
        return number
    return _plain(typed) if plain else value


def _plain(typed: str) -> Any:
    """What a value looks like where no kind is known, as in the configuration of a base."""
    low = typed.lower()
    if low in NOTHING:
        return None
    if low in YES + NO:
        return low in YES
    number = _number(typed, whole=False) if re.match(r"[+-]?\.?\d", typed) else None
    return str(typed) if number is None else number


def _number(typed: str, *, whole: bool) -> int | float | None:
    """A number in decimal digits, `1_000` and `1e-3` included. whole: 1e3 is 1000."""
    try:
        return int(typed)
    except ValueError:
        try:
            number = float(typed.replace(".inf", "inf"))
        except ValueError:
            return None
    if math.isnan(number):
        return None
    return int(number) if whole and number.is_integer() else number
