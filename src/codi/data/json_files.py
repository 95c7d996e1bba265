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
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO

from codi.data.rows import Row, Rows
from codi.data.splits import choose_split, split_named
from codi.data.text_files import excerpt, lines_of, open_text
from codi.errors import DataError

LISTS = (
    "data", "dataset", "examples", "rows", "instances", "items", "problems", "questions", "records",
    "results", "samples",
)  # fmt: skip
"""Names under which an object holds the list of all rows."""

# Decimal keeps numbers as written; float would round the large ones. Made once: it costs more than a row.
_DECODER = json.JSONDecoder(parse_float=Decimal)
_FAULTS = (ValueError, ArithmeticError, RecursionError)
_SPACE = re.compile(r"[ \t\n\r]*")
_CHUNK = 1 << 16
# What is read to tell the forms apart stays bounded: of a longer first line the values are read one by one.
_LONGEST_LINE = 1 << 18
# A value that the end of a piece cuts off is found faulty at most so far before it: '-Infinit', '\\ud83d\\u'.
_CUT = 16


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
    if not first.lstrip("\ufeff \t").startswith("{"):
        return False
    if second is not None and second.lstrip("\ufeff \t").startswith("{"):
        return True
    try:
        whole = _DECODER.decode(first)
    except _FAULTS:
        return False  # one object over several lines; or a fault, whose place is told when it is read so
    lists = [value for key, value in whole.items() if key in LISTS or split_named(key)]
    return _unfolded(whole) is None and not any(map(_is_rows, lists))


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and (not value or isinstance(value[0], dict))


def _rows_of_lines(path: Path) -> Iterator[tuple[int, Row]]:
    decode = _DECODER.decode
    for number, line in lines_of(path):
        try:
            row = decode(line)
        except _FAULTS as error:
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
        return _DECODER.decode(line)
    except _FAULTS as error:
        raise _broken_line(path, number, line, error) from error


def _broken_line(path: Path, number: int, line: str, error: Exception) -> DataError:
    return DataError(
        f"{path}, line {number}: broken JSON ({_reason(error)}). Each line must be one JSON object; mend or "
        f"remove this line{_python_form(line)}: {excerpt(line)}"
    )


def _python_form(text: str) -> str:
    return " (single quotes are Python's; `json.dumps` writes JSON)" if text.startswith("{'") else ""


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return "a number out of all bounds" if isinstance(error, ArithmeticError) else str(error)


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    if isinstance(value, dict):
        return f"an object with the keys {', '.join(map(repr, value)) or 'none'}"
    return {list: "a list", str: "a text", type(None): "null", bool: "true or false"}.get(
        type(value), "a number"
    )


