"""The rows of a source, read one after another: nothing is held but the row under way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
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
        """Rows of a form that does not say its columns: those of the first ones are taken.

        A fault met while looking ahead is raised when its row is reached, so that who stops before never
        meets it.
        """
        iterator = iter(rows)
        first: list[tuple[int, Row]] = []
        fault: DataError | None = None
        try:
            first.extend(islice(iterator, PEEKED))
        except DataError as error:
            fault = error
        columns = tuple(dict.fromkeys(name for _, row in first for name in row))
        return cls(columns, chain(first, iterator if fault is None else _raising(fault)), unit)


def _raising(fault: DataError) -> Iterator[tuple[int, Row]]:
    yield from ()
    raise fault
