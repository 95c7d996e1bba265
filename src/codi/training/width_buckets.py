"""Batches of few shapes: whatever of a batch has a size is padded to one of a few, chosen from the data.

    batches as they come      31+12+6   33+14+6   35+14+7   47+21+6   66+30+8 ...    a shape of its own each
    4 width buckets           35+14+7   35+14+7   35+14+7   52+24+8   85+42+8        few shapes, more padding

Beside the segments' widths these are how many labels a batch has (the head runs on those alone), what is
counted, and lists of steps: see `codi.data.collation.sizes`. Nothing that is added counts in a loss.

A shape that was met before costs a GPU nothing new: its memory is laid out, its kernels are chosen, its step
may be recorded whole (`codi.training.graphs`). A CPU leaves padding out instead (`codi.modeling.packing`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codi.data.collation import Encoded, Nested, sizes
from codi.data.encoded_rows import EncodedRows

Shape = Mapping[str, int]
MOST_SHAPES = 400
"""Batches that shapes are chosen from, evenly from those of an epoch."""
SPARE = 1.25
"""The widest shape has room for so many times the labels that the fullest of those batches has."""


@dataclass(frozen=True)
class WidthBuckets:
    """shapes: from narrow to wide, each at least as large as the one before in every size.

    rows: of a batch; segments: names of those sizes that are widths of segments; more: positions that are
    padded on top of each batch's own padding, as a share of all that it has.
    """

    shapes: tuple[dict[str, int], ...]
    rows: int
    segments: tuple[str, ...]
    more: float

    @classmethod
    def chosen(
        cls, batches: Iterable[Sequence[Encoded]], number: int, longest: Mapping[str, int]
    ) -> WidthBuckets:
        """At most `number` of them. batches: the rows of some; longest: what any row has, see `most`.

        The widest is as wide as the longest row; the others are those with which these batches have the
        fewest positions.
        """
        looked_at = list(batches)
        rows = max(map(len, looked_at))
        found = [sizes(batch) for batch in looked_at if len(batch) == rows]
        names, segments = list(found[0]), _segments(looked_at[0][0])
        table = np.array([[one[name] for name in names] for one in found])
        widths = [names.index(name) for name in segments]
        table = table[np.argsort(table[:, widths].sum(1), kind="stable")]
        shapes = np.stack([table[first:last].max(0) for first, last in _parts(table[:, widths], number)])
        widest = _roomy(dict(zip(names, map(int, shapes.max(0)), strict=True)), longest, rows)
        shapes[-1] = [widest[name] for name in names]
        shapes = np.maximum.accumulate(shapes)
        takes = (shapes >= table[:, None]).all(2).argmax(1)
        padded, needed = shapes[takes][:, widths].sum(), table[:, widths].sum()
        return cls(
            tuple(dict(zip(names, map(int, shape), strict=True)) for shape in shapes),
            rows, segments, float(padded / needed - 1),
        )  # fmt: skip

    def fitting(self, rows: Sequence[Encoded]) -> tuple[Shape, bool]:
        """The smallest shape that takes these rows, and whether they fill its batch.

        Of another number of rows it is the widths alone; nothing where the largest does not take them.
        """
        needed = sizes(rows)
        whole = len(rows) == self.rows and needed.keys() == self.shapes[0].keys()
        names = needed if whole else [name for name in self.segments if name in needed]
        for shape in self.shapes:
            if all(needed[name] <= shape[name] for name in names):
                return {name: shape[name] for name in names}, whole
        return {}, False

    def describe(self) -> str:
        """Which shapes, and what they cost."""
        each = ", ".join("+".join(str(shape[name]) for name in self.segments) for shape in self.shapes)
        return (
            f"Batches are padded to {len(self.shapes)} shapes ({'+'.join(self.segments)}): {each}; "
            f"{100 * self.more:.0f} % more positions than without (data.width_buckets)."
        )


def most(rows: Sequence[Encoded]) -> dict[str, int]:
    """The longest list of each name and the largest number, over all rows, by the names of `sizes`."""
    if isinstance(rows, EncodedRows):
        return rows.most()
    found: dict[str, int] = {}
    for row in rows:
        for name, value in row.items():
            if not isinstance(value, Nested):
                key, size = (f"{name}_mask", value) if isinstance(value, int) else (name, len(value))
                found[key] = max(found.get(key, 0), size)
    return found


def evenly(batches: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """At most `MOST_SHAPES` of them; a smaller last one is left out where there are others."""
    whole = [batch for batch in batches if len(batch) == len(batches[0])]
    places = np.linspace(0, len(whole) - 1, min(len(whole), MOST_SHAPES)).astype(int)
    return [whole[place] for place in places]


def _segments(row: Encoded) -> tuple[str, ...]:
    return tuple(n for n, value in row.items() if isinstance(value, list) and not isinstance(value, Nested))


def _roomy(largest: Mapping[str, int], longest: Mapping[str, int], rows: int) -> dict[str, int]:
    """The sizes of the widest shape. largest: of the batches that were looked at."""
    wide = {name: max(size, longest.get(name, 0)) for name, size in largest.items()}
    for name in (name for name in wide if name.endswith("_slots")):
        wide[name] = min(math.ceil(SPARE * largest[name]), rows * wide[name.removesuffix("_slots")])
    for name in (name for name in wide if name.endswith("_places")):
        segment = name.removesuffix("_places")
        every = wide.get(f"{segment}_slots", rows) * wide.get(f"{segment}_width", wide[segment])
        wide[name] = min(math.ceil(SPARE * largest[name]), every)
    return wide


def _parts(widths: NDArray[np.int64], number: int) -> list[tuple[int, int]]:
    """[n, segments], sorted, cut into at most `number` runs with the fewest positions when each is padded."""
    n = len(widths)
    cost = np.full((n, n + 1), np.inf)
    for first in range(n):
        widest = np.maximum.accumulate(widths[first:]).sum(1)
        cost[first, first + 1 :] = widest * np.arange(1, n - first + 1)
    best, cuts = cost[0].copy(), list[NDArray[np.int64]]()
    best[0] = 0
    for _ in range(min(number, n) - 1):
        whole = best[:n, None] + cost  # up to the first of a run, and the run
        cuts.append(whole.argmin(0))
        best = np.concatenate([[0.0], whole.min(0)[1:]])
    last, parts = n, list[tuple[int, int]]()
    for cut in reversed(cuts):
        first = int(cut[last])
        if first < last:
            parts.append((first, last))
        last = first
        if not last:
            break
    return [*([(0, last)] if last else []), *reversed(parts)]
