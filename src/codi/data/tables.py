"""Tables in text: commas, tabs, semicolons or bars between the values, as spreadsheets write them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from codi.data.rows import Row, Rows
from codi.data.text_files import excerpt, open_text
from codi.errors import DataError

# The longest value: as long as a C long may be everywhere. The reader's own limit of 131,072 characters would
# call a long rationale a fault of the file.
_LONGEST_VALUE = 2**31 - 1
_HEAD = 1 << 16
_RECORDS_LOOKED_AT = 20
# 'sep=;' in a first line of its own tells a spreadsheet what parts the values.
_STATED = re.compile(r'\ufeff?"?sep=(.)"?[\r\n]*')


def read_csv(path: Path, split: str = "") -> Rows:
    """The rows of a table with a header; what parts its values is found out from it."""
    return _read_table(path, ",;\t|")


def read_tsv(path: Path, split: str = "") -> Rows:
    """The rows of a table with a header; tabs part its values unless another mark fits better."""
    return _read_table(path, "\t,;|")


def _read_table(path: Path, delimiters: str) -> Rows:
    records = _records(path, _delimiter(path, delimiters))
    line, header = next(records, (1, []))
    names = [name for name in header if name.strip()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"{path}, line {line}: the column {', '.join(map(repr, twice))} occurs twice in the header. "
            "Rename one."
        )
    return Rows(tuple(names), _rows(path, header, records), "line")


def _rows(
    path: Path, header: list[str], records: Iterator[tuple[int, list[str]]]
) -> Iterator[tuple[int, Row]]:
    width = len(header)
    named = [(place, name) for place, name in enumerate(header) if name.strip()]
    # pandas writes its index into a first column without a name.
    nameless = [place for place, name in enumerate(header) if place and not name.strip()]
    for line, values in records:
        if len(values) > width and any(map(str.strip, values[width:])):
            raise DataError(
                f"{path}, line {line}: more values than the {width} columns of the header. Put values with "
                f"commas in double quotes: {_shown(values)}"
            )
        for place in nameless:
            if place < len(values) and values[place].strip():
                raise DataError(
                    f"{path}, line {line}: value {place + 1} stands in a column without a name. Name the "
                    f"column in the header, or put values with commas in double quotes: {_shown(values)}"
                )
        if len(named) == width:
            yield line, dict(zip(header, values, strict=False))
        else:
            yield line, {name: values[place] for place, name in named if place < len(values)}


def _shown(values: list[str]) -> str:
    return excerpt(" | ".join(values))


def _records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The records that hold anything, header first, each with the line where it starts (it may span more)."""
    csv.field_size_limit(_LONGEST_VALUE)
    line = 1
    with open_text(path, newline="") as file:
        # strict: a quote that is never closed would swallow the rest of the file as one value.
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            for values in reader:
                stated = line == 1 and _STATED.fullmatch(delimiter.join(values))
                if any(map(str.strip, values)) and not stated:
                    yield line, values
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{path}, line {line}: broken CSV ({error}). Mend the row that starts there: a value that "
                "begins with a double quote must end with one, and quotes inside it are doubled."
            ) from error


def _delimiter(path: Path, delimiters: str) -> str:
    """What parts the values: the mark that gives the header the most names and every row as many values.

    Marks inside quotes part nothing, so quoted values are never taken for columns. Where two marks do equally
    well, the first of `delimiters` does.
    """
    with open_text(path, newline="") as file:
        head = file.read(_HEAD)
    stated = _STATED.match(head)
    if stated:
        return stated[1]
    return max(delimiters, key=lambda delimiter: _fit(head, delimiter))


def _fit(head: str, delimiter: str) -> tuple[bool, int]:
    """Whether `delimiter` gives all records in `head` equally many values (2 or more); and the header's."""
    reader = csv.reader(io.StringIO(head, newline=""), delimiter=delimiter, strict=True)
    records: list[list[str]] = []
    even = True
    try:
        records.extend(islice(filter(None, reader), _RECORDS_LOOKED_AT))
    except csv.Error:
        # A quote that is open where the head was cut off is no fault.
        even = len(head) == _HEAD and reader.line_num >= head.count("\n")
    else:
        if len(head) == _HEAD and 1 < len(records) < _RECORDS_LOOKED_AT:
            records.pop()  # it may be cut off
    columns = len(records[0]) if records else 0
    return even and columns > 1 and all(len(record) == columns for record in records), columns
