"""Columns inside columns: `reward_model.ground_truth` is a value of the object `reward_model`.

    {"prompt": [..], "reward_model": {"ground_truth": "72", "style": "rule"}, "extra_info": {"index": 0}}

A name with dots is walked through objects, and through lists by number (`messages.1.content`), also where a
table wrote them as text. A column that is itself called so goes before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from codi.data.rows import Row
from codi.data.written_lists import looks_like_list, written_list

SHOWN_NAMES = 40
"""Inner columns that a message lists."""
_ABSENT = object()


def by_holder(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Of `names` those with a dot, by the column that holds them."""
    held: dict[str, tuple[str, ...]] = {}
    for name in dict.fromkeys(names):
        holder, dot, _ = name.partition(".")
        if dot:
            held[holder] = (*held.get(holder, ()), name)
    return held


def opened(row: Row, held: Mapping[str, Iterable[str]]) -> Row:
    """`row` with a column for each inner one that it has."""
    inner = {}
    for holder, names in held.items():
        if row.get(holder) is not None:
            for name in names:
                value = _ABSENT if name in row else _walked(row, name)
                if value is not _ABSENT:
                    inner[name] = value
    return {**row, **inner} if inner else row


def inner_names(row: Row) -> list[str]:
    """The columns inside a row's columns, one level down, for a message."""
    names = [f"{column}.{name}" for column, value in row.items() if isinstance(value, dict) for name in value]
    return names[:SHOWN_NAMES]


def _walked(row: Row, name: str) -> Any:
    value: Any = row
    for part in name.split("."):
        if isinstance(value, str) and looks_like_list(value):
            try:
                value = written_list(value)
            except ValueError:
                return _ABSENT
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list | tuple) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return _ABSENT
    return value
