"""Files of rows, by the ending of their names; each row comes with the place where it stands.

    .jsonl .ndjson .json    JSON in any of the ways of `codi.data.json_files`
    .csv .tsv               a header, then one row per record
    .parquet                one row per record
    .arrow .feather         the same
    .txt                    iCoT's format: `question||<<..>> <<..>> #### answer`, one per line

The text forms may be compressed (.gz, .bz2, .xz, .zst after the ending). Text is UTF-8, with or without a
byte order mark, or UTF-16 with one. Numbers come exactly as the file writes them. Rows are read while they
are gone through, so that who stops early has not read the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from codi.data.columnar import read_arrow, read_parquet
from codi.data.json_files import read_json
from codi.data.rows import Row, Rows
from codi.data.tables import read_csv, read_tsv
from codi.data.text_files import COMPRESSED, excerpt, lines_of
from codi.errors import DataError

__all__ = ["READERS", "Row", "Rows", "data_ending", "file_stem", "read_file"]


def read_file(path: Path, split: str = "train") -> Rows:
    """The rows of `path`, in the form its ending names.

    Args:
        path: the file.
        split: which of the lists to read where the file holds one for each split; 'a+b' reads two. A file
            that holds one is read whatever this says.

    Raises:
        DataError: the file is missing, empty, of an unknown form, or broken; also while the rows are gone
            through. The message names the line.
    """
    if path.is_dir():
        raise DataError(f"'{path}' is a folder. Give the path of one file ({', '.join(READERS)}).")
    if not path.exists():
        raise DataError(f"The file '{path}' does not exist. Check the path.")
    reader = READERS.get(data_ending(path.name) or "")
    if reader is None:
        raise DataError(_unknown_form(path))
    rows = reader(path, split)
    first = next(rows.rows, None)
    if first is None:
        raise DataError(f"The file '{path}' is empty: it holds no rows. Give a file with at least one.")
    return replace(rows, rows=chain([first], rows.rows))


def data_ending(name: str) -> str | None:
    """The ending of `name` that names a form of data (`.jsonl` of `train.jsonl.gz`), or None."""
    name = name.lower()
    for packed in COMPRESSED:
        # Parquet and Arrow compress inside: a packed one is not read.
        if name.endswith(packed) and Path(name[: -len(packed)]).suffix in _TEXT_FORMS:
            name = name.removesuffix(packed)
            break
    ending = Path(name).suffix
    return ending if ending in READERS else None


def file_stem(path: Path) -> str:
    """The file's name without the endings that say its form: 'train' of `train.jsonl.gz`."""
    ending = data_ending(path.name)
    if ending is None or path.suffix.lower() == ending:
        return path.stem
    return Path(path.stem).stem


def _unknown_form(path: Path) -> str:
    ending = path.suffix.lower()
    advice = {
        ".xlsx": " Save the sheet as 'CSV UTF-8'.",
        ".xls": " Save the sheet as 'CSV UTF-8'.",
        ".ods": " Save the sheet as CSV, in UTF-8.",
        ".zip": " Unpack it.",
        ".tar": " Unpack it.",
        ".tgz": " Unpack it.",
        **dict.fromkeys(COMPRESSED, f" Unpack it (only {', '.join(_TEXT_FORMS)} are read packed)."),
    }.get(ending, "")
    return (
        f"The file '{path}' has the ending '{path.suffix}', which names no known format.{advice} "
        f"Known: {', '.join(READERS)}."
    )


def _read_icot(path: Path, split: str = "") -> Rows:
    return Rows(("question", "rationale", "answer"), _icot_rows(path), "line")


def _icot_rows(path: Path) -> Iterator[tuple[int, Row]]:
    for number, line in lines_of(path):
        question, bar, rest = line.rstrip("\n").partition("||")
        rationale, mark, answer = rest.rpartition("####")
        if not bar or not mark or "||" in rest:
            missing = "'||' more than once" if "||" in rest else f"no '{'####' if bar else '||'}'"
            raise DataError(
                f"{path}, line {number}: expected `question||<<..>> <<..>> #### answer`, found {missing}: "
                f"{excerpt(line)}"
            )
        yield number, {"question": question, "rationale": rationale.strip(), "answer": answer.strip()}


READERS: dict[str, Callable[[Path, str], Rows]] = {
    ".jsonl": read_json,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
    ".txt": _read_icot,
    ".ndjson": read_json,
    ".arrow": read_arrow,
    ".feather": read_arrow,
}
"""Reader by ending: takes the path and the split asked for. A new form is one new entry."""

_TEXT_FORMS = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".ndjson")
