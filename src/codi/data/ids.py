"""Names of examples that no other example of the source has.

Predictions, comparisons and messages name an example by its id, so two may not share one. Where a file has
ids of its own they are kept; where it uses one again, the later example's is told apart:

- by the column `instance`, where there is one: GSM-Symbolic's `0:0`, `0:1`, … (in every row: all look alike);
- else by how often the id was there: `7`, `7#2`, `7#3`.

Ids depend on the rows before alone: a limit, or rows added at the end, change none.
"""

from __future__ import annotations

from dataclasses import replace

from codi.data.example import Example
from codi.data.rows import Row

INSTANCE = "instance"
"""The column that numbers the variants of one problem."""


class UniqueIds:
    """Gives the examples of one source their ids, in order."""

    def __init__(self) -> None:
        self._times: dict[str, int] = {}

    def named(self, example: Example, row: Row, *, own: bool) -> Example:
        """`example` under an id that none before it had. `own`: its id is the row's own."""
        name = example.id
        if own and INSTANCE in row and str(row[INSTANCE]).isdecimal():
            name = f"{name}:{row[INSTANCE]}"
        wanted = name
        while name in self._times:
            self._times[wanted] += 1
            name = f"{wanted}#{self._times[wanted]}"
        self._times[name] = 1
        return example if name == example.id else replace(example, id=name)
