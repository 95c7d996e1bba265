"""CODI: continuous chain of thought via self-distillation (Shen et al., 2025, arXiv 2502.21074).

    teacher   Q ──────────────────── r_1 ... r_k   The answer is  :  12 eos      learns r = [c, y]   (Eq. 2)
              │ one pass, shared                                  │
              │                                           h_teacher, stop-gradient
              │                                                   ▼ distance, layer by layer         (Eq. 5)
              │                                               h_student
              │                                                   │
    student   Q  <bot>  z_1 z_2 ... z_6  <eot>     The answer is  :  12 eos      learns y            (Eq. 3)

z_{i+1} = projection(last hidden state at z_i);  z_1 comes from <bot>.  At inference only the student runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from codi.data.collation import Encoded
from codi.data.encoding import TextEncoder
from codi.data.example import Example
from codi.errors import RecipeError, UsageError
from codi.methods.method import Batch, Method, Start, append, prepend, register, start_writing
from codi.modeling.context import Context, Tokens
from codi.modeling.model import Reading, ThoughtModel

DISTANCES = {"smooth-l1": F.smooth_l1_loss, "l1": F.l1_loss, "l2": F.mse_loss}


@register
@dataclass(frozen=True)
class Codi(Method):
    """The paper's method. Options and defaults are those of the published GPT-2 run."""

    name: ClassVar[str] = "codi"
    modes: ClassVar[tuple[str, ...]] = ("latent", "explicit")
    terms: ClassVar[tuple[str, ...]] = ("student", "distillation", "teacher")
    needs_rationales: ClassVar[bool] = True
    encoded_by: ClassVar[tuple[str, ...]] = ("keep_last_step",)

    latents: int = 6
    """Continuous thoughts; 0 leaves <bot><eot> alone."""
    alpha: float = 1.0
    """Weight of the student's loss (Eq. 1)."""
    beta: float = 1.0
    """Weight of the distillation (Eq. 1); 20 for LLaMA-1B."""
    gamma: float = 1.0
    """Weight of the teacher's loss (Eq. 1)."""
    distance: str = "smooth-l1"
    """smooth-l1 (published code), l1 (Eq. 5) or l2."""
    layers: str = "all"
    """`all` hidden states, embeddings included (published code), or `blocks`: layers 1..M (Eq. 5)."""
    divide_by_std: bool = True
    """Divide by the standard deviation of the teacher's states over the batch (section 3.5)."""
    keep_last_step: bool = False
    """Keep the step that states the answer in the teacher's rationale (Table 2, "w/ CoT last step")."""
    share_question: bool = True
    """Read the question once for both tasks; False runs it twice, as the paper writes it."""

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES:
            raise RecipeError(
                f"method.distance is '{self.distance}'; it must be one of {', '.join(DISTANCES)}."
            )
        if self.layers not in ("all", "blocks"):
            raise RecipeError(f"method.layers is '{self.layers}'; it must be 'all' or 'blocks'.")
        if self.latents < 0:
            raise RecipeError(f"method.latents is {self.latents}; it must be 0 or more.")

    def loss(
        self, model: ThoughtModel, batch: Batch, divisors: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """L = alpha L_student + beta L_KD + gamma L_teacher (Eq. 1)."""
        n = divisors or self.divisors(batch)
        asked, z = self.think(model, Tokens.of(batch, "question"), self.latents)
        return self.learn(model, batch, n, asked, z)[0]

    def think(self, model: ThoughtModel, question: Tokens, latents: int) -> tuple[Context, Context]:
        """The contexts after the question and after its thoughts."""
        bot = Tokens.repeated([model.bot_id], question.ids.shape[0], model.device)
        asked, begun = model.read_two(question, bot)
        return asked, model.think(after=begun, steps=latents)

    def learn(
        self, model: ThoughtModel, batch: Batch, n: dict[str, Tensor], asked: Context, z: Context,
        attention_of: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], Reading]:  # fmt: skip
        """The terms of what follows the question and its thoughts, and the teacher's reading (see `feed`)."""
        y, r = Tokens.of(batch, "student"), Tokens.of(batch, "teacher")
        if not self.share_question:
            asked = model.read(Tokens.of(batch, "question")).context

        teacher = model.read(r, after=asked, hidden_states=True, attention_of=attention_of)
        before_r = torch.cat([asked.last_hidden.unsqueeze(1), teacher.final[:, :-1]], 1)
        loss_teacher = model.cross_entropy(before_r, r) / n["teacher"]  # Eq. 2

        student = model.read(prepend(model.eot_id, y), after=z, hidden_states=True)
        loss_student = model.cross_entropy(student.final, y) / n["student"]  # Eq. 3

        loss_kd = self.distill(teacher, student, batch) / n["rows"]  # Eq. 5
        loss = self.alpha * loss_student + self.beta * loss_kd + self.gamma * loss_teacher
        terms = {"loss": loss, "student": loss_student, "distillation": loss_kd, "teacher": loss_teacher}
        return terms, teacher

    def distill(self, teacher: Reading, student: Reading, batch: Batch) -> Tensor:
        """Distance at the distillation token, mean over layers, summed over rows (Eq. 5). A scalar."""
        assert teacher.hidden_states is not None
        assert student.hidden_states is not None
        row = torch.arange(student.final.shape[0], device=student.final.device)
        layers = slice(1 if self.layers == "blocks" else 0, None)
        distances = []
        for h_teacher, h_student in zip(
            teacher.hidden_states[layers], student.hidden_states[layers], strict=True
        ):
            target = h_teacher[row, batch["teacher_distillation"]].detach().float()
            state = h_student[row, batch["student_distillation"]].float()
            distance = DISTANCES[self.distance](state, target, reduction="none").mean(-1).sum()
            scale = target.std() if self.divide_by_std else target.new_ones(())
            distances.append(distance / (scale**2 if self.distance == "l2" else scale))
        return torch.stack(distances).mean()

    def encode(self, example: Example, text: TextEncoder) -> Encoded:
        """Segments: question; teacher = rationale + answer; student = answer.

        A one-step problem has an empty rationale, unless its last step is kept.
        """
        steps = example.steps if self.keep_last_step else example.steps[:-1]
        rationale, answer = text.rationale(steps), text.answer(example.answer)
        return {
            "question": text.question(example.question),
            "teacher": rationale + answer.ids,
            "student": answer.ids,
            "teacher_distillation": len(rationale) + answer.distillation,
            "student_distillation": 1 + answer.distillation,  # <eot> comes first
        }

    def divisors(self, batch: Batch) -> dict[str, Tensor]:
        """Tokens of y and of r, and rows."""
        student = batch["student_mask"].sum()
        return {
            "student": student,
            "teacher": batch["teacher_mask"].sum(),
            "rows": torch.ones_like(student) * batch["student_mask"].shape[0],
        }

    def thought_positions(self, latents: int | None = None) -> int:
        """<bot>, the latents, <eot>."""
        return 2 + (self.latents if latents is None else latents)

    def start(
        self, model: ThoughtModel, text: TextEncoder, question: Tokens, mode: str, latents: int | None = None
    ) -> Start:
        """latent: Q <bot> z_1..z_n, then <eot> and the answer prompt in one pass; explicit: as teacher."""
        if mode == "explicit":
            return start_writing(model, question)
        steps = self.latents if latents is None else latents
        if steps < 0:
            raise UsageError(f"{steps} latents were asked for; the number must be 0 or more.")
        begun = model.read(append(question, [model.bot_id])).context
        thoughts = model.think(after=begun, steps=steps)
        prompt = Tokens.repeated([model.eot_id, *text.prompt_ids], begun.rows, model.device)
        context = model.read(prompt, after=thoughts).context
        return Start(context, written=text.prompt_ids, thoughts=steps + 2, passes=steps + 2)
