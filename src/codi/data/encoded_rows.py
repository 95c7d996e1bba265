"""Many encoded examples in flat arrays: a few bytes a token, in memory or mapped from a folder.

    teacher.npy       31 18 2 | 31 7 | ...        the ids of all rows, one after the other
    teacher.ends.npy   0      3      5 ...        where each row begins, and where the last one ends
    teacher_distillation.npy    4 4 ...           a number of each row
    steps.npy  steps.lengths.npy                  a list of lists: their ids joined, and how long each is

A row is what the method made of its example: lists of ids, `Nested` ones, and whole numbers by name.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from codi.data.collation import Encoded, Nested

Numbers = NDArray[np.integer[Any]]

_NAMES = "names.json"
_LENGTHS = ".lengths"
"""What the list of its steps' lengths is called after a nested one."""


class EncodedRows(Sequence[Encoded]):
    """A sequence of encoded examples. `lists` and `numbers` are the arrays by name; see `gather`."""

    def __init__(
        self,
        lists: Mapping[str, tuple[Numbers, Numbers]],
        numbers: Mapping[str, Numbers],
        names: Sequence[str],
        rows: Numbers | None = None,
    ) -> None:
        """lists: ids of all rows, and where each row's begin; names: in the order in which a row has them;
        rows: which of them this sequence holds, None for all.
        """
        self._lists, self._numbers, self.names = dict(lists), dict(numbers), tuple(names)
        if rows is None:
            rows = np.arange(self._stored(), dtype=np.int64)
        self._rows = rows

    @classmethod
    def gather(cls, rows: Iterable[Encoded]) -> EncodedRows:
        """From rows made one after the other; no more than one of them is held as lists."""
        ids, ends, numbers = dict[str, Any](), dict[str, Any](), dict[str, Any]()
        names = tuple[str, ...]()
        for row in rows:
            if not names:
                names = tuple(row)
                for name, value in row.items():
                    if isinstance(value, int):
                        numbers[name] = array("q")
                        continue
                    for part in (name, name + _LENGTHS)[: 2 if isinstance(value, Nested) else 1]:
                        ids[part], ends[part] = array("i"), array("q", [0])
            for name in ids:
                ids[name].extend(_flat(row, name))
                ends[name].append(len(ids[name]))
            for name in numbers:
                numbers[name].append(row[name])
        return cls(
            {name: (np.asarray(ids[name]), np.asarray(ends[name])) for name in ids},
            {name: np.asarray(numbers[name]) for name in numbers},
            names,
        )

    def save(self, folder: Path) -> None:
        """Write every row held as arrays into an existing folder."""
        whole = self if len(self) == self._stored() else EncodedRows.gather(self)
        for name, (ids, ends) in whole._lists.items():
            np.save(folder / f"{name}.npy", ids)
            np.save(folder / f"{name}.ends.npy", ends)
        for name, values in whole._numbers.items():
            np.save(folder / f"{name}.npy", values)
        kinds = {name: whole._kind(name) for name in whole.names}
        (folder / _NAMES).write_text(json.dumps(kinds), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> EncodedRows:
        """Map what `save` wrote; nothing is read before a row is."""
        kinds: dict[str, str] = json.loads((folder / _NAMES).read_text(encoding="utf-8"))
        lists = [name for name, kind in kinds.items() if kind != "number"]
        lists += [name + _LENGTHS for name, kind in kinds.items() if kind == "nested"]
        return cls(
            {name: (_mapped(folder / f"{name}.npy"), _mapped(folder / f"{name}.ends.npy")) for name in lists},
            {name: _mapped(folder / f"{name}.npy") for name, kind in kinds.items() if kind == "number"},
            tuple(kinds),
        )

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> list[Encoded]: ...
    def __getitem__(self, index: int | slice) -> Encoded | list[Encoded]:
        """The row as lists and numbers; a slice gives a list of rows."""
        if isinstance(index, slice):
            return [self._row(int(row)) for row in self._rows[index]]
        return self._row(int(self._rows[index]))

    def __iter__(self) -> Iterator[Encoded]:
        return (self._row(int(row)) for row in self._rows)

    def select(self, kept: Sequence[int] | Numbers) -> EncodedRows:
        """These rows, in this order; the arrays are shared."""
        return EncodedRows(
            self._lists, self._numbers, self.names, self._rows[np.asarray(kept, dtype=np.int64)]
        )

    def lists(self) -> list[str]:
        """Names of what is a list of ids in every row."""
        return [name for name in self.names if self._kind(name) == "list"]

    def lengths(self, name: str) -> NDArray[np.int64]:
        """[rows] How long the list of that name is in each row."""
        _, ends = self._lists[name]
        return (ends[self._rows + 1] - ends[self._rows]).astype(np.int64)

    def most(self) -> dict[str, int]:
        """The longest list of each name and the largest number, by the names of `collation.sizes`."""
        longest = {name: self.lengths(name) for name in self.lists()}
        numbers = {f"{name}_mask": values[self._rows] for name, values in self._numbers.items()}
        return {name: int(values.max(initial=0)) for name, values in (longest | numbers).items()}

    def rows_with(self, token: int, names: Iterable[str]) -> list[int]:
        """Rows in which one of the named lists holds a token."""
        stored = np.zeros(self._stored(), dtype=bool)
        for name in names:
            ids, ends = self._lists[name]
            stored[np.searchsorted(ends, np.flatnonzero(ids == token), side="right") - 1] = True
        return [int(row) for row in np.flatnonzero(stored[self._rows])]

    def _stored(self) -> int:
        if self._lists:
            return len(next(iter(self._lists.values()))[1]) - 1
        return len(next(iter(self._numbers.values()), ()))

    def _row(self, row: int) -> Encoded:
        found: Encoded = {}
        for name in self.names:
            kind = self._kind(name)
            if kind == "number":
                found[name] = int(self._numbers[name][row])
                continue
            found[name] = self._list(name, row)
            if kind == "nested":
                joined = iter(found[name])
                found[name] = Nested(
                    list(islice(joined, length)) for length in self._list(name + _LENGTHS, row)
                )
        return found

    def _list(self, name: str, row: int) -> list[int]:
        ids, ends = self._lists[name]
        part: list[int] = ids[ends[row] : ends[row + 1]].tolist()
        return part

    def _kind(self, name: str) -> str:
        if name not in self._lists:
            return "number"
        return "nested" if name + _LENGTHS in self._lists else "list"


def _flat(row: Encoded, name: str) -> Iterable[int]:
    """What a list of the arrays takes in of a row."""
    if name.endswith(_LENGTHS):
        return [len(step) for step in row[name.removesuffix(_LENGTHS)]]
    value = row[name]
    return chain.from_iterable(value) if isinstance(value, Nested) else value


def _mapped(file: Path) -> Numbers:
    """An array in a file, as a plain one: slices of numpy's own kind of mapped array are slow to make."""
    mapped: Numbers = np.load(file, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    return mapped
