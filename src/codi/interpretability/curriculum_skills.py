"""What a curriculum's stages do to each other: Coconut asked in the form of every stage, again and again.

    form 0   Q                         r_1 r_2 r_3  The answer is : 12      as it was before the first stage
    form 1   Q <bot> z_1 z_2     <eot>     r_2 r_3  The answer is : 12      c_thought = 2
    form 2   Q <bot> z_1 ... z_4 <eot>         r_3  The answer is : 12
    form 3   Q <bot> z_1 ... z_6 <eot>              The answer is : 12

A form that was learned and later falls was forgotten: its problems and its form stay the same. A form that
is low from its own stage on was never learned; that is something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import TrainerCallback

from codi.data.example import Example
from codi.errors import UsageError
from codi.evaluation.runner import evaluate
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.coconut import Coconut
from codi.methods.cot_sft import CotSft

BATCH_SIZE = 256
MOST_TOKENS = 64
"""Of an answer with its steps; one that never ends counts as wrong."""


def skills(
    reasoner: LatentReasoner, coconut: Coconut, examples: Sequence[Example], *, scorer: str = "number"
) -> list[float]:
    """The share of `examples` that a model answers rightly in each form, 0 to `max_stage`.

    coconut: whose stages; the model may be one before its first stage. Raises UsageError for a model with a
    projection, through which Coconut never thinks.
    """
    if reasoner.model.config.projection:
        raise UsageError("Coconut thinks without a projection, but this model has one.")
    forms = [CotSft(), *(coconut.at_stage(stage) for stage in range(1, coconut.max_stage + 1))]
    shares = list[float]()
    for form in forms:
        asked = LatentReasoner(reasoner.model, form, reasoner.tokenizer, reasoner.text_format)
        with torch.no_grad(), reasoner.model.whole_weights():
            found = evaluate(
                asked, examples, scorer=scorer, batch_size=BATCH_SIZE, max_new_tokens=MOST_TOKENS,
                latency_questions=0,
            )  # fmt: skip
        shares.append(found.accuracy)
    return shares


def stage_ends(coconut: Coconut, epoch_updates: int, updates: int) -> list[int]:
    """After how many updates each stage of a run ends, the last at the run's own end."""
    stages = [coconut.stage_at(step, epoch_updates) for step in range(updates)]
    return [step + 1 for step in range(updates) if step + 1 == updates or stages[step + 1] != stages[step]]


class SkillLog(TrainerCallback):
    """Measures `skills` before a Coconut run's first update and where each stage ends, but for the last one,
    which lasts until the run does; then ends the run.

    found: the shares of each form, by the number of updates.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples
        self.found: dict[int, list[float]] = {}
        self.updates: list[int] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """As the run starts."""
        coconut: Coconut = model.reasoner.method
        self.coconut = coconut
        epoch = -(-len(kwargs["train_dataloader"]) // args.gradient_accumulation_steps)
        self.updates = stage_ends(coconut, epoch, state.max_steps)[:-1]
        self._measure(model, state)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """A stage may have ended."""
        if state.global_step in self.updates:
            self._measure(model, state)
        if state.global_step >= self.updates[-1]:
            control.should_training_stop = True

    def _measure(self, model: Any, state: Any) -> None:
        self.found[state.global_step] = skills(model.reasoner, self.coconut, self.examples)
