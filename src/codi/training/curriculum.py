"""Methods whose task changes while they train: when a stage begins, and what is made anew then.

A stage is a function of the micro-batch's number alone. Nothing is counted up in memory, so a run that is
resumed in the middle of a stage, or right between two, goes on as if it had never stopped.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from transformers import TrainerCallback

from codi.data.collation import Encoded
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.method import Method, Trained
from codi.training.batches import LengthGroupedBatches
from codi.training.preparation import PreparedData


@dataclass(frozen=True, slots=True)
class Clock:
    """epoch_steps: micro-batches of an epoch, over all processes; update_steps: of one optimiser step."""

    epoch_steps: int
    update_steps: int

    @property
    def epoch_updates(self) -> int:
        """Optimiser steps of an epoch; the last may have fewer micro-batches."""
        return -(-self.epoch_steps // self.update_steps)

    def micro_batch(self, update: int) -> int:
        """The first micro-batch of an optimiser step, both counted from 0."""
        epoch, within = divmod(update, self.epoch_updates)
        return epoch * self.epoch_steps + within * self.update_steps

    def first_of_update(self, micro_batch: int) -> int:
        """The first micro-batch of the optimiser step that a micro-batch belongs to."""
        epoch, within = divmod(micro_batch, self.epoch_steps)
        return epoch * self.epoch_steps + within - within % self.update_steps


def stage_began(method: Method, clock: Clock, updates: int) -> int:
    """The optimiser steps that were done when the stage began which the last of `updates` steps is in."""
    stages = [method.stage_at(clock.micro_batch(done), clock.epoch_steps) for done in range(updates)]
    return next((done for done in range(updates, 0, -1) if stages[done - 1] != stages[-1]), 0)


class StagedRows(torch.utils.data.Dataset[dict[str, Any]]):
    """Encoded rows as they are at a micro-batch, with their number, so that an error can name the example,
    and the stage that they are in."""

    def __init__(self, data: PreparedData, method: Method, seed: int, clock: Clock) -> None:
        self.data, self.method, self.seed, self.clock = data, method, seed, clock

    def __len__(self) -> int:
        return len(self.data.lengths)

    def trained_on(self, batches: LengthGroupedBatches, update: int) -> Iterator[Trained]:
        """The rows of an optimiser step. batches: of the run, those of all processes."""
        epoch, within = divmod(update, self.clock.epoch_updates)
        batches.set_epoch(epoch)
        first = within * self.clock.update_steps
        for batch in islice(batches, first, first + self.clock.update_steps):
            for number, step in batch:
                yield self.data.encoded[number], self[number, step]

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        number, step = key
        # A stage lasts whole optimiser steps, so that rows, loss and optimiser are in the same one.
        stage = self.method.stage_at(self.clock.first_of_update(step), self.clock.epoch_steps)
        return {**self.staged(number, step, stage), "number": number, "stage": stage}

    def staged(self, number: int, step: int, stage: int) -> Encoded:
        """A row as it is at a micro-batch of that stage, nothing added."""
        rng = random.Random(f"{self.seed}-{step}-{number}")
        return self.method.staged(self.data.encoded[number if number >= 0 else ~number], stage, rng)


class Curriculum(TrainerCallback):
    """Follows the method's stages: each picks its best checkpoint anew, and the optimiser begins afresh where
    the method says so.

    (An earlier stage still writes steps out, so its accuracy must not win over that of the last.)
    """

    def __init__(
        self, reasoner: LatentReasoner, clock: Clock, trained_on: Callable[[int], Iterable[Trained]]
    ) -> None:
        """trained_on: the rows of an optimiser step, by its number from 0."""
        self.fresh = True
        """Whether the optimiser has nothing yet of earlier steps: in the run's first, and where it began
        afresh. A run that goes on finds the same."""
        self.reasoner, self.method, self.clock = reasoner, reasoner.method, clock
        self.trained_on = trained_on

    def stage(self, update: int) -> int:
        """The stage that an optimiser step begins in."""
        return self.method.stage_at(self.clock.micro_batch(update), self.clock.epoch_steps)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Enter the step's stage."""
        update = state.global_step
        stage = self.stage(update)
        self.reasoner.method = self.method.at_stage(stage)
        self.fresh = update == 0
        if self.fresh:
            return
        new_stage, new_epoch = stage != self.stage(update - 1), update % self.clock.epoch_updates == 0
        if self.method.begins_afresh(stage, new_stage, new_epoch, partial(self.trained_on, update - 1)):
            self.fresh, optimizer = True, kwargs["optimizer"]
            getattr(optimizer, "optimizer", optimizer).state = defaultdict(dict)  # moments only: weights stay
        if new_stage:
            state.best_metric = state.best_model_checkpoint = state.best_global_step = None
