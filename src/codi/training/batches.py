"""Batches of similar length, in an order fixed by seed and epoch alone, so that a resumed run repeats it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

from codi.training.shares import Share

POOL = 50
"""Batches' worth of shuffled rows that are sorted by length together: large enough to save padding, small
enough to keep batches mixed."""


class LengthGroupedBatches(Sampler[list[tuple[int, int]]]):
    """Yields lists of (row, micro-batch). Every row once per epoch; only the last batch may be smaller.

    The micro-batch counts from the first epoch's first: what a row looks like may depend on when it is seen,
    and a loader fetches ahead of the training loop, so no clock of the loop's would do.
    With `grouped=False` the rows are shuffled only, and a batch mixes all lengths. One of several processes
    is given its `share` of them.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        seed: int,
        grouped: bool = True,
        share: Share | None = None,
    ) -> None:
        self.lengths, self.batch_size, self.seed, self.grouped = lengths, batch_size, seed, grouped
        self.share = share or Share(batch_size)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Which epoch's order to give next."""
        self.epoch = int(epoch)

    def __len__(self) -> int:
        return -(-self._of_all // self.share.groups)

    @property
    def _of_all(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        shuffler = random.Random(f"{self.seed}-{self.epoch}")
        rows = list(range(len(self.lengths)))
        shuffler.shuffle(rows)
        pool = self.batch_size * (POOL if self.grouped else 1)
        batches: list[list[int]] = []
        for first in range(0, len(rows), pool):
            nearby = rows[first : first + pool]
            if self.grouped:
                nearby.sort(key=lambda row: self.lengths[row])
            batches += [nearby[i : i + self.batch_size] for i in range(0, len(nearby), self.batch_size)]
        smaller = [batch for batch in batches if len(batch) < self.batch_size]
        full = [batch for batch in batches if len(batch) == self.batch_size]
        shuffler.shuffle(full)
        numbered = enumerate(full + smaller, start=self.epoch * self._of_all)
        yield from self.share.own([[(row, step) for row in batch] for step, batch in numbered])
