"""Predictions as JSON lines: written while they are made, whole under their name, read back by id."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from codi.errors import DataError, UsageError

Prediction = dict[str, Any]
"""One question: id, question, gold, text, value, correct, scorer, thoughts, passes, answer_tokens, finished.
A value of None is an answer that the scorer could not read."""


class PredictionWriter(AbstractContextManager["PredictionWriter"]):
    """Writes predictions as JSON lines to `<path>.partial`, which becomes `<path>` when all are there.

    A file under its final name is therefore always complete, and an interrupted run leaves its finished rows
    in the partial file.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        """Refuses to touch earlier predictions, finished or partial, unless `overwrite`.

        Raises:
            UsageError: predictions are already there.
        """
        self.path = path
        self.partial = path.with_name(path.name + ".partial")
        for earlier in (self.path, self.partial):
            if earlier.exists() and not overwrite:
                raise UsageError(
                    f"Predictions are to be written to '{path}', but '{earlier}' already exists. "
                    "Choose another output, move it away, or allow overwriting."
                )
        self._file: IO[str] | None = None
        self._rows = 0

    def __enter__(self) -> PredictionWriter:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Half of a surrogate pair has no UTF-8 form; its backslash form is also its JSON escape.
            self._file = self.partial.open("w", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise self._failure(error) from error
        return self

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append `rows` and hand them to the operating system at once.

        Raises:
            DataError: the disk refuses; rows written before stay in the partial file.
        """
        assert self._file is not None, "write() belongs inside the with block"
        try:
            self._file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            self._file.flush()
        except OSError as error:
            raise self._failure(error) from error
        self._rows += len(rows)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        try:
            # Closing flushes again: after a failed write it fails the same way, and the first error counts.
            self._file.close()
            if kind is None:
                self.partial.replace(self.path)
            elif not self._rows:  # an empty file would only stand in the way of the next attempt
                self.partial.unlink()
        except OSError as failure:
            if kind is None:
                raise self._failure(failure) from failure

    def _failure(self, error: OSError) -> DataError:
        return DataError(
            f"Predictions could not be written to '{self.path}': {error.strerror or error}. "
            f"Rows already finished stay in '{self.partial}'. Free some space or choose another output."
        )


def read_predictions(path: Path) -> dict[str, Prediction]:
    """The rows of a file by question id. Raises DataError for a file that is not one of predictions."""
    if not path.is_file():
        raise DataError(
            f"There is no predictions file '{path}'. `codi eval --predictions FOLDER` writes them."
        )
    text = path.read_text(encoding="utf-8").removesuffix("\n")
    rows: list[Prediction] = []
    for number, line in enumerate(text.split("\n") if text else [], start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"'{path}', line {number}: not JSON ({error.msg}).") from error
        lacking = [name for name in ("id", "question", "gold", "correct") if name not in row]
        if lacking:
            raise DataError(
                f"'{path}', line {number}: a prediction needs '{lacking[0]}', found {', '.join(sorted(row))}."
            )
        rows.append(row)
    if not rows:
        raise DataError(f"'{path}' is empty.")
    return by_id(rows, f"'{path}', line")


def by_id(rows: Iterable[Prediction], where: str) -> dict[str, Prediction]:
    """Rows by question id. Raises DataError, naming the place as `where` N, for an id that stands twice."""
    found: dict[str, Prediction] = {}
    for number, row in enumerate(rows, start=1):
        if row["id"] in found:
            raise DataError(f"{where} {number}: the id '{row['id']}' was there before.")
        found[row["id"]] = row
    return found