class _Values:
    """The JSON values of a file, one after another, with no more of it in memory than one value needs."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file = path, file
        self._text, self._at, self._ended = "", 0, False
        self._lines_before, self._whole = 0, True  # of the text that was let go; whether none was

    def next_mark(self) -> str:
        """The next character that is no space, left where it is; '' at the end of the file."""
        self._at = self._past_space(self._at)
        return self._text[self._at : self._at + 1]

    def begins_rows(self) -> bool:
        """Whether a list comes that holds objects, or nothing."""
        if self.next_mark() != "[":
            return False
        inside = self._past_space(self._at + 1)
        return self._text[inside : inside + 1] in ("{", "]")

    def skip(self, mark: str) -> None:
        """Pass over `mark`. Raises DataError when something else comes."""
        if self.next_mark() != mark:
            raise self._broken(f"expected '{mark}'", self._at)
        self._at += 1

    def value(self) -> Any:
        """The next value, whole."""
        self._release()
        self.next_mark()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - _CUT
                if not (cut and self._grow()):
                    raise self._broken(error.msg, error.pos) from error
            except _FAULTS as error:
                raise self._broken(_reason(error), self._at) from error
            else:
                # A number that ends where the text read so far ends may go on after it.
                if end < len(self._text) or isinstance(value, dict | list | str) or not self._grow():
                    self._at = end
                    return value

    def elements(self) -> Iterator[Any]:
        """The values of the list that comes."""
        yield from self._separated("[", "]", self.value)

    def names(self) -> Iterator[str]:
        """The keys of the object that comes; the value after each must be taken before the next."""

        def key() -> str:
            name = self.value()
            if not isinstance(name, str):
                raise self._broken("expected a key in double quotes", self._at)
            self.skip(":")
            return name

        yield from self._separated("{", "}", key)

    def _separated(self, opening: str, closing: str, item: Any) -> Iterator[Any]:
        self.skip(opening)
        if self.next_mark() == closing:
            self._at += 1
            return
        while True:
            yield item()
            mark = self.next_mark()
            if mark not in {",", closing}:
                raise self._broken(f"expected ',' or '{closing}'", self._at)
            self._at += 1
            if mark == closing:
                return

    def finish(self) -> None:
        """Raises DataError when anything is left."""
        if self.next_mark():
            raise self._broken("more after its end", self._at)

    def _past_space(self, at: int) -> int:
        """The first place from `at` on that is no space; the text's length at the end of the file."""
        while True:
            at = _SPACE.match(self._text, at).end()  # type: ignore[union-attr]  # it matches nothing too
            if at < len(self._text) or not self._grow():
                return at

    def _grow(self) -> bool:
        """Read on: as much again as is held, so that long values stay cheap. False at the end of the file."""
        more = "" if self._ended else self._file.read(max(_CHUNK, len(self._text) - self._at))
        self._ended = not more
        self._text += more
        return bool(more)

    def _release(self) -> None:
        """Let go of the text that was taken."""
        if self._at >= _CHUNK:
            self._lines_before += self._text.count("\n", 0, self._at)
            self._text, self._at, self._whole = self._text[self._at :], 0, False

    def _broken(self, reason: str, at: int) -> DataError:
        line = self._lines_before + self._text.count("\n", 0, at) + 1
        start = self._text.rfind("\n", 0, at) + 1
        column = f" at column {at - start + 1}" if start or self._whole else ""
        text = self._text[max(start, at - 40) : at + 400]
        return DataError(
            f"{self._path}, line {line}: broken JSON ({reason}{column}). Mend the file there"
            f"{_python_form(text)}: {excerpt(text)}"
        )


def _rows_of_values(path: Path, split: str) -> Iterator[tuple[int, Row]]:
    with open_text(path) as file:
        values = _Values(path, file)
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


def _rows_of_object(path: Path, values: _Values, split: str) -> Iterator[tuple[int, Row]]:
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


def _objects(path: Path, values: _Values) -> Iterator[Row]:
    while values.next_mark():
        row = values.value()
        if not isinstance(row, dict):
            raise DataError(f"{path}: expected a JSON object after the others, found {kind(row)}.")
        yield row


def _unfolded(whole: Row) -> Iterable[Row] | None:
    """The rows that one object holds by column or by id; None where it is one row itself."""
    columns, cells = whole.get("columns"), whole.get("data")
    if isinstance(columns, list) and isinstance(cells, list) and all(isinstance(row, list) for row in cells):
        return (dict(zip(columns, row, strict=False)) for row in cells)
    if len(whole) > 1 and all(isinstance(value, list) for value in whole.values()):
        # A lone row of chat messages holds lists too, but of objects alone.
        texts = any(value and not any(isinstance(cell, dict) for cell in value) for value in whole.values())
        if texts and len({len(value) for value in whole.values()}) == 1:
            return (dict(zip(whole, row, strict=True)) for row in zip(*whole.values(), strict=True))
    elif len(whole) > 1 and all(isinstance(value, dict) for value in whole.values()):
        if all(
            key.isdecimal() for value in whole.values() for key in value
        ):  # pandas: {"question": {"0": …}}
            places = dict.fromkeys(key for value in whole.values() for key in value)
            return ({name: value.get(place) for name, value in whole.items()} for place in places)
        return ({"id": key, **value} for key, value in whole.items())
    return None
