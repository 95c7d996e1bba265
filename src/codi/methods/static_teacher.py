"""CODI with a separate static teacher (Table 2): two models instead of one, and no self-distillation.

    frozen    Q  r_1 ... r_k   The answer is  :                    a CoT-SFT checkpoint; it never moves
                                              │
                                          h_teacher
                                              ▼ distance                                             (Eq. 5)
    student   Q  <bot>  z_1 ... z_6  <eot>  The answer is  :  12 eos                                 (Eq. 3)
    (with `multitask_student` the student also learns r, as in CODI)                                 (Eq. 2)

Train the teacher first, on rationales without their last step as CODI's teacher reads them:
method.name=cot-sft method.keep_last_step=false.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from codi.data.encoding import TextEncoder
from codi.errors import CheckpointError, RecipeError
from codi.methods.codi import Codi
from codi.methods.method import Batch, append, predicted_after, prepend, register
from codi.modeling import checkpoint
from codi.modeling.configuration import ModelConfig
from codi.modeling.context import Tokens
from codi.modeling.model import ThoughtModel

_PROBE = "Tom has 12 apples, he's buying 3.5 more: <<12+3.5=15.5>>. 1,530 % of it. The answer is: 15"
"""Text that both tokenizers must cut alike."""


@register
@dataclass(frozen=True)
class StaticTeacher(Codi):
    """CODI's student under a teacher of its own. `gamma` weighs the multitask student's loss on r."""

    name: ClassVar[str] = "codi-static-teacher"
    modes: ClassVar[tuple[str, ...]] = ("latent",)

    teacher: str = ""
    """Folder or hub id of the frozen teacher; same base architecture, same tokenizer."""
    multitask_student: bool = False
    """Let the student learn to write the rationale too (Table 2, "w/ multitask student")."""

    def loss(
        self, model: ThoughtModel, batch: Batch, divisors: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """L = alpha L_student + beta L_KD, and gamma L_teacher for a multitask student."""
        n = divisors or self.divisors(batch)
        question, r = Tokens.of(batch, "question"), Tokens.of(batch, "teacher")
        frozen = load_teacher(self.teacher, str(model.device))
        with torch.no_grad():
            teacher = frozen.read(r, after=frozen.read(question).context, hidden_states=True)

        begun = model.read(append(question, [model.bot_id])).context
        y, z = Tokens.of(batch, "student"), model.think(after=begun, steps=self.latents)
        student = model.read(prepend(model.eot_id, y), after=z, hidden_states=True)
        loss_student = model.cross_entropy(student.final, y) / n["student"]
        loss_kd = self.distill(teacher, student, batch) / n["rows"]
        loss_teacher = torch.zeros_like(loss_student)
        if self.multitask_student:
            loss_teacher = predicted_after(model, model.read(question).context, r) / n["teacher"]
        loss = self.alpha * loss_student + self.beta * loss_kd + self.gamma * loss_teacher
        return {"loss": loss, "student": loss_student, "distillation": loss_kd, "teacher": loss_teacher}

    def check_start(self, model: ThoughtModel, text: TextEncoder) -> None:
        """The teacher must read the student's token ids as the student does, and have its shape.

        Raises RecipeError where it does not or where no teacher is named, CheckpointError without one.
        """
        if not self.teacher:
            raise RecipeError(
                "A static teacher needs a checkpoint. Train one with method.name=cot-sft "
                "method.keep_last_step=false, and give its folder as method.teacher."
            )
        tokenizer = checkpoint.load_tokenizer(str(checkpoint.locate(self.teacher)))
        theirs, ours = tokenizer.get_vocab(), text.tokenizer.get_vocab()
        other = next((token for token in sorted(ours) if theirs.get(token) != ours[token]), None)
        if other is None and len(theirs) != len(ours):
            other = next(token for token in sorted(theirs) if token not in ours)
        if other is not None:
            raise RecipeError(
                f"The static teacher '{self.teacher}' has another tokenizer than the student: {other!r} is "
                f"token {theirs.get(other, 'of none')} for the teacher and {ours.get(other, 'of none')} for "
                "the student, so the teacher would read other words. Train both with the same tokenizer=..."
            )
        cut, wanted = (
            one(_PROBE, add_special_tokens=False)["input_ids"] for one in (tokenizer, text.tokenizer)
        )
        if cut != wanted:
            raise RecipeError(
                f"The tokenizer of the static teacher '{self.teacher}' cuts text into other tokens than the "
                "student's. Train both with the same tokenizer=..."
            )
        frozen = load_teacher(self.teacher, "cpu")
        if (frozen.hidden_size, frozen.layers) != (model.hidden_size, model.layers):
            raise RecipeError(
                f"The static teacher '{self.teacher}' has {frozen.layers} layers of width "
                f"{frozen.hidden_size}, the student {model.layers} of {model.hidden_size}: they cannot be "
                "compared layer by layer."
            )

    def release(self) -> None:
        """Free the teacher: it would stay on the GPU for as long as the process lives."""
        load_teacher.cache_clear()

    def check_run(
        self, config: ModelConfig, started: bool, epochs: float, epoch_steps: int = 1000
    ) -> list[str]:
        """Says what a second model costs."""
        frozen = load_teacher(self.teacher, "cpu")
        weights = sum(weight.numel() for weight in frozen.parameters())
        size = sum(weight.numel() * weight.element_size() for weight in frozen.parameters())
        load_teacher.cache_clear()  # on a GPU the copy above would stay beside the one that is used
        saved = checkpoint.read_configuration(checkpoint.locate(self.teacher))["method"]
        keeps = bool(saved.get("keep_last_step", saved["name"] == "cot-sft"))
        notes = []
        if keeps != self.keep_last_step:
            notes.append(
                f"The teacher was trained {'with' if keeps else 'without'} the last step of rationales and "
                f"reads it {'with' if self.keep_last_step else 'without'}: method.keep_last_step differs."
            )
        return [
            *notes,
            f"Static teacher '{self.teacher}': a second model of {weights:,} weights "
            f"({size / 2**20:,.0f} MiB) stays in memory, and every step reads the question once more in it.",
        ]


@lru_cache(maxsize=2)
def load_teacher(folder: str, device: str) -> ThoughtModel:
    """The frozen teacher. Raises CheckpointError when it cannot be loaded."""
    path = checkpoint.locate(folder)
    saved = checkpoint.read_configuration(path)
    try:
        model = checkpoint.load_model(path, ModelConfig.from_dict(saved["model"]))
    except checkpoint.BaseMoved as error:
        raise CheckpointError(
            f"{error}\nA static teacher is given whole: codi merge {folder} --base FOLDER --output MERGED, "
            "and method.teacher=MERGED."
        ) from error
    return model.requires_grad_(False).eval().to(device)
