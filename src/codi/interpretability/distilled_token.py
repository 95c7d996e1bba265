"""The state at the token before the answer, in teacher and student: where CODI's distance acts (paper, 3.4).

    teacher   Q  c_1 ... c_k               The answer is  :   ->  h_teacher
    student   Q  <bot> z_1 ... z_n <eot>   The answer is  :   ->  h_student     both at the distillation token

Segments are encoded, read and looked up as `Codi.loss` does it, so what is looked at is what is trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from codi.data.arithmetic import shown
from codi.data.collation import collate
from codi.data.equations import Equation, all_equations
from codi.data.example import Example
from codi.errors import DataError, UsageError
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.probes import LEAST_PER_CLASS, probe_states
from codi.interpretability.thinking import in_batches, watching
from codi.methods.codi import Codi
from codi.methods.method import append, prepend
from codi.modeling.context import Context, Tokens
from codi.modeling.model import Reading, ThoughtModel, ThoughtWatcher

ROLES = ("teacher", "student")


def own_teacher_of(reasoner: LatentReasoner, what: str) -> Codi:
    """The method of a model that is teacher and student at once. what: needs one, in words.

    Raises UsageError for another.
    """
    method = reasoner.method
    if type(method) is not Codi:
        raise UsageError(
            f"{what} needs a model that is its own teacher, but this one was trained with {method.name}. "
            "Give one trained with method.name=codi."
        )
    return method


def written_states(
    model: ThoughtModel, asked: Context, batch: dict[str, Tensor], segment: str = "teacher"
) -> Tensor:
    """States of layers 0..M at the distillation token of a written segment. [M + 1, b, d]"""
    written = model.read(Tokens.of(batch, segment), after=asked, hidden_states=True)
    return _at(written, batch[f"{segment}_distillation"])


def student_states(model: ThoughtModel, latents: int, batch: dict[str, Tensor]) -> Tensor:
    """The same of the student, which thinks first. [M + 1, b, d]"""
    begun = model.read(append(Tokens.of(batch, "question"), [model.bot_id])).context
    y = prepend(model.eot_id, Tokens.of(batch, "student"))
    thought = model.think(after=begun, steps=latents)
    return _at(model.read(y, after=thought, hidden_states=True), batch["student_distillation"])


def _at(reading: Reading, position: Tensor) -> Tensor:
    """The states of all layers at each row's position [b]. Returns [M + 1, b, d]."""
    assert reading.hidden_states is not None
    row = torch.arange(position.shape[0], device=position.device)
    return torch.stack([state[row, position] for state in reading.hidden_states])


def distilled_states(
    reasoner: LatentReasoner, examples: Sequence[Example], *, batch_size: int = 128
) -> Tensor:
    """Teacher's and student's states at the distillation token, on the CPU: [examples, 2, layers + 1, d].

    Raises UsageError where there is no example, and for a model that is not its own teacher.
    """
    method = own_teacher_of(reasoner, "The state that is distilled")
    if not examples:
        raise UsageError("No examples were given, so there is no state to look at. Give at least one.")
    model, found = reasoner.model, list[Tensor]()
    encoded = [method.encode(example, reasoner.text) for example in examples]
    for rows in in_batches(len(encoded), batch_size):
        batch = collate([encoded[row] for row in rows], reasoner.text.pad_id)
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        with watching(model, ThoughtWatcher()), model.whole_weights():
            asked = model.read(Tokens.of(batch, "question")).context
            states = [written_states(model, asked, batch), student_states(model, method.latents, batch)]
        found.append(torch.stack(states).permute(2, 0, 1, 3).cpu())
    return torch.cat(found)


@dataclass(frozen=True)
class ResultProbe:
    """One probe: the result of `step` (from 1; the last is the answer) in one role's state at one layer.

    accuracy, control_accuracy, majority: shares of the n_test held-out problems, see `probes`; classes:
    results told apart; left_out: problems whose result is too rare to learn.
    """

    role: str
    step: int
    layer: int
    accuracy: float
    control_accuracy: float
    majority: float
    n_train: int
    n_test: int
    classes: int
    left_out: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def probe_results(
    reasoner: LatentReasoner,
    examples: Sequence[Example],
    *,
    seed: int = 0,
    least_per_class: int = LEAST_PER_CLASS,
) -> list[ResultProbe]:
    """Probe the result of every step, the last one's too, at the distillation token of teacher and student.

    All examples must have as many steps, of one equation each. A probe is trained on one part of them and
    measured on the rest.

    Raises:
        DataError: examples of different numbers of steps, or steps without an equation of their own.
        UsageError: a model that is not its own teacher, too few examples, or without scikit-learn.
    """
    results = [step_results(example) for example in examples]
    sizes = {len(each) for each in results}
    if len(sizes) > 1:
        raise DataError(
            f"Probes at the token before the answer compare the same step of all problems, but these have "
            f"{', '.join(map(str, sorted(sizes)))} steps. Give problems with one number of steps."
        )
    states = distilled_states(reasoner, examples)
    found = list[ResultProbe]()
    for step in range(sizes.pop()):
        labels = [each[step] for each in results]
        counts = Counter(labels)
        kept = [row for row, label in enumerate(labels) if counts[label] >= least_per_class]
        probes = probe_states(
            states[kept], [labels[row] for row in kept], step=step + 1, seed=seed,
            least_per_class=least_per_class, left_out=len(labels) - len(kept),
        )  # fmt: skip
        for probe in probes:
            values = probe.as_dict() | {"role": ROLES[probe.thought - 1]}
            found.append(ResultProbe(**{name: values[name] for name in ResultProbe.__dataclass_fields__}))
    return found


def step_results(example: Example) -> list[str]:
    """The result of each step. Raises DataError where a step has not one equation."""
    found: list[Equation] = all_equations(example)
    if not found or len(found) != len(example.steps):
        raise DataError(
            f"Problem '{example.id}' has {len(example.steps)} steps with {len(found)} equations; each step "
            "must have one (<<3*4=12>>)."
        )
    return [shown(equation.result) or equation.said for equation in found]
