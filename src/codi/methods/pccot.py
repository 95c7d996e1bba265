"""PCCoT: parallel continuous chain of thought (Wu et al., 2025, arXiv 2506.18582).

    pass 0     Q <bot>  l   l   l  ...  l                     every l is the learned row <latent>
                  │     │   │   │
                  └──┐  └─┐ └─┐ └─┐     x_1 = f(h at <bot>), x_j = f(h at place j - 1 of the pass before)
    pass 1 .. T         x_1 x_2 x_3 ... x_M                   all M at once, each pass anew after Q <bot>
    answer     Q <bot>  x_1 x_2 x_3 ... x_M  <eot>  The answer is : 12 eos     keys, values of the last pass

CODI's training (`codi.py`: teacher, student, distillation) around Jacobi iteration in place of one thought
after the other: T + 2 passes to the answer's first token instead of M + 2. After pass t the first t thoughts
are those that CODI would think, so T = M is CODI's student, and T = 0 is pause tokens.

Letters are CODI's: the paper's loss is alpha CE_cot + beta CE_ccot + gamma KD, here gamma, alpha and beta.
The published code and this file differ in one thing: there the latents see the left padding of a question;
here they see what the same question alone would show them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from codi.data.encoding import TextEncoder
from codi.errors import RecipeError, UsageError
from codi.methods.codi import Codi
from codi.methods.method import Batch, Start, register, start_writing
from codi.modeling.context import Context, Tokens
from codi.modeling.model import Reading, ThoughtModel

LATENT = "<latent>"


@register
@dataclass(frozen=True)
class Pccot(Codi):
    """CODI's losses over thoughts that are refined together. Defaults are those of the published GPT-2 run.

    f is `model.projection`: off in the published runs (model.projection=false).
    """

    name: ClassVar[str] = "pccot"
    rows: ClassVar[tuple[str, ...]] = (LATENT,)
    refines: ClassVar[bool] = True

    latents: int = 24
    """M, continuous thoughts; 0 leaves <bot><eot> alone."""
    rounds: int = 3
    """T, passes over them after the first; 0 makes them pause tokens."""
    layers: str = "blocks"
    """`blocks`: layers 1..L (published), or `all` hidden states, embeddings included."""
    std: str = "layer"
    """`layer`: each layer's distance is divided by the deviation of its own teacher states (GPT-2); `all`: by
    one deviation over all layers (LLaMA-1B)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 0:
            raise RecipeError(f"method.rounds is {self.rounds}; it must be 0 or more.")
        if self.std not in ("layer", "all"):
            raise RecipeError(f"method.std is '{self.std}'; it must be 'layer' or 'all'.")

    def think(self, model: ThoughtModel, question: Tokens, latents: int) -> tuple[Context, Context]:
        """The contexts after the question and after its thoughts: 1 + T passes."""
        rows = question.ids.shape[0]
        bot = Tokens.repeated([model.bot_id], rows, model.device)
        if latents == 0:
            return model.read_two(question, bot)
        empty = Tokens.repeated([model.row_id(LATENT)] * latents, rows, model.device)
        asked, begun, places = model.read_parts([question, bot, empty])  # pass 0
        rounds = model.refine(places, begun.context, self.rounds, update=model.projection)
        return asked.context, rounds[-1].context

    def distill(self, teacher: Reading, student: Reading, batch: Batch) -> Tensor:
        """CODI's distance; with `std: all`, divided by one deviation of all the teacher's states."""
        if self.std == "layer" or not self.divide_by_std:
            return super().distill(teacher, student, batch)
        assert teacher.hidden_states is not None
        row = torch.arange(teacher.final.shape[0], device=teacher.final.device)
        states = teacher.hidden_states[1 if self.layers == "blocks" else 0 :]
        scale = torch.stack([h[row, batch["teacher_distillation"]].detach().float() for h in states]).std()
        plain = replace(self, divide_by_std=False).distill(teacher, student, batch)
        return plain / (scale**2 if self.distance == "l2" else scale)

    def start(
        self, model: ThoughtModel, text: TextEncoder, question: Tokens, mode: str, latents: int | None = None
    ) -> Start:
        """latent: 1 + T passes, then <eot> and the answer prompt in one; explicit: as teacher."""
        if mode == "explicit":
            return start_writing(model, question)
        number = self.latents if latents is None else latents
        if number < 0:
            raise UsageError(f"{number} latents were asked for; the number must be 0 or more.")
        thoughts = self.think(model, question, number)[1]
        prompt = Tokens.repeated([model.eot_id, *text.prompt_ids], thoughts.rows, model.device)
        context = model.read(prompt, after=thoughts).context
        passes = 2 + (self.rounds if number else 0)
        return Start(context, written=text.prompt_ids, thoughts=number + 2, passes=passes)
