"""The CoT shift (paper, Eq. 4 and Appendix B): do the thoughts move the state as the written rationale does?

    h_CoT ≈ h_no-CoT + f(R)         a rationale R adds a shift to the state of the query token

    plain     Q                            The answer is  :   ->  h_no-CoT
    teacher   Q  c_1 ... c_k               The answer is  :   ->  h_teacher
    student   Q  <bot> z_1 ... z_n <eot>   The answer is  :   ->  h_student     all at the distillation token

    rationale's shift   h_teacher - h_no-CoT          what Eq. 4 calls f
    thoughts' shift     h_student - h_no-CoT          what distillation (Eq. 5) pulls towards it

Teacher and student are encoded, read and looked up as `Codi.loss` does it, so what is measured is what is
trained: the rationale lacks its last step (unless that was kept), and a static teacher is its own model. The
plain state is the teacher's, of the same example without steps. What stands before the token also moves its
position, and both shifts contain what that changes.

Layers 1 to M are reported; the last is after the final norm. The embedding below them attends to nothing: the
only thing a rationale changes there is the position, and with rotary positions not even that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from codi.data.collation import Encoded, collate
from codi.data.encoding import first_too_long
from codi.data.example import Example
from codi.errors import DataError, UsageError
from codi.evaluation.statistics import mean_std
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.distilled_token import student_states, written_states
from codi.interpretability.thinking import in_batches, watching
from codi.methods.codi import Codi
from codi.methods.static_teacher import StaticTeacher, load_teacher
from codi.modeling.context import Tokens
from codi.modeling.model import ThoughtModel, ThoughtWatcher

_NORMAL_95 = 1.959964  # two-sided quantile of the normal distribution


@dataclass(frozen=True, slots=True)
class Average:
    """A mean over examples with its 95 % interval (normal approximation); one example has none."""

    mean: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Average:
        """The average of one or more values."""
        mean, deviation = mean_std(values)
        if deviation is None:
            return cls(mean, None, None)
        margin = _NORMAL_95 * deviation / len(values) ** 0.5
        return cls(mean, mean - margin, mean + margin)


@dataclass(frozen=True, slots=True)
class LayerShift:
    """Both shifts in one layer (from 1; layer M is after the final norm).

    cosine: between the two shifts, 1 where thoughts move the state in the rationale's direction;
    norm_ratio: |thoughts' shift| / |rationale's shift|;
    distance: |h_student - h_teacher| / |rationale's shift|, 0 where they agree; the plain state itself has 1.
    """

    layer: int
    cosine: Average
    norm_ratio: Average
    distance: Average


@dataclass(frozen=True, slots=True)
class CotShift:
    """Shifts layer by layer over `examples` examples; `without_rationale` others had none to read."""

    examples: int
    without_rationale: int
    layers: list[LayerShift]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def cot_shift(
    reasoner: LatentReasoner,
    examples: Sequence[Example],
    *,
    latents: int | None = None,
    batch_size: int = 64,
    on_progress: Callable[[int, int], None] | None = None,
) -> CotShift:
    """Measure the shifts of a model trained with a teacher and a student, over examples with rationales.

    Args:
        reasoner: a CODI model, or one trained under a static teacher (which is loaded).
        examples: those without a rationale before the last step (one-step problems) are left out and counted.
        latents: another number than trained.
        batch_size: examples read at a time.
        on_progress: called with (examples done, examples in all) after each batch.

    Raises:
        UsageError: a method without teacher and student, or a batch size below 1.
        DataError: no example has a rationale, one is too long, or one's rationale moves nothing.
        CheckpointError: a static teacher cannot be loaded.
    """
    method = reasoner.method
    if not isinstance(method, Codi) or method.refines:
        raise UsageError(
            f"A {method.name} model has no teacher and student to compare, so no CoT shift can be measured. "
            "Give a model trained with method.name=codi or codi-static-teacher."
        )
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; it must be 1 or more.")
    thoughts = method.latents if latents is None else latents
    kept, encoded = _encode(reasoner, method, examples, latents)
    teacher = reasoner.model
    if isinstance(method, StaticTeacher):
        method.check_start(reasoner.model, reasoner.text)
        teacher = load_teacher(method.teacher, str(reasoner.model.device))
        method.release()  # held by its name here, and freed with it
    measured: list[Tensor] = []
    for batch in in_batches(len(kept), batch_size):
        rows = collate([encoded[number] for number in batch], reasoner.text.pad_id)
        rows = {name: tensor.to(reasoner.model.device) for name, tensor in rows.items()}
        # A watcher that only looks on: whatever else watches (and changes) thoughts is set aside.
        with watching(reasoner.model, ThoughtWatcher()):
            states = _states(reasoner.model, teacher, thoughts, rows)
        measured.append(compare_shifts(*(_wide(state) for state in states)))
        if on_progress is not None:
            on_progress(batch.stop, len(kept))
    values = torch.cat(measured, -1)
    _check_finite(values, kept)
    layers = [
        LayerShift(number, *(Average.of(values[kind, number - 1].tolist()) for kind in range(3)))
        for number in range(1, values.shape[1] + 1)
    ]
    return CotShift(len(kept), len(examples) - len(kept), layers)


def compare_shifts(plain: Tensor, teacher: Tensor, student: Tensor) -> Tensor:
    """Cosine, ratio of norms and relative distance: [3, ..] from states [.., d].

    A rationale that moves nothing gives no finite values; thoughts that move nothing have cosine 0.
    """
    rationale, thoughts = teacher - plain, student - plain
    scale = rationale.norm(dim=-1)
    cosine = F.cosine_similarity(thoughts, rationale, dim=-1, eps=torch.finfo(plain.dtype).tiny)
    ratios = [thoughts.norm(dim=-1) / scale, (student - teacher).norm(dim=-1) / scale]
    return torch.stack([cosine, *ratios])


def rows_that_fit_with_rationale(
    reasoner: LatentReasoner, examples: Sequence[Example], latents: int | None = None
) -> list[Example]:
    """The examples that the model can take in with their rationale and with their thoughts.

    All of them for a method that has no teacher and student: `cot_shift` refuses it.
    """
    method, limit = reasoner.method, reasoner.model.longest_sequence
    if not isinstance(method, Codi) or limit is None:
        return list(examples)
    thoughts = method.thought_positions(latents)
    return [e for e in examples if _length(method.encode(e, reasoner.text), thoughts) <= limit]


def _length(row: Encoded, thoughts: int) -> int:
    """Positions that an encoded example takes: the teacher's or the student's, whichever are more."""
    longest: int = max(len(row["teacher"]), thoughts + len(row["student"]))
    return len(row["question"]) + longest


def _encode(
    reasoner: LatentReasoner, method: Codi, examples: Sequence[Example], latents: int | None
) -> tuple[list[Example], list[Encoded]]:
    """The examples with a rationale, and their segments: those of training, and `plain`."""
    kept, encoded = list[Example](), list[Encoded]()
    for example in examples:
        row = method.encode(example, reasoner.text)
        plain = method.encode(replace(example, steps=()), reasoner.text)
        if row["teacher"] != plain["teacher"]:
            kept.append(example)
            encoded.append(
                row | {"plain": plain["teacher"], "plain_distillation": plain["teacher_distillation"]}
            )
    if not kept:
        raise DataError(
            f"None of the {len(examples)} examples has a rationale before its last step, so there is no CoT "
            "shift to measure. Give examples of two or more steps, with their steps."
        )
    limit = reasoner.model.longest_sequence
    if limit is not None:
        lengths = [_length(row, method.thought_positions(latents)) for row in encoded]
        too_long = first_too_long(lengths, kept, limit)
        if too_long is not None:
            raise DataError(
                f"Example '{too_long}' is longer than the {limit} positions the model can take in, with its "
                "rationale or its thoughts. Leave it out."
            )
    return kept, encoded


def _states(
    model: ThoughtModel, teacher: ThoughtModel, latents: int, batch: dict[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """States of layers 1..M at the distillation token: plain, teacher, student. [M, b, d]"""
    asked = teacher.read(Tokens.of(batch, "question")).context
    return (
        written_states(teacher, asked, batch, "plain")[1:],
        written_states(teacher, asked, batch)[1:],
        student_states(model, latents, batch)[1:],
    )


def _wide(state: Tensor) -> Tensor:
    """In double precision, on the CPU: some accelerators have none, and shifts are small differences."""
    return state.cpu().double()


def _check_finite(values: Tensor, kept: list[Example]) -> None:
    """values: [3, M, n]. Raises DataError about the first example whose rationale moves nothing."""
    broken = (~values.isfinite()).any(0).nonzero().tolist()
    if broken:
        layer, number = broken[0]
        raise DataError(
            f"In layer {layer + 1} the rationale of example '{kept[number].id}' does not move the state (or "
            "the state is not finite), so nothing can be measured against its shift. Check the checkpoint, "
            "or leave the example out."
        )
