"""iCoT: implicit chain of thought by stepwise internalization (Deng et al., 2024, arXiv 2405.14838).

    removed 0      Q  r_1 r_2 r_3 r_4 ... r_k  The answer is : 12 eos
    removed 3      Q              r_4 ... r_k  The answer is : 12 eos
    all removed    Q                           The answer is : 12 eos

The rationale's tokens go from the left, `remove_per_epoch` of them spread evenly over an epoch, and each row
loses a few more at random. The optimiser is created anew at every removal. At inference the model answers
directly: what the rationale did has moved into its layers.

The published code goes a little further than the paper says: `remove_all_when: reached`, `extra_from: start`
and `reset_optimizer: while-any-left`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from codi.data.collation import Encoded
from codi.data.encoding import TextEncoder
from codi.data.example import Example
from codi.errors import RecipeError
from codi.methods.cot_sft import CotSft
from codi.methods.method import Start, Trained, append, register, start_writing
from codi.modeling.configuration import ModelConfig
from codi.modeling.context import Tokens
from codi.modeling.model import ThoughtModel

ALL_REMOVED = 1_000_000
"""The stage in which no token of any rationale is left."""
WHOLE = -1
"""The stage of the explicit epochs where the extra removal begins after them, before the scheduled one."""


@register
@dataclass(frozen=True)
class ICot(CotSft):
    """CoT-SFT (same loss) on a rationale that shrinks. Defaults are those of the published GSM8k run."""

    name: ClassVar[str] = "icot"
    modes: ClassVar[tuple[str, ...]] = ("direct",)
    encoded_by: ClassVar[tuple[str, ...]] = ("keep_last_step",)

    explicit_epochs: float = 0.0
    """Epochs with the whole rationale before removal begins; needed by a model with random weights."""
    remove_per_epoch: float = 8.0
    """Tokens removed from the left in an epoch, spread evenly over it."""
    remove_all_beyond: int = 39
    """A limit for the tokens due; see `remove_all_when`."""
    remove_all_when: str = "passed"
    """All are removed once the tokens due have `passed` the limit, or have `reached` it (published)."""
    extra_from: str = "removal"
    """When the extra removal begins: with the first scheduled `removal`, or at the `start`, as soon as the
    explicit epochs are over (published)."""
    reset_optimizer: str = "removal"
    """A fresh optimiser at every `removal`, or `while-any-left`: not where the rows of the step before had
    nothing of their rationales left (published)."""
    extra_lambda: float = 4.0
    """Of the random extra removal: k more tokens with probability proportional to exp(-lambda k)."""
    extra_support: int = 100
    """Extra removals run from 0 to this number less one; 1 turns them off."""
    stage: int | None = None
    """Tokens removed, to stay there; None follows the schedule in training and answers with all removed."""

    def __post_init__(self) -> None:
        if self.remove_per_epoch <= 0:
            raise RecipeError(f"method.remove_per_epoch is {self.remove_per_epoch}; it must be above 0.")
        if self.extra_support < 1:
            raise RecipeError(f"method.extra_support is {self.extra_support}; it must be 1 or more.")
        if min(self.explicit_epochs, self.extra_lambda, self.remove_all_beyond, self.stage or 0) < 0:
            raise RecipeError("iCoT's epochs, lambda, limit and stage must be 0 or more.")
        for name, known in (
            ("remove_all_when", ("passed", "reached")),
            ("extra_from", ("removal", "start")),
            ("reset_optimizer", ("removal", "while-any-left")),
        ):
            if getattr(self, name) not in known:
                value = getattr(self, name)
                raise RecipeError(f"method.{name} is '{value}'; it must be {' or '.join(known)}.")

    def encode(self, example: Example, text: TextEncoder) -> Encoded:
        """CoT-SFT's segments, and how many tokens of `teacher` are the rationale's."""
        steps = example.steps if self.keep_last_step else example.steps[:-1]
        return {**super().encode(example, text), "rationale": len(text.rationale(steps))}

    def stage_at(self, step: int, epoch_steps: int) -> int:
        """Tokens due to be removed: one more every epoch_steps / remove_per_epoch micro-batches, rounded."""
        if self.stage is not None:
            return self.stage
        since = step - round(self.explicit_epochs * epoch_steps)
        if since < 0:
            return 0 if self.extra_from == "removal" else WHOLE
        due = since // max(1, round(epoch_steps / self.remove_per_epoch))
        return ALL_REMOVED if due >= self._all_from else due

    def at_stage(self, stage: int) -> ICot:
        """With `stage` set."""
        return replace(self, stage=max(stage, 0))

    def begins_afresh(
        self, stage: int, new_stage: bool, new_epoch: bool, before: Callable[[], Iterable[Trained]]
    ) -> bool:
        """At every removal; `while-any-left`: unless the step before had nothing left to remove."""
        if not new_stage or (stage == 0 and self.extra_from == "start"):  # the explicit epochs have ended
            return False
        if self.reset_optimizer == "removal":
            return True
        return any(len(seen["teacher"]) > len(row["teacher"]) - row["rationale"] for row, seen in before())

    def staged(self, row: Encoded, stage: int, rng: random.Random) -> Encoded:
        """The row without the first `stage` tokens of its rationale, and a few more."""
        begun = stage > 0 or (stage == 0 and self.extra_from == "start")
        removed = min(row["rationale"], max(stage, 0) + (self._extra(rng) if begun else 0))
        return {"question": row["question"], "teacher": row["teacher"][removed:]}

    @property
    def _all_from(self) -> int:
        """The number of tokens due from which all are removed."""
        return self.remove_all_beyond + (self.remove_all_when == "passed")

    def _extra(self, rng: random.Random) -> int:
        """Drawn by inverting the truncated geometric distribution that exp(-lambda k) is."""
        if self.extra_lambda == 0:
            return rng.randrange(self.extra_support)
        whole = -math.expm1(-self.extra_lambda * self.extra_support)
        return int(-math.log1p(-rng.random() * whole) / self.extra_lambda)

    def check_run(
        self, config: ModelConfig, started: bool, epochs: float, epoch_steps: int = 1000
    ) -> list[str]:
        """iCoT needs a model that can write, and epochs until everything is removed."""
        if self.stage is not None:
            return [f"iCoT stays at {self.stage} tokens removed."]
        if not (started or self.explicit_epochs):
            raise RecipeError(
                "iCoT removes the rationale of a model that can write it, but this one starts from random "
                "weights. Give a checkpoint (start=FOLDER), or method.explicit_epochs=N."
            )
        needed = self.explicit_epochs + self._all_from / self.remove_per_epoch
        if self.stage_at(round(epochs * epoch_steps) - 1, epoch_steps) != ALL_REMOVED:
            raise RecipeError(
                f"iCoT's rationale is all removed after about {needed:g} epochs, but the run has {epochs:g}. "
                "Train longer, raise method.remove_per_epoch or lower method.remove_all_beyond."
            )
        return [f"iCoT's rationale is all removed after about {needed:.3g} of {epochs:.3g} epochs."]

    def start(
        self, model: ThoughtModel, text: TextEncoder, question: Tokens, mode: str, latents: int | None = None
    ) -> Start:
        """With all removed: question and answer prompt in one pass; before: the rest is written."""
        if self.stage is not None and self.stage < ALL_REMOVED:
            return start_writing(model, question)
        context = model.read(append(question, text.prompt_ids)).context
        return Start(context, written=text.prompt_ids, thoughts=0, passes=1)
