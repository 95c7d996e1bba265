"""Batches of few shapes: every segment is padded to one of a few widths, chosen from the data.

    batches as they come      31+12+6   33+14+6   35+14+7   47+21+6   66+30+8 ...    a shape of its own each
    4 width buckets           35+14+7   35+14+7   35+14+7   52+24+8   85+42+8        few shapes, more padding

Segments alone: what is counted, lists of steps and the head's logits are as large as each batch needs.

A shape that was met before costs a GPU nothing new: its memory is laid out, its kernels are chosen. A CPU
leaves padding out instead (`codi.modeling.packing`) and needs none of this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codi.data.collation import Encoded, Nested
from codi.data.encoded_rows import EncodedRows

Shape = Mapping[str, int]
MOST_SHAPES = 400
"""Shapes of batches that buckets are chosen from; of more, that many, evenly from narrow to wide."""


@dataclass(frozen=True)
class WidthBuckets:
    """shapes: from narrow to wide, each at least as wide as the one before in every segment.

    more: positions that are padded on top of each batch's own padding, as a share of all that it has.
    """

    shapes: tuple[dict[str, int], ...]
    more: float

    @classmethod
    def chosen(cls, rows: Sequence[Encoded], batches: Iterable[Sequence[int]], number: int) -> WidthBuckets:
        """At most `number` of them. batches: the rows of each batch of an epoch.

        The widest takes every row; the others are those with which these batches have the fewest positions.
        """
        lengths = _lengths(rows)
        names = list(lengths)
        table = np.stack([lengths[name] for name in names], 1)
        needed = np.stack([np.maximum(table[list(batch)].max(0), 1) for batch in batches])
        needed = needed[np.argsort(needed.sum(1), kind="stable")]
        tried = needed[np.linspace(0, len(needed) - 1, min(len(needed), MOST_SHAPES)).round().astype(int)]
        found = np.stack([tried[first:last].max(0) for first, last in _parts(tried, number)])
        found[-1] = np.maximum(found[-1], table.max(0))
        found = np.maximum.accumulate(found)
        shapes = tuple(dict(zip(names, map(int, widths), strict=True)) for widths in found)
        padded = sum(int(found[(found >= widths).all(1).argmax()].sum()) for widths in needed)
        return cls(shapes, padded / int(needed.sum()) - 1)

    def fitting(self, rows: Sequence[Encoded]) -> Shape:
        """The narrowest shape that takes these rows, which may be staged; none where the widest does not."""
        names = [name for name, value in rows[0].items() if name in self.shapes[0]]
        needed = {name: max(len(row[name]) for row in rows) for name in names}
        fit = (shape for shape in self.shapes if all(needed[name] <= shape[name] for name in names))
        return next(fit, {})

    def describe(self) -> str:
        """Which shapes, and what they cost."""
        each = ", ".join("+".join(str(width) for width in shape.values()) for shape in self.shapes)
        return (
            f"Batches are padded to {len(self.shapes)} shapes ({'+'.join(self.shapes[0])}): {each}; "
            f"{100 * self.more:.0f} % more positions than without (data.width_buckets)."
        )


def _lengths(rows: Sequence[Encoded]) -> dict[str, NDArray[np.int64]]:
    """How long every list of ids is, by its name, in every row."""
    if isinstance(rows, EncodedRows):
        return {name: rows.lengths(name) for name in rows.lists() if name not in _NO_SEGMENTS}
    names = [name for name, value in rows[0].items() if _is_segment(name, value)]
    return {name: np.array([len(row[name]) for row in rows]) for name in names}


_NO_SEGMENTS = ("step_ends",)
"""Lists of a row that are no tokens."""


def _is_segment(name: str, value: Any) -> bool:
    return isinstance(value, list) and not isinstance(value, Nested) and name not in _NO_SEGMENTS


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
