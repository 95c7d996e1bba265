"""Language modelling: next-token prediction over whole texts, the question included. For making a base.

    Q  r_1 ... r_k  The answer is : 12 eos          every token after the first is learned
    w  1   ...  1    1   ...        1   1

Fine-tuning learns what follows a question; a base also knows what questions look like. Much of a question is
chance (who comes, which number): with w below 1 it leaves more of the gradient to what can be known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

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
        t = Tokens.joined([q, r])
        before = F.pad(model.read(t).final, (0, 0, 1, 0))  # the state before each token, and one after all
        width = q.ids.shape[1]
        known = q.mask * F.pad(q.mask[:, :-1], (1, 0))  # the first of a row follows padding
        question = model.cross_entropy(before[:, :width], replace(q, mask=known))
        rest = model.cross_entropy(before[:, width:], r)
        loss = (self.question_weight * question + rest) / n["text"]
        return {"loss": loss, "text": loss}

    def divisors(self, batch: Batch) -> dict[str, Tensor]:
        """The weights of all tokens of t but for the first of each row."""
        rows = batch["question_mask"].shape[0]
        question = batch["question_mask"].sum() - rows
        return {"text": self.question_weight * question + batch["teacher_mask"].sum()}
