"""The two files of an annotation, which are its whole memory.

    OUTPUT.jsonl             id, question, steps, answer: a training file for `codi train data.train=...`
    OUTPUT.rejected.jsonl    id, question, answer, reason, response: wrong, unreadable or refused ones

A row is on the disk before the next one is judged, so a run that is killed pays again only for what was under
way. A question is known by its text and its answer.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from codi.errors import DataError
from codi.evaluation.annotation_verdict import kind_of
from codi.storage import write_whole

Key = tuple[str, str]
"""Question and answer."""


class Files:
    """The two files, opened for adding; a line that a kill cut short is removed."""

    def __init__(self, output: Path) -> None:
        self.kept, self.rejected = output, rejected_file(output)
        self._kept_keys = {_key(row) for row in _rows_of(self.kept)}
        rows = _rows_of(self.rejected)
        self._rejected = {_key(row): row for row in rows if _key(row) not in self._kept_keys}
        self._failure: DataError | None = None
        self._stale = len(self._rejected) < len(rows)  # some were asked again since
        self.close()

    @property
    def done(self) -> set[Key]:
        """The questions that stand in one of the files."""
        return self._kept_keys | self._rejected.keys()

    @property
    def sizes(self) -> tuple[int, int]:
        """Rows kept and set apart, in all runs."""
        return len(self._kept_keys), len(self._rejected)

    def reasons(self) -> Counter[str]:
        """How many questions are set apart for which kind of reason."""
        return Counter(kind_of(str(row.get("reason", ""))) for row in self._rejected.values())

    def rejected_for(self, kinds: Iterable[str] | None) -> set[Key]:
        """The questions set apart for one of these kinds of reason; None: for any."""
        wanted = None if kinds is None else set(kinds)
        return {
            key
            for key, row in self._rejected.items()
            if wanted is None or kind_of(str(row.get("reason", ""))) in wanted
        }

    def write(self, row: dict[str, Any], *, kept: bool) -> None:
        """Add a row, and see it on the disk. Raises DataError when the disk refuses, now and ever after."""
        if self._failure is not None:  # behind half a line nothing could be read
            raise self._failure
        file = self.kept if kept else self.rejected
        try:
            with file.open("ab") as opened:
                opened.write(_line(row))
                opened.flush()
                os.fsync(opened.fileno())
        except OSError as error:
            self._failure = DataError(f"{file} could not be written: {error}. What is in it is kept.")
            raise self._failure from error
        self._stale = self._rejected.pop(_key(row), None) is not None or self._stale
        if kept:
            self._kept_keys.add(_key(row))
        else:
            self._rejected[_key(row)] = row

    def close(self) -> None:
        """Take out of the rejected file what was asked again: a question stands once, in one of the files."""
        if self._stale and self._failure is None:
            write_whole(self.rejected, b"".join(map(_line, self._rejected.values())).decode("utf-8"))
            self._stale = False


def rejected_file(output: Path) -> Path:
    """Where what is set apart goes."""
    return output.with_suffix(".rejected.jsonl")


def _key(row: dict[str, Any]) -> Key:
    return row["question"], row["answer"]


def _line(row: dict[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _rows_of(file: Path) -> list[dict[str, Any]]:
    """The rows of a file; its last line is removed where a kill cut it short."""
    if not file.exists():
        return []
    content = file.read_bytes()
    whole, end, rest = content.rpartition(b"\n")
    if rest.strip() and _is_row(rest):  # whole, but for the line break that an editor left out
        with file.open("ab") as opened:
            opened.write(b"\n")
        whole = content
    elif rest:
        with file.open("r+b") as opened:
            opened.truncate(len(whole) + len(end))
    rows = []
    for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not (isinstance(row["question"], str) and isinstance(row["answer"], str)):
                raise ValueError("question and answer must be text")
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(
                f"{file}, line {number} is none of this command's ({error}): {line[:80]!r}. "
                "Choose another --output, or mend it."
            ) from error
        rows.append(row)
    return rows


def _is_row(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
