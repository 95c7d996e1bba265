"""Coconut: chain of continuous thought (Hao et al., 2024, arXiv 2412.06769).

    stage 0    Q <bot>                           <eot>  r_1 r_2 r_3  The answer is : 12 eos
    stage 1    Q <bot>  z_1 z_2                  <eot>      r_2 r_3  The answer is : 12 eos      c_thought = 2
    stage 2    Q <bot>  z_1 z_2 z_3 z_4          <eot>          r_3  The answer is : 12 eos
    stage 3    Q <bot>  z_1 z_2 z_3 z_4 z_5 z_6  <eot>               The answer is : 12 eos
    last       the same thoughts; no step is left, however many there were

z_{i+1} = last hidden state at z_i, fed back as it is (no projection). The loss covers what follows <eot>.
Each stage lasts `epochs_per_stage` epochs and begins with a fresh optimiser.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from codi.data.collation import Encoded
from codi.data.encoding import TextEncoder
from codi.data.example import Example
from codi.errors import RecipeError, UsageError
from codi.methods.method import Batch, Method, Start, append, prepend, register
from codi.modeling.configuration import ModelConfig
from codi.modeling.context import Context, Tokens
from codi.modeling.model import ThoughtModel

MIXES = ("none", "uniform", "proportional")


@register
@dataclass(frozen=True)
class Coconut(Method):
    """The staged curriculum. Defaults are those of the published GSM8k run."""

    name: ClassVar[str] = "coconut"
    modes: ClassVar[tuple[str, ...]] = ("latent",)
    terms: ClassVar[tuple[str, ...]] = ("student",)
    needs_rationales: ClassVar[bool] = True
    encoded_by: ClassVar[tuple[str, ...]] = ()

    c_thought: int = 2
    """Continuous thoughts that replace one step."""
    max_stage: int = 3
    """Most steps replaced one by one; after that stage comes the last one, without any step."""
    explicit_epochs: float = 0.0
    """Epochs of stage 0, before the first thought; 0 where the run starts from a CoT checkpoint."""
    epochs_per_stage: float = 3.0
    """Epochs of every stage between stage 0 and the last, which lasts until the run ends."""
    pad_latent_to_max: bool = True
    """Think the stage's full number even where a problem has fewer steps than the stage replaces."""
    mix: str = "none"
    """Other stages mixed in: none, uniform (a share `mix_share` of the rows draws any), or proportional
    (every row draws stage i up to the current one with probability proportional to i + 1)."""
    mix_share: float = 0.0
    """Share of the rows that draw another stage, with `mix: uniform`."""
    stage: int | None = None
    """A stage to stay at; None follows the curriculum in training and answers as in the last stage."""

    def __post_init__(self) -> None:
        for name, least in (("c_thought", 1), ("max_stage", 1), ("explicit_epochs", 0), ("stage", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise RecipeError(f"method.{name} is {value}; it must be {least} or more.")
        if self.epochs_per_stage <= 0:
            raise RecipeError(f"method.epochs_per_stage is {self.epochs_per_stage}; it must be above 0.")
        if self.mix not in MIXES:
            raise RecipeError(f"method.mix is '{self.mix}'; it must be one of {', '.join(MIXES)}.")
        if (self.mix == "uniform") != (self.mix_share > 0):
            raise RecipeError(
                f"method.mix is '{self.mix}' with mix_share {self.mix_share}; "
                "'uniform' needs a share above 0, the others take none."
            )
        if not 0 <= self.mix_share <= 1:
            raise RecipeError(f"method.mix_share is {self.mix_share}; it must lie between 0 and 1.")

    def loss(
        self, model: ThoughtModel, batch: Batch, divisors: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """-1/N sum log P(y_i | y_<i, z_1..z_n, Q), y = [remaining steps, answer]."""
        return self.learn(model, batch, divisors or self.divisors(batch))[0]

    def learn(
        self, model: ThoughtModel, batch: Batch, n: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], Context]:
        """The terms, and the context after the thoughts."""
        begun = model.read(append(Tokens.of(batch, "question"), [model.bot_id])).context
        z = model.think(after=begun, steps=batch["thoughts_mask"])
        y = Tokens.of(batch, "student")
        final = model.read(prepend(model.eot_id, y), after=z).final
        loss = model.cross_entropy(final, y) / n["student"]
        return {"loss": loss, "student": loss}, z

    def encode(self, example: Example, text: TextEncoder) -> Encoded:
        """Segments: question; student = all steps + answer. step_ends: where each step ends in it."""
        steps, ends = text.steps(example.steps)
        answer = text.answer(example.answer).ids
        return {"question": text.question(example.question), "student": steps + answer, "step_ends": ends}

    def divisors(self, batch: Batch) -> dict[str, Tensor]:
        """Tokens of y."""
        return {"student": batch["student_mask"].sum()}

    def stage_at(self, step: int, epoch_steps: int) -> int:
        """0 for `explicit_epochs`, then 1, 2, ... for `epochs_per_stage` each, to max_stage + 1, the last."""
        if self.stage is not None:
            return self.stage
        since = step - round(self.explicit_epochs * epoch_steps)
        if since < 0:
            return 0
        return min(1 + since // max(1, round(self.epochs_per_stage * epoch_steps)), self.max_stage + 1)

    def at_stage(self, stage: int) -> Coconut:
        """With `stage` set."""
        return replace(self, stage=stage)

    def staged(self, row: Encoded, stage: int, rng: random.Random) -> Encoded:
        """The first steps cut off, and as many thoughts as stand for them."""
        ends: list[int] = row["step_ends"]
        if self.mix == "proportional":
            stage = rng.choices(range(stage + 1), [i + 1 for i in range(stage + 1)])[0]
        elif self.mix == "uniform" and rng.random() < self.mix_share:
            stage = rng.randrange(len(ends) + 1)
        removed = len(ends) if stage > self.max_stage else min(stage, len(ends))
        replaced = min(stage, self.max_stage)
        thoughts = self.c_thought * (replaced if self.pad_latent_to_max else min(replaced, len(ends)))
        left = row["student"][ends[removed - 1] if removed else 0 :]
        return {"question": row["question"], "student": left, "thoughts": thoughts}

    def check_run(
        self, config: ModelConfig, started: bool, epochs: float, epoch_steps: int = 1000
    ) -> list[str]:
        """Coconut needs a model that writes its rationale, no projection, and epochs for all stages."""
        if config.projection:
            raise RecipeError(
                "Coconut feeds the hidden state back as it is, but model.projection is on. "
                "Set model.projection=false."
            )
        if self.stage is not None:
            return [f"Coconut stays in stage {self.stage}."]
        if not (started or self.explicit_epochs):
            raise RecipeError(
                "Coconut starts from a model that writes its rationale. Give a CoT-SFT checkpoint "
                "(start=FOLDER), or train stage 0 first in the same run (method.explicit_epochs=N)."
            )
        needed = self.explicit_epochs + self.max_stage * self.epochs_per_stage
        if epochs <= needed:
            raise RecipeError(
                f"The last of Coconut's stages begins after {needed:g} epochs, but the run has {epochs:g}. "
                "Train longer, or lower method.epochs_per_stage or method.max_stage."
            )
        return [f"Coconut's last stage begins after {needed:g} of {epochs:g} epochs."]

    def thought_positions(self, latents: int | None = None) -> int:
        """<bot>, the latents, <eot>."""
        return 2 + (self._latents if latents is None else latents)

    @property
    def _latents(self) -> int:
        stage = self.max_stage if self.stage is None else min(self.stage, self.max_stage)
        return self.c_thought * stage

    def start(
        self, model: ThoughtModel, text: TextEncoder, question: Tokens, mode: str, latents: int | None = None
    ) -> Start:
        """Q <bot> z_1..z_n <eot>, and in the last stage the answer prompt; before that, steps are written."""
        n = self._latents if latents is None else latents
        if n < 0:
            raise UsageError(f"{n} latents were asked for; the number must be 0 or more.")
        begun = model.read(append(question, [model.bot_id])).context
        is_last = self.stage is None or self.stage > self.max_stage
        written = text.prompt_ids if is_last else []
        after = Tokens.repeated([model.eot_id, *written], begun.rows, model.device)
        context = model.read(after, after=model.think(after=begun, steps=n)).context
        return Start(context, written=written, thoughts=n + 2, passes=n + 2)
