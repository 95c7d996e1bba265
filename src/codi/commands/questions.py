"""The questions that a command is asked: from the command line, a file, or standard input."""

from __future__ import annotations

import sys
from pathlib import Path

from codi.commands.console import note
from codi.data.text_files import open_text, split_lines
from codi.errors import DataError, UsageError


def questions_asked(question: str | None, file: Path | None, column: str | None = None) -> list[str]:
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
        return _from_lines(sys.stdin.read().removeprefix("\ufeff"), "standard input")
    return questions_of(file, column)


def questions_of(file: Path, column: str | None = None) -> list[str]:
    """The questions of a text file, one a line, or of what holds rows.

    Rows stand in a file of any form that `codi.data.files` reads but .txt, in a folder, or in the files
    that a pattern matches; of several splits the test split is asked. column: of the question, where it is
    not recognised. Raises DataError.
    """
    from codi.data.files import data_ending

    if file.exists() and not file.is_dir() and data_ending(file.name) in {None, ".txt"}:
        with open_text(file) as text:
            return _from_lines(text.read(), f"'{file}'")
    return _from_rows(str(file), column)


def _from_lines(text: str, where: str) -> list[str]:
    lines = [line.strip() for line in split_lines(text.rstrip())]
    if lines == [""]:
        raise DataError(f"There is no question in {where}: it is empty. Write one question a line.")
    for number, line in enumerate(lines, start=1):
        if not line:
            raise DataError(f"The question in line {number} of {where} is empty. Write one question a line.")
    return lines


def _from_rows(source: str, column: str | None) -> list[str]:
    from codi.data.sources import is_data_path, load_questions

    if not is_data_path(source):
        raise DataError(f"The file '{source}' does not exist. Check the path.")
    return load_questions(source, column=column)
