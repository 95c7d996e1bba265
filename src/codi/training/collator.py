"""Rows of a micro-batch to what a step is given: tensors, and what never leaves the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from codi.data.collation import Encoded, collate
from codi.training.curriculum import StagedRows
from codi.training.width_buckets import WidthBuckets, evenly, most


@dataclass(frozen=True, slots=True)
class OnHost:
    """numbers: whose rows they are; stage: the one that they are in; whole: whether the batch has one of the
    few shapes."""

    numbers: list[int]
    stage: int
    whole: bool

    @classmethod
    def taken_from(cls, batch: dict[str, Any]) -> OnHost:
        """Taken out of a batch, which is left with its tensors."""
        return cls(batch.pop("number"), batch.pop("stage"), batch.pop("whole"))


class ShapesByStage:
    """The shapes of every stage's batches, chosen when one is first met, the same by every process."""

    def __init__(self, rows: StagedRows, batches: Sequence[Sequence[int]], number: int) -> None:
        """batches: of an epoch, as one process alone would make them; number: most shapes of a stage."""
        self.rows, self.batches, self.number = rows, evenly(batches), number
        self.longest = most(rows.data.encoded)
        self._chosen: dict[int, WidthBuckets] = {}

    def first(self) -> WidthBuckets:
        """Those of the first stage."""
        return self.at(self.rows.method.stage_at(0, self.rows.clock.epoch_steps))

    def at(self, stage: int) -> WidthBuckets:
        """Those of a stage; a stage whose step is that of another has that one's."""
        stage = self.rows.method.computed_at(stage)
        if stage not in self._chosen:
            batches = ([self.rows.staged(row, 0, stage) for row in batch] for batch in self.batches)
            self._chosen[stage] = WidthBuckets.chosen(batches, self.number, self.longest)
        return self._chosen[stage]


class Collator:
    """Makes batches of `StagedRows`, of few shapes where there are to be few."""

    def __init__(self, pad_id: int, shapes: ShapesByStage | None) -> None:
        self.pad_id, self.shapes = pad_id, shapes

    def __call__(self, rows: Sequence[Encoded]) -> dict[str, Any]:
        """The collated rows, with `number`, `stage` and `whole`: see `OnHost`."""
        numbers, stage = [int(row["number"]) for row in rows], int(rows[0]["stage"])
        plain = [{name: row[name] for name in row if name not in ("number", "stage")} for row in rows]
        least, whole = ({}, False) if self.shapes is None else self.shapes.at(stage).fitting(plain)
        return {**collate(plain, self.pad_id, least), "number": numbers, "stage": stage, "whole": whole}


def fills_in(numbers: Sequence[int]) -> bool:
    """Whether a batch only keeps this process in step with the others; see `Share.own`."""
    return numbers[0] < 0
