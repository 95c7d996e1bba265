"""No-CoT-SFT: fine-tuning on the answer alone (the paper's direct baseline).

    Q  The answer is : 12 eos

The loss covers everything after the question Q.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from codi.data.collation import Encoded
from codi.data.encoding import TextEncoder
from codi.data.example import Example
from codi.methods.method import Batch, Method, Start, append, predicted_after, register
from codi.modeling.context import Tokens
from codi.modeling.model import ThoughtModel


@register
@dataclass(frozen=True)
class NoCotSft(Method):
    """Cross entropy on the answer."""

    name: ClassVar[str] = "no-cot-sft"
    modes: ClassVar[tuple[str, ...]] = ("direct",)
    terms: ClassVar[tuple[str, ...]] = ("student",)
    encoded_by: ClassVar[tuple[str, ...]] = ()

    def loss(
        self, model: ThoughtModel, batch: Batch, divisors: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """-1/N sum log P(y_i | y_<i, Q)."""
        n = divisors or self.divisors(batch)
        asked = model.read(Tokens.of(batch, "question")).context
        loss = predicted_after(model, asked, Tokens.of(batch, "student")) / n["student"]
        return {"loss": loss, "student": loss}

    def encode(self, example: Example, text: TextEncoder) -> Encoded:
        """Segments: question; student = answer."""
        return {"question": text.question(example.question), "student": text.answer(example.answer).ids}

    def divisors(self, batch: Batch) -> dict[str, Tensor]:
        """Tokens of y."""
        return {"student": batch["student_mask"].sum()}

    def start(
        self, model: ThoughtModel, text: TextEncoder, question: Tokens, mode: str, latents: int | None = None
    ) -> Start:
        """Question and answer prompt in one pass."""
        context = model.read(append(question, text.prompt_ids)).context
        return Start(context, written=text.prompt_ids, thoughts=0, passes=1)
