"""The rows of a source, read one after another: nothing is held but the row under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from codi.errors import DataError

Row = dict[str, Any]

PEEKED = 1_000
"""Rows that are looked at to know the columns of a form without a header."""


@dataclass(frozen=True)
class Rows:
    """The rows of one file or split. They can be gone through once.

    Attributes:
        columns: the columns, in order of appearance: all of them where the form has a header or schema, else
            those of the first `PEEKED` rows (a later row may have more).
        rows: number of the row's place (from 1), and its values; read while they are gone through.
        unit: what the number counts: 'line' or 'row'.
    """

    columns: tuple[str, ...]
    rows: Iterator[tuple[int, Row]]
    unit: str

    @classmethod
    def peeked(cls, rows: Iterable[tuple[int, Row]], unit: str) -> Rows:
        """Rows of a form that does not say its columns: those of the first ones are taken."""
        reader = AheadReader(rows)
        columns = tuple(dict.fromkeys(name for _, row in reader.ahead() for name in row))
        return cls(columns, reader, unit)


class AheadReader(Iterator[tuple[int, Row]]):
    """Rows that can be looked at before they are gone through.

    A fault met while looking ahead is raised when its row is reached, so that who stops before never meets
    it.
    """

    def __init__(self, rows: Iterable[tuple[int, Row]]) -> None:
        self._rows = iter(rows)
        self._seen: deque[tuple[int, Row]] = deque()
        self._fault: DataError | None = None

    def __next__(self) -> tuple[int, Row]:
        if self._seen:
            return self._seen.popleft()
        if self._fault is not None:
            raise self._fault
        return next(self._rows)

    def ahead(self) -> list[tuple[int, Row]]:
        """The next `PEEKED` rows; they are still to come."""
        try:
            while self._fault is None and len(self._seen) < PEEKED:
                self._seen.append(next(self._rows))
        except StopIteration:
            pass
        except DataError as error:
            self._fault = error
        return list(self._seen)
