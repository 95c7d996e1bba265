"""A method of your own in one file: CODI, its states pulled together by their direction alone.

    python examples/new_method.py                          # a few steps of a tiny model, then one question
    python examples/new_method.py --steps 2400 --output runs/cosine

What a method says is in `codi.methods.method.Method`. `@register` makes it known by its name, its fields are
options that recipes set (`method.latents=3`) and checkpoints remember. A checkpoint of it is loaded where
this file has been imported; a file in `src/codi/methods/` always is.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

import codi
from codi.errors import RecipeError
from codi.methods.codi import Codi
from codi.methods.method import Batch, register
from codi.modeling.model import Reading

QUESTION = "Mia collects apples. On Monday she finds 2 more. She starts with 7. How many are there now?"


@register
@dataclass(frozen=True)
class CosineCodi(Codi):
    """L = alpha L_student + beta L_cos + gamma L_teacher, with 1 - cos(h_teacher, h_student) for Eq. 5."""

    name: ClassVar[str] = "codi-cosine"

    floor: float = 0.0
    """Distances below it are left alone: 0.1 asks for no more than nearly the same direction."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.floor < 2:
            raise RecipeError(f"method.floor is {self.floor}; a cosine distance lies between 0 and 2.")

    def distill(self, teacher: Reading, student: Reading, batch: Batch) -> Tensor:
        """The distance at the distillation token, mean over layers, summed over rows. A scalar."""
        assert teacher.hidden_states is not None
        assert student.hidden_states is not None
        row = torch.arange(student.final.shape[0], device=student.final.device)
        distances = []
        for h_teacher, h_student in zip(teacher.hidden_states, student.hidden_states, strict=True):
            target = h_teacher[row, batch["teacher_distillation"]].detach().float()
            state = h_student[row, batch["student_distillation"]].float()
            distance = 1 - F.cosine_similarity(state, target, dim=-1)
            distances.append(distance.clamp(min=self.floor).sum())
        return torch.stack(distances).mean()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=4, help="steps of training")
    parser.add_argument("--rows", type=int, default=64, help="generated problems to learn from")
    parser.add_argument("--output", type=Path, default=Path("runs/new-method"), help="folder of the run")
    asked = parser.parse_args(arguments)

    settings = {
        "method.name": "codi-cosine",
        "method.beta": 1.0,
        "data.train": f"word-problems?count={asked.rows}",
        "data.validation_limit": 16,
        "training.max_steps": asked.steps,
        "training.eval_steps": asked.steps,
        "training.logging_steps": 1,
    }
    result = codi.train("word-problems", asked.output, settings, overwrite=True)
    answer = result.reasoner().answer([QUESTION], max_new_tokens=32)[0]
    print(f"{QUESTION}\n{answer.text.strip()}  ({answer.thoughts} thought tokens, {answer.passes} passes)")


if __name__ == "__main__":
    main()
