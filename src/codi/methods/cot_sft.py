"""CoT-SFT: fine-tuning on the written rationale and the answer (the paper's explicit baseline).

    Q  r_1 ... r_k  The answer is : 12 eos

The loss covers everything after the question Q.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from codi.data.collation import Encoded
from codi.data.encoding import TextEncoder
from codi.data.example import Example
from codi.methods.method import Batch, Method, Start, predicted_after, register, start_writing
from codi.modeling.context import Tokens
from codi.modeling.model import ThoughtModel


@register
@dataclass(frozen=True)
class CotSft(Method):
    """Cross entropy on all steps and the answer."""

    name: ClassVar[str] = "cot-sft"
    modes: ClassVar[tuple[str, ...]] = ("explicit",)
    terms: ClassVar[tuple[str, ...]] = ("teacher",)
    needs_rationales: ClassVar[bool] = True
    one_loss: ClassVar[bool] = True
    encoded_by: ClassVar[tuple[str, ...]] = ("keep_last_step",)

    keep_last_step: bool = True
    """False leaves out the step that states the answer, as CODI's teacher does: for a static teacher."""

    def loss(
        self, model: ThoughtModel, batch: Batch, divisors: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """-1/N sum log P(r_i | r_<i, Q), r = [rationale, answer] (Eq. 2)."""
        n = divisors or self.divisors(batch)
        asked = model.read(Tokens.of(batch, "question")).context
        loss = predicted_after(model, asked, Tokens.of(batch, "teacher")) / n["teacher"]
        return {"loss": loss, "teacher": loss}

    def encode(self, example: Example, text: TextEncoder) -> Encoded:
        """Segments: question; teacher = steps + answer."""
        steps = example.steps if self.keep_last_step else example.steps[:-1]
        return {
            "question": text.question(example.question),
            "teacher": text.rationale(steps) + text.answer(example.answer).ids,
        }

    def divisors(self, batch: Batch) -> dict[str, Tensor]:
        """Tokens of r."""
        return {"teacher": batch["teacher_mask"].sum()}

    def start(
        self, model: ThoughtModel, text: TextEncoder, question: Tokens, mode: str, latents: int | None = None
    ) -> Start:
        """Read the question; the rationale, the prompt and the answer are all written token by token."""
        return start_writing(model, question)
