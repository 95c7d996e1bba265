"""JSON in the ways people write rows down, whatever the file is called:

    {"question": …}             one object a line, or objects one after another
    [{…}, {…}]                  a list of objects
    {"data": [{…}, {…}]}        a list one level down, under one of the usual names
    {"train": […], "test": […]} a list for each split
    {"question": [….], …}       a list for each column (also pandas' own forms, and rows by their id)

Lists are read object by object. Numbers come exactly as the file writes them (`Decimal`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from codi.data.json_values import DECODER, FAULTS, JsonValues, python_form, reason_of
from codi.data.rows import Row, Rows
from codi.data.splits import choose_split, split_named
from codi.data.text_files import excerpt, lines_of, open_text
from codi.errors import DataError

LISTS = (
    "data", "dataset", "examples", "rows", "instances", "items", "problems", "questions", "records",
    "results", "samples",
)  # fmt: skip
"""Names under which an object holds the list of all rows."""

# What is read to tell the forms apart stays bounded: of a longer first line the values are read one by one.
_LONGEST_LINE = 1 << 18


def read_json(path: Path, split: str) -> Rows:
    """The rows of `path`; `split` chooses where it holds several.

    Raises:
        DataError: broken JSON, or JSON that holds no rows; the message names the line or row.
    """
    if _one_object_a_line(path):
        return Rows.peeked(_rows_of_lines(path), "line")
    return Rows.peeked(_rows_of_values(path, split), "row")


def _one_object_a_line(path: Path) -> bool:
    """Whether the lines are rows: two that begin with `{`, or a first that is a row whole."""
    with open_text(path) as file:
        lines = (line for line in iter(lambda: file.readline(_LONGEST_LINE), "") if not line.isspace())
        first, second = next(lines, ""), next(lines, None)
    if not first.lstrip("\ufeff \t").startswith("{") or len(first) == _LONGEST_LINE:
        return False
    if second is not None and second.lstrip("\ufeff \t").startswith("{"):
        return True
    try:
        whole = DECODER.decode(first)
    except FAULTS:
        return False  # one object over several lines; or a fault, whose place is told when it is read so
    lists = [value for key, value in whole.items() if key in LISTS or split_named(key)]
    return _unfolded(whole) is None and not any(map(_is_rows, lists))


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(element, dict) for element in value)


def _rows_of_lines(path: Path) -> Iterator[tuple[int, Row]]:
    decode = DECODER.decode
    for number, line in lines_of(path):
        try:
            row = decode(line)
        except FAULTS as error:
            if line.startswith("\ufeff"):  # files joined by `cat`
                row = _line_value(path, number, line[1:])
            else:
                raise _broken_line(path, number, line, error) from error
        if not isinstance(row, dict):
            raise DataError(
                f"{path}, line {number}: expected a JSON object with a question and an answer, found "
                f"{kind(row)}: {excerpt(line)}"
            )
        yield number, row


def _line_value(path: Path, number: int, line: str) -> Any:
    try:
        return DECODER.decode(line)
    except FAULTS as error:
        raise _broken_line(path, number, line, error) from error


def _broken_line(path: Path, number: int, line: str, error: Exception) -> DataError:
    return DataError(
        f"{path}, line {number}: broken JSON ({reason_of(error)}). Each line must be one JSON object; "
        f"mend or remove this line{python_form(line)}: {excerpt(line)}"
    )


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    if isinstance(value, dict):
        return f"an object with the keys {', '.join(map(repr, value)) or 'none'}"
    return {list: "a list", str: "a text", type(None): "null", bool: "true or false"}.get(
        type(value), "a number"
    )


def _rows_of_values(path: Path, split: str) -> Iterator[tuple[int, Row]]:
    with open_text(path) as file:
        values = JsonValues(path, file)
        opening = values.next_mark()
        if opening == "{":
            yield from _rows_of_object(path, values, split)
        elif opening == "[":
            yield from _numbered(path, values.elements())
            values.finish()
        elif opening:
            raise DataError(
                f"{path}: expected a JSON list of objects, or one object a line; found "
                f"{kind(values.value())}."
            )


def _numbered(path: Path, elements: Iterable[Any], first: int = 1) -> Iterator[tuple[int, Row]]:
    for number, element in enumerate(elements, start=first):
        if not isinstance(element, dict):
            raise DataError(
                f"{path}, row {number}: expected a JSON object, found {kind(element)}: "
                f"{excerpt(json.dumps(element, default=str, ensure_ascii=False))}"
            )
        # As the hub's data viewer hands rows out.
        yield number, element["row"] if {"row", "row_idx"} <= element.keys() else element


def _rows_of_object(path: Path, values: JsonValues, split: str) -> Iterator[tuple[int, Row]]:
    """Rows in, or from, the object that comes: a list in it, a list for each split, or the object itself."""
    asked = split.split("+")
    read: list[str] = []
    others: Row = {}
    members: Row = {}
    count = 0
    for key in values.names():
        rows_come = values.begins_rows()
        whole = key in LISTS and not (read or others)
        if rows_come and (whole or any(split_named(key, one) for one in asked)):
            for place, row in _numbered(path, values.elements(), count + 1):
                count = place
                yield place, row
            read.append(key)
            others = dict.fromkeys(others, ())  # let go of what was not asked for
            continue
        value = values.value()
        if rows_come and split_named(key):
            others[key] = () if read else value  # held for the case that it is all there is
        elif not read:
            members[key] = value
    if read:
        if values.next_mark() == "{":
            raise DataError(
                f"{path}: several objects, each with rows under '{read[0]}'. Give one list of rows, or one "
                "row a line."
            )
        values.finish()
        if others:
            for one in asked:
                choose_split((*read, *others), one, f"'{path}'")
    elif others:
        # One split is the file's rows, whatever it is called; of several one is asked for.
        key = next(iter(others)) if len(others) == 1 else choose_split(others, split, f"'{path}'")
        values.finish()
        yield from _numbered(path, others[key])
    elif values.next_mark() == "{":
        yield 1, members
        yield from enumerate(_objects(path, values), start=2)
    else:
        values.finish()
        yield from enumerate(_unfolded(members) or (members,), start=1)


def _objects(path: Path, values: JsonValues) -> Iterator[Row]:
    while values.next_mark():
        row = values.value()
        if not isinstance(row, dict):
            raise DataError(f"{path}: expected a JSON object after the others, found {kind(row)}.")
        yield row


def _is_lone_row(whole: Row) -> bool:
    """Whether an object is one row, by what its keys are called: its steps or options may be objects."""
    return not {"question", "problem", "query", "prompt", "instruction"}.isdisjoint(map(str.lower, whole))


def _unfolded(whole: Row) -> Iterable[Row] | None:
    """The rows that one object holds by column, by id or under some name; None where it is one row itself."""
    columns, cells = whole.get("columns"), whole.get("data")
    if isinstance(columns, list) and isinstance(cells, list) and all(isinstance(row, list) for row in cells):
        return (dict(zip(columns, row, strict=False)) for row in cells)
    if len(whole) > 1 and all(isinstance(value, list) for value in whole.values()):
        # A lone row of chat messages holds lists too, but of objects alone.
        texts = any(value and not any(isinstance(cell, dict) for cell in value) for value in whole.values())
        if texts and len({len(value) for value in whole.values()}) == 1:
            return (dict(zip(whole, row, strict=True)) for row in zip(*whole.values(), strict=True))
    elif len(whole) > 1 and all(isinstance(value, dict) for value in whole.values()):
        # pandas: {"question": {"0": …}}
        if all(key.isdecimal() for value in whole.values() for key in value):
            places = dict.fromkeys(key for value in whole.values() for key in value)
            return ({name: value.get(place) for name, value in whole.items()} for place in places)
        if not _is_lone_row(whole):
            return ({"id": key, **value} for key, value in whole.items())
    if _is_lone_row(whole):
        return None
    lists = [value for value in whole.values() if _is_rows(value) and len(value) > 1]
    # Objects with these keys are messages or choices, which a row holds.
    if len(lists) == 1 and not any({"role", "from", "label"} & element.keys() for element in lists[0]):
        return cast("list[Row]", lists[0])
    return None
