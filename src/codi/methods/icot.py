"""iCoT: implicit chain of thought by stepwise internalization (Deng et al., 2024, arXiv 2405.14838).

    removed 0      Q  r_1 r_2 r_3 r_4 ... r_k  The answer is : 12 eos
    removed 3      Q              r_4 ... r_k  The answer is : 12 eos
    all removed    Q                           The answer is : 12 eos

The rationale's tokens go from the left, `remove_per_epoch` of them spread evenly over an epoch, and each row
loses a few more at random. The optimiser is created anew at every removal until nothing is left. At inference
the model answers directly: what the rationale did has moved into its layers.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import ClassVar

from codi.data.collation import Encoded
from codi.data.encoding import TextEncoder
from codi.data.example import Example
from codi.errors import RecipeError
from codi.methods.cot_sft import CotSft
from codi.methods.method import Start, append, register, start_writing
from codi.modeling.configuration import ModelConfig
from codi.modeling.context import Tokens
from codi.modeling.model import ThoughtModel

ALL_REMOVED = 1_000_000
"""The stage in which no token of any rationale is left."""


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
    """Once more tokens than this are due, all are removed."""
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
            return 0
        due = since // max(1, round(epoch_steps / self.remove_per_epoch))
        return ALL_REMOVED if due > self.remove_all_beyond else due

    def at_stage(self, stage: int) -> ICot:
        """With `stage` set."""
        return replace(self, stage=stage)

    def staged(self, row: Encoded, stage: int, rng: random.Random) -> Encoded:
        """The row without the first `stage` tokens of its rationale, and a few more."""
        removed = min(row["rationale"], stage + (self._extra(rng) if stage else 0))
        return {"question": row["question"], "teacher": row["teacher"][removed:]}

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
        needed = self.explicit_epochs + (self.remove_all_beyond + 1) / self.remove_per_epoch
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
