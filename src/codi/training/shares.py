"""Which rows of an optimiser step each of several processes takes.

A recipe says how many rows a step has: batch (`per_device_train_batch_size`) x accumulation. However many
processes there are, it stays so, and every step has the rows it has on one:

    2 processes, 16 x 4     0: b1   b3        1: b2   b4        whole micro-batches, 16 x 2 each
    2 processes, 16 x 1     0: b1[:8]         1: b1[8:]         halves of one, 8 x 1 each

So a run gives what it gives on one process, and goes on after a stop on another number of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from codi import processes
from codi.errors import TrainingError

Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Share:
    """batch: rows of a micro-batch; accumulation: micro-batches of a step; both over all processes."""

    batch: int
    accumulation: int = 1
    processes: int = 1
    number: int = 0

    @classmethod
    def of_this_process(cls, batch: int, accumulation: int) -> Share:
        """Raises TrainingError when the processes do not divide the rows of a step."""
        share = cls(batch, accumulation, processes.count(), processes.number())
        if batch % share.pieces:
            rows = batch * accumulation
            fitting = [
                n for n in range(1, rows + 1)
                if rows % n == 0 and batch % (n // math.gcd(n, accumulation)) == 0
            ]  # fmt: skip
            near = sorted(sorted(fitting, key=lambda n: abs(n - share.processes))[:4])
            raise TrainingError(
                f"{share.processes} processes cannot share a step of {rows} rows "
                f"(per_device_train_batch_size {batch} x gradient_accumulation_steps {accumulation}, the "
                f"same on any number of GPUs) equally. Start {_listed(near)} processes, or change one of the "
                "two settings so that the processes divide it."
            )
        return share

    @property
    def groups(self) -> int:
        """Micro-batches that are worked on at the same time."""
        return math.gcd(self.processes, self.accumulation)

    @property
    def pieces(self) -> int:
        """Processes that share one micro-batch."""
        return self.processes // self.groups

    @property
    def own_batch(self) -> int:
        """Rows of a micro-batch in this process."""
        return self.batch // self.pieces

    @property
    def own_accumulation(self) -> int:
        """Micro-batches of a step in this process."""
        return self.accumulation // self.groups

    def own(self, batches: Sequence[list[Key]]) -> Iterator[list[Key]]:
        """This process's part of an epoch's micro-batches: equally many in every process.

        Where the end of an epoch leaves nothing for it, a row marked by `~number` fills in: all processes
        must run the same passes, and its loss counts nothing.
        """
        group, piece = divmod(self.number, self.pieces)
        for first in range(0, len(batches), self.groups):
            place = first + group
            whole = batches[place] if place < len(batches) else []
            mine = whole[piece * self.own_batch : (piece + 1) * self.own_batch]
            row, step = batches[first][0]
            yield mine or [(~row, step)]


def _listed(numbers: list[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}" if first else last
