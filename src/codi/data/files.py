"""Readers of file formats: each gives the rows of a file with the place where each row stands.

    .jsonl      one object per line
    .json       a list of objects
    .csv        a header, then one row per record
    .parquet    one row per record
    .txt        iCoT's format: `question||<<..>> <<..>> #### answer`, one per line

Text is UTF-8, with or without a byte order mark. Numbers come exactly as the file writes them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from codi.errors import DataError

Row = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """The rows of one file or split.

    Attributes:
        columns: every column that occurs, in order of appearance.
        rows: number of the row's place (from 1), and its values.
        unit: what the number counts: 'line' or 'row'.
    """

    columns: tuple[str, ...]
    rows: list[tuple[int, Row]]
    unit: str

    @classmethod
    def of(cls, rows: Iterable[tuple[int, Row]], unit: str) -> Rows:
        """Gather `rows` and the union of their columns."""
        gathered = list(rows)
        return cls(tuple(dict.fromkeys(name for _, row in gathered for name in row)), gathered, unit)


def read_file(path: Path) -> Rows:
    """Read every row of `path` in the format its ending names.

    Raises:
        DataError: the file is missing, empty, of an unknown format, or broken; the message names the line.
    """
    if path.is_dir():
        raise DataError(f"'{path}' is a folder. Give the path of one file ({', '.join(READERS)}).")
    if not path.exists():
        raise DataError(f"The file '{path}' does not exist. Check the path.")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"The file '{path}' has the ending '{path.suffix}', which names no known format. "
            f"Known: {', '.join(READERS)}."
        )
    with _readable(path):
        rows = reader(path)
    if not rows.rows:
        raise DataError(f"The file '{path}' is empty: it holds no rows. Give a file with at least one.")
    return rows


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what the operating system and the decoder say into one message."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(
            f"The file '{path}' is not UTF-8 text ({error.reason}). Convert it to UTF-8."
        ) from error
    except OSError as error:
        raise DataError(f"The file '{path}' cannot be read: {error.strerror or error}.") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, numbered from 1. A byte order mark is no part of the text."""
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line


def _parse_json(text: str) -> Any:
    # Decimal keeps numbers exactly as written; float would round the large ones.
    return json.loads(text, parse_float=Decimal)


def _read_jsonl(path: Path) -> Rows:
    def rows() -> Iterator[tuple[int, Row]]:
        for number, line in _lines(path):
            try:
                row = _parse_json(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{path}, line {number}: broken JSON ({_reason(error)}). Each line must be one JSON "
                    "object; mend or remove this line."
                ) from error
            if not isinstance(row, dict):
                raise DataError(
                    f"{path}, line {number}: expected a JSON object with a question and an answer, found "
                    f"{_kind(row)}."
                    + (" A file with one JSON list must end in .json." if isinstance(row, list) else "")
                )
            yield number, row

    return Rows.of(rows(), "line")


def _read_json(path: Path) -> Rows:
    text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        return Rows((), [], "row")
    try:
        value = _parse_json(text)
    except (ValueError, RecursionError) as error:
        at = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        extra = isinstance(error, json.JSONDecodeError) and error.msg == "Extra data"
        raise DataError(
            f"{path}{at}: broken JSON ({_reason(error)})."
            + (" A file with one object per line must end in .jsonl." if extra else " Mend the file.")
        ) from error
    if not isinstance(value, list):
        raise DataError(f"{path}: expected a JSON list of objects, found {_kind(value)}.")
    for number, row in enumerate(value, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number}: expected a JSON object, found {_kind(row)}.")
    return Rows.of(enumerate(value, start=1), "row")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return f"an object with the keys {', '.join(map(repr, value)) or 'none'}"
    return {list: "a list", str: "a text", type(None): "null", bool: "true or false"}.get(
        type(value), "a number"
    )


def _read_csv(path: Path) -> Rows:
    columns: list[str] = []
    rows: list[tuple[int, Row]] = []
    # Values may span lines: a row is named by its first.
    line = 1
    with path.open(encoding="utf-8-sig", newline="") as file:
        # strict: a quote that is never closed would swallow the rest of the file as one value.
        reader = csv.reader(file, strict=True)
        try:
            for values in reader:
                if values and not columns:
                    columns = values
                    twice = sorted({name for name in columns if columns.count(name) > 1})
                    if twice:
                        raise DataError(
                            f"{path}, line {line}: the column {', '.join(map(repr, twice))} occurs twice in "
                            "the header. Rename one."
                        )
                elif len(values) > len(columns):
                    raise DataError(
                        f"{path}, line {line}: more values than the {len(columns)} columns of the header. "
                        "Put values with commas in double quotes."
                    )
                elif values:
                    rows.append((line, dict(zip(columns, values, strict=False))))
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{path}, line {line}: broken CSV ({error}). Mend the row that starts there."
            ) from error
    return Rows(tuple(columns), rows, "line")


def _read_parquet(path: Path) -> Rows:
    import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
    import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]

    if path.stat().st_size == 0:
        return Rows((), [], "row")
    try:
        table = pq.ParquetFile(path).read()
    except pa.ArrowException as error:
        raise DataError(f"The file '{path}' is not a readable Parquet file: {error}.") from error
    return Rows(tuple(table.column_names), list(enumerate(table.to_pylist(), start=1)), "row")


def _read_icot(path: Path) -> Rows:
    def rows() -> Iterator[tuple[int, Row]]:
        for number, line in _lines(path):
            question, bar, rest = line.rstrip("\r\n").partition("||")
            rationale, mark, answer = rest.rpartition("####")
            if not bar or not mark or "||" in rest:
                missing = "'||' more than once" if "||" in rest else f"no '{'####' if bar else '||'}'"
                raise DataError(
                    f"{path}, line {number}: expected `question||<<..>> <<..>> #### answer`, found {missing}."
                )
            yield number, {"question": question, "rationale": rationale.strip(), "answer": answer.strip()}

    return Rows.of(rows(), "line")


READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_icot,
}
