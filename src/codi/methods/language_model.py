"""Language modelling: next-token prediction over whole texts, the question included. For making a base.

    Q  r_1 ... r_k  The answer is : 12 eos          every token after the first is learned
    w  1   ...  1    1   ...        1   1

Fine-tuning learns what follows a question; a base also knows what questions look like. Much of a question is
chance (who comes, which number): with w below 1 it leaves more of the gradient to what can be known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from codi.errors import RecipeError
from codi.methods.cot_sft import CotSft
from codi.methods.method import Batch, register
from codi.modeling.context import Tokens
from codi.modeling.model import ThoughtModel


@register
@dataclass(frozen=True)
class LanguageModel(CotSft):
    """Cross entropy on question, steps and answer. It answers as CoT-SFT does.

    question_weight: w, what a token of the question counts, 0 to 1; any other token counts 1.
    """

    question_weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.question_weight <= 1:
            raise RecipeError(
                f"method.question_weight is {self.question_weight}; it must lie between 0 (questions are not "
                "learned) and 1 (as any other text)."
            )

    name: ClassVar[str] = "language-model"
    terms: ClassVar[tuple[str, ...]] = ("text",)
    needs_rationales: ClassVar[bool] = False

    def loss(
        self, model: ThoughtModel, batch: Batch, divisors: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """-1/N sum w_i log P(t_i | t_<i), t = [Q, r]."""
        n = divisors or self.divisors(batch)
        q, r = Tokens.of(batch, "question"), Tokens.of(batch, "teacher")
        t = Tokens(torch.cat([q.ids, r.ids], 1), torch.cat([q.mask, r.mask], 1))
        final = model.read(t).final
        known = t.mask[:, 1:] * t.mask[:, :-1]  # the first of a row follows padding
        of_q = torch.arange(1, t.ids.shape[1], device=known.device) < q.ids.shape[1]
        question, rest = (
            model.cross_entropy(final[:, :-1], t.ids[:, 1:], known * part) for part in (of_q, ~of_q)
        )
        loss = (self.question_weight * question + rest) / n["text"]
        return {"loss": loss, "text": loss}

    def divisors(self, batch: Batch) -> dict[str, Tensor]:
        """The weights of all tokens of t but for the first of each row."""
        rows = batch["question_mask"].shape[0]
        question = batch["question_mask"].sum() - rows
        return {"text": self.question_weight * question + batch["teacher_mask"].sum()}
