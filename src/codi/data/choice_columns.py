"""Which columns hold the options of multiple choice, by their names; and those that may hold them unread."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from codi.data.choices import shows_options
from codi.data.example import RowDefect
from codi.data.values import is_missing
from codi.data.written_lists import looks_like_list, written_list

NO_OPTIONS = "answer letter whose options were not read"

_NAMES = (
    "choices", "options", "answerchoices", "answeroptions", "endings", "candidates", "alternatives",
    "mcchoices", "multiplechoices", "targetscores", "mc1targets",
)  # fmt: skip
SCORED = ("targetscores", "mc1targets")
"""Options that say themselves which of them is right."""
_FAMILY = re.compile(
    r"(?P<family>answeroption|option|choice|opt|op|ending|sol|answer|ans)(?P<label>[a-z]|\d{1,2})"
)
_SURE = ("answeroption", "option", "choice", "ending")
_LETTER = re.compile(r"[A-Z]")


def find_choice_columns(folded: Mapping[str, str]) -> tuple[str, ...]:
    """The columns with the options: one, or one for each option; none where there are none.

    folded: column names by their folded form.
    """
    for name in _NAMES:
        if name in folded:
            return (folded[name],)
    families: dict[str, dict[str, str]] = {}
    for name, column in folded.items():
        found = _FAMILY.fullmatch(name)
        if found is not None:
            families.setdefault(found["family"], {})[found["label"]] = column
        elif len(column) == 1 and column.isascii() and column.isupper():
            families.setdefault("", {})[name] = column
    for family in families.values():
        for labels in ("abcdefghijklmnopqrstuvwxyz", "123456789", "0123456789"):
            columns = []
            for label in labels:
                if label not in family:
                    break
                columns.append(family[label])
            if len(columns) >= 2 and len(columns) == len(family):
                return tuple(columns)
    return ()


def doubtful_columns(columns: Sequence[str]) -> bool:
    """Whether columns that are named like options (A, B; op1, op2; ans1, ans2) may well hold other things."""
    if len(columns) < 2:
        return False
    named = _FAMILY.fullmatch(re.sub(r"[\s_\-./]+", "", columns[0]).casefold())
    return named is None or named["family"] not in _SURE


def refuse_unread_options(
    row: Mapping[str, Any], read: Callable[[str], bool], answer: str, question: str
) -> None:
    """Raise RowDefect where `answer` is a letter, and an unread column may hold what it stands for."""
    if _LETTER.fullmatch(answer) is None or shows_options(question):
        return
    for column, value in row.items():
        if not read(column) and _may_be_options(value):
            raise RowDefect(
                NO_OPTIONS, answer,
                f"The column '{column}' may hold them: name it 'options', or put them into the question",
            )  # fmt: skip


def _may_be_options(value: Any) -> bool:
    if isinstance(value, str):
        if not looks_like_list(value):
            return shows_options(value)
        try:
            value = written_list(value)
        except ValueError:
            return False
    if isinstance(value, dict):
        value = [part for part in value.values() if not is_missing(part)]
        value = value[0] if value and isinstance(value[0], list) else value
    if not isinstance(value, list | tuple) or not 2 <= len(value) <= len(ascii_uppercase):
        return False
    if all(isinstance(choice, dict) for choice in value):
        return all(
            any(choice.get(name) is not None for name in ("text", "value", "option")) and "from" not in choice
            for choice in value
        )
    return all(
        isinstance(choice, str | int | float) and not isinstance(choice, bool) and len(str(choice)) <= 200
        for choice in value
    )
