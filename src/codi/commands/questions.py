"""The questions that a command is asked: from the command line, a file, or standard input."""

from __future__ import annotations

import sys
from pathlib import Path

from codi.commands.console import note
from codi.errors import DataError, UsageError

TABLES = {".jsonl", ".json", ".csv", ".parquet"}


def questions_asked(question: str | None, file: Path | None) -> list[str]:
    """The questions asked. Raises UsageError or DataError when there is none, or one is empty."""
    if question is not None and file is not None:
        raise UsageError("A question and a --file were given. Give one of them.")
    if question is not None:
        if not question.strip():
            raise UsageError("The question is empty. Write it in quotes after the checkpoint.")
        return [question]
    if file is None:
        if sys.stdin.isatty():
            note("One question a line; end with Ctrl-D.")
        return _from_lines(sys.stdin.read(), "standard input")
    return questions_of(file)


def questions_of(file: Path) -> list[str]:
    """The questions of a text file, one a line, or of a table with a column `question`. Raises DataError."""
    if file.suffix.lower() in TABLES:
        return _from_table(file)
    if not file.is_file():
        raise DataError(f"The file '{file}' does not exist. Check the path.")
    try:
        return _from_lines(file.read_text(encoding="utf-8-sig"), f"'{file}'")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The file '{file}' cannot be read as UTF-8 text: {error}.") from error


def _from_lines(text: str, where: str) -> list[str]:
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if not lines:
        raise DataError(f"There is no question in {where}: it is empty. Write one question a line.")
    for number, line in enumerate(lines, start=1):
        if not line:
            raise DataError(f"The question in line {number} of {where} is empty. Write one question a line.")
    return lines


def _from_table(file: Path) -> list[str]:
    from codi.data.files import read_file

    rows = read_file(file)
    if "question" not in rows.columns:
        found = ", ".join(map(repr, rows.columns))
        raise DataError(f"'{file}' has no column 'question'. Columns found: {found}. Rename one.")
    questions = []
    for number, row in rows.rows:
        value = row.get("question")
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{file}, {rows.unit} {number}: empty question. Mend or remove it.")
        questions.append(value)
    return questions
