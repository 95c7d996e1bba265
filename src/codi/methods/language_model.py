"""Language modelling: next-token prediction over whole texts, the question included. For making a base.

    Q  r_1 ... r_k  The answer is : 12 eos          every token after the first is learned

Fine-tuning learns what follows a question; a base also knows what questions look like.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from codi.methods.cot_sft import CotSft
from codi.methods.method import Batch, register
from codi.modeling.context import Tokens
from codi.modeling.model import ThoughtModel


@register
@dataclass(frozen=True)
class LanguageModel(CotSft):
    """Cross entropy on question, steps and answer. It answers as CoT-SFT does."""

    name: ClassVar[str] = "language-model"
    terms: ClassVar[tuple[str, ...]] = ("text",)
    needs_rationales: ClassVar[bool] = False

    def loss(
        self, model: ThoughtModel, batch: Batch, divisors: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """-1/N sum log P(t_i | t_<i), t = [Q, r]."""
        n = divisors or self.divisors(batch)
        q, r = Tokens.of(batch, "question"), Tokens.of(batch, "teacher")
        t = Tokens(torch.cat([q.ids, r.ids], 1), torch.cat([q.mask, r.mask], 1))
        final = model.read(t).final
        known = t.mask[:, 1:] * t.mask[:, :-1]  # the first of a row follows padding
        loss = model.cross_entropy(final[:, :-1], t.ids[:, 1:], known) / n["text"]
        return {"loss": loss, "text": loss}

    def divisors(self, batch: Batch) -> dict[str, Tensor]:
        """Tokens of t but for the first of each row."""
        rows = batch["question_mask"].shape[0]
        return {"text": batch["question_mask"].sum() + batch["teacher_mask"].sum() - rows}
