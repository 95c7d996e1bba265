"""LOTUS: blocks of latents in a loop, each block told to say its step (2026, arXiv 2606.31779).

    loop 0      Q <bot>  l .. l | l .. l | ... l .. l          K blocks of c places; l is the row <latent>
    loop 1..R   Q <bot>  input at place j = E(l) + h_j         h_j: state of the loop before, same place
                         says    says          says            through the LM head, just before each place
                         step 1  step 2        step K          L_steps
    suffix      Q <bot>  places of the last loop  <eot>  steps beyond K  ### 12 eos         L_suffix

    stage s     K = R = s: the first s steps are blocks, the others text; stage 0 is CoT with <bot> <eot>

L = L_suffix + 0.05 L_steps. Nothing is detached, there is no projection, and the optimiser goes on over the
stages. When answering, <eot> follows the last loop, and what steps are left are written before the answer.

Decided here, where paper and code leave it open: a step longer than c keeps its first c tokens (the code lets
it run into the next block's places); with `step_loss: own-loop`, block k (from 1) is read from loop k.
Left out: the auxiliary decoder (see sim_cot), CODI's term from a frozen teacher, whose weight is not known.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from codi.data.collation import Encoded, Nested
from codi.data.encoding import TextEncoder
from codi.data.example import Example
from codi.errors import RecipeError, UsageError
from codi.methods.method import Batch, Method, Start, Trained, append, prepend, register
from codi.modeling.configuration import ModelConfig
from codi.modeling.context import Context, Tokens, laid_out
from codi.modeling.model import ThoughtModel

LATENT = "<latent>"


@register
@dataclass(frozen=True)
class Lotus(Method):
    """The staged loop. Defaults are those of the published GPT-2 run."""

    name: ClassVar[str] = "lotus"
    modes: ClassVar[tuple[str, ...]] = ("latent",)
    terms: ClassVar[tuple[str, ...]] = ("suffix", "steps")
    rows: ClassVar[tuple[str, ...]] = (LATENT,)
    refines: ClassVar[bool] = True
    needs_rationales: ClassVar[bool] = True
    encoded_by: ClassVar[tuple[str, ...]] = ()

    blocks: int = 6
    """K of the last stage: steps that are thought."""
    width: int = 13
    """c, places of a block; 25 for LLaMA."""
    loops: int | None = None
    """R, passes over the places after the first; None: as many as the stage has blocks (published)."""
    epochs_per_stage: float = 1.0
    """Epochs of stages 0 to K - 1; the last lasts until the run ends."""
    step_weight: float = 0.05
    """Weight of L_steps."""
    step_loss: str = "last-loop"
    """Where L_steps is read: `last-loop` (GPT-2, 3B) or `own-loop`, block k from loop k (LLaMA-1B)."""
    feedback: str = "add"
    """`add`: E(<latent>) + h, or `replace`: h alone."""
    stage: int | None = None
    """A stage to stay at; None follows the curriculum in training and answers as in the last stage."""

    def __post_init__(self) -> None:
        for name, least in (("blocks", 1), ("width", 1), ("loops", 1), ("stage", 0), ("step_weight", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise RecipeError(f"method.{name} is {value}; it must be {least} or more.")
        if self.epochs_per_stage <= 0:
            raise RecipeError(f"method.epochs_per_stage is {self.epochs_per_stage}; it must be above 0.")
        for name, known in (("step_loss", ("last-loop", "own-loop")), ("feedback", ("add", "replace"))):
            if (value := getattr(self, name)) not in known:
                raise RecipeError(f"method.{name} is '{value}'; it must be {' or '.join(known)}.")

    def loss(
        self, model: ThoughtModel, batch: Batch, divisors: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """L = L_suffix + step_weight L_steps, each a mean over its tokens."""
        n = divisors or self.divisors(batch)
        z, says = self.think(model, Tokens.of(batch, "question"), self._blocks * self.width)
        y = Tokens.of(batch, "student")
        final = model.read(prepend(model.eot_id, y), after=z).final
        suffix = model.cross_entropy(final, y) / n["suffix"]
        number = torch.where(n["steps"] > 0, n["steps"], 1)  # a mean over processes may be below 1
        told = model.cross_entropy(says, self._told(batch)) if self._blocks else torch.zeros_like(suffix)
        step = told / number
        return {"loss": suffix + self.step_weight * step, "suffix": suffix, "steps": step}

    def think(self, model: ThoughtModel, question: Tokens, latents: int) -> tuple[Context, Tensor]:
        """1 + R passes. The context after the last loop; [b, latents, d], the states before each place."""
        bot = append(question, [model.bot_id])
        if latents == 0:
            context = model.read(bot).context
            return context, context.last_hidden[:, None, :][:, :0]
        empty = Tokens.repeated([model.row_id(LATENT)] * latents, question.ids.shape[0], model.device)
        e = model.embed(empty.ids) if self.feedback == "add" else 0.0
        begun, places = model.read_parts([bot, empty])
        loops = model.refine(places, begun.context, self.loops_of_stage, update=lambda h: e + h, shift=0)
        before = [torch.cat([begun.final[:, -1:], loop.final[:, :-1]], 1) for loop in loops]
        if self.step_loss == "last-loop":
            return loops[-1].context, before[-1]
        blocks = range(0, latents, self.width)
        own = [before[min(k, self.loops_of_stage)][:, at : at + self.width] for k, at in enumerate(blocks, 1)]
        return loops[-1].context, torch.cat(own, 1)

    def _told(self, batch: Batch) -> Tokens:
        """What each place is to say: steps [b, s, t], at most K of at most c tokens, laid out in [b, K c]."""
        ids, mask, places = batch["steps_ids"], batch["steps_mask"], batch.get("steps_places")
        shape, blocks = tuple(ids.shape[1:]), (self._blocks, self.width)
        missing = (0, self.width - shape[1], 0, self._blocks - shape[0])
        places = None if places is None else laid_out(places, shape, blocks)
        return Tokens(F.pad(ids, missing).flatten(1), F.pad(mask, missing).flatten(1), places)

    def thought_name(self, number: int) -> str:
        """`z2.5`: block 2, place 5."""
        return f"z{number // self.width + 1}.{number % self.width + 1}"

    @property
    def _blocks(self) -> int:
        return self.blocks if self.stage is None else min(self.stage, self.blocks)

    @property
    def loops_of_stage(self) -> int:
        """R."""
        return self._blocks if self.loops is None else self.loops

    def encode(self, example: Example, text: TextEncoder) -> Encoded:
        """Segments: question; student = all steps + answer. step_ends: where each step ends in it."""
        (steps, ends), answer = text.steps(example.steps), text.answer(example.answer).ids
        return {"question": text.question(example.question), "student": steps + answer, "step_ends": ends}

    def staged(self, row: Encoded, stage: int, rng: random.Random) -> Encoded:
        """The first steps moved from the text into blocks."""
        ends, ids = [0, *row["step_ends"]], row["student"]
        removed = min(stage, self.blocks, len(ends) - 1)
        steps = Nested(ids[ends[k] : ends[k + 1]][: self.width] for k in range(removed))
        return {"question": row["question"], "student": ids[ends[removed] :], "steps": steps}

    def divisors(self, batch: Batch) -> dict[str, Tensor]:
        """Tokens of the suffix, and of the steps in blocks."""
        return {"suffix": batch["student_mask"].sum(), "steps": batch["steps_mask"].sum()}

    def stage_at(self, step: int, epoch_steps: int) -> int:
        """0, 1, ... for `epochs_per_stage` each, to K, the last."""
        due = min(step // max(1, round(self.epochs_per_stage * epoch_steps)), self.blocks)
        return due if self.stage is None else self.stage

    def begins_afresh(
        self, stage: int, new_stage: bool, new_epoch: bool, before: Callable[[], Iterable[Trained]]
    ) -> bool:
        """Never: one optimiser for all stages."""
        return False

    def at_stage(self, stage: int) -> Lotus:
        """With `stage` set."""
        return replace(self, stage=stage)

    def check_run(
        self, config: ModelConfig, started: bool, epochs: float, epoch_steps: int = 1000
    ) -> list[str]:
        """No projection, and epochs for all stages."""
        if config.projection:
            raise RecipeError(
                "LOTUS adds the hidden state to the input as it is, but model.projection is on. "
                "Set model.projection=false."
            )
        needed = self.blocks * self.epochs_per_stage
        if self.stage is None and epochs <= needed:
            raise RecipeError(
                f"The last of LOTUS's stages begins after {needed:g} epochs, but the run has {epochs:g}. "
                "Train longer, or lower method.epochs_per_stage or method.blocks."
            )
        last = f"'s last stage begins after {needed:g} of {epochs:g} epochs"
        told = last if self.stage is None else f" stays in stage {self.stage}"
        return [f"LOTUS{told}. Of a step, {self.width} tokens are learned in its block."]

    def thought_positions(self, latents: int | None = None) -> int:
        """<bot>, the places, <eot>."""
        return 2 + (self._blocks * self.width if latents is None else latents)

    def start(
        self, model: ThoughtModel, text: TextEncoder, question: Tokens, mode: str, latents: int | None = None
    ) -> Start:
        """1 + R passes, then <eot>; what is left of the steps, and the answer, is written."""
        number = self._blocks * self.width if latents is None else latents
        if 0 < number < self._blocks:
            raise UsageError(
                f"{number} latents were asked for, but this model thinks in {self._blocks} blocks of one at "
                f"least: ask for {self._blocks} or more (trained with {self._blocks * self.width}), or 0."
            )
        z = self.think(model, question, number)[0]
        context = model.read(Tokens.repeated([model.eot_id], z.rows, model.device), after=z).context
        return Start(context, [], thoughts=number + 2, passes=2 + (self.loops_of_stage if number else 0))
