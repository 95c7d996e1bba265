"""PCCoT's training step as its paper describes it and its published code runs it.

    teacher    Q r                            one pass, logits at every position
    pass 0     Q <bot> l ... l                the question again; of its cache, Q <bot> is kept
    pass 1..T  x_1 ... x_M                    after that kept part, copied for each pass
    answer     <eot> y                        after the last pass, logits at every position

Here the latents see what the question alone would show them; in the published code they see its padding too.
Nothing of `ThoughtModel.read`, `refine` or `Context` is used. The reference of `codi bench train`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from codi.bench.paper_literal import (
    IGNORED,
    Output,
    distance_of,
    labels_of,
    masks_of,
    mean_cross_entropy,
    positions_of,
    question_and_rationale,
    student_pass,
)
from codi.methods.method import Batch
from codi.methods.pccot import LATENT, Pccot
from codi.modeling.model import ThoughtModel


def literal_pccot_step(model: ThoughtModel, method: Pccot, batch: Batch) -> dict[str, Tensor]:
    """The scalars `loss`, `student`, `distillation` and `teacher` of one collated batch."""
    llm, rows, number = model.causal, batch["question_ids"].shape[0], method.latents
    wte = llm.get_input_embeddings()
    kind = wte.weight.dtype
    bot, eot = (row.to(kind).expand(rows, 1, -1) for row in model.thought_tokens)
    place = model.rows[LATENT].to(kind).expand(rows, number, -1)
    question_mask, y_mask = masks_of(batch, "student")
    one, reading = question_mask.new_ones(rows, 1), question_mask.new_ones(rows, number)

    ids, teacher_mask, labels, at_teacher = question_and_rationale(batch)
    teacher = llm(
        inputs_embeds=wte(ids), attention_mask=teacher_mask, position_ids=positions_of(teacher_mask),
        output_hidden_states=True, use_cache=False,
    )  # fmt: skip
    loss_teacher = mean_cross_entropy(teacher.logits, labels)

    begun_mask = torch.cat([question_mask, one], 1)
    begun, mask = begun_mask.shape[1], torch.cat([begun_mask, reading], 1)
    cache = DynamicCache(config=llm.config)
    out = student_pass(llm, torch.cat([wte(batch["question_ids"]), bot, place], 1), mask, cache)
    layers: Any = cache.layers
    kept = [(layer.keys[:, :, :begun], layer.values[:, :, :begun]) for layer in layers]
    x = model.projection(out.hidden_states[-1][:, begun - 1 : begun - 1 + number])
    for _ in range(method.rounds):
        cache = DynamicCache(config=llm.config)
        for layer, (keys, values) in enumerate(kept):
            cache.update(keys, values, layer)
        out = student_pass(llm, x, mask, cache)
        x = torch.cat([x[:, :1], model.projection(out.hidden_states[-1])[:, :-1]], 1)

    mask = torch.cat([mask, one, y_mask], 1)
    student = student_pass(llm, torch.cat([eot, wte(batch["student_ids"])], 1), mask, cache)
    ignored = torch.full_like(one, IGNORED)
    loss_student = mean_cross_entropy(student.logits, torch.cat([ignored, labels_of(batch, "student")], 1))
    loss_kd = _distillation(method, teacher, student, at_teacher, batch["student_distillation"])
    loss = method.alpha * loss_student + method.beta * loss_kd + method.gamma * loss_teacher
    return {"loss": loss, "student": loss_student, "distillation": loss_kd, "teacher": loss_teacher}


def _distillation(
    method: Pccot, teacher: Output, student: Output, at_teacher: Tensor, at_student: Tensor
) -> Tensor:
    """Smooth L1 at the prompt's last token over layers 1 .. L, divided by the teacher's deviation."""
    row, first = torch.arange(len(at_teacher), device=at_teacher.device), int(method.layers == "blocks")
    theirs = torch.stack([h[row, at_teacher].detach().float() for h in teacher.hidden_states[first:]])
    ours = torch.stack([h[row, at_student].float() for h in student.hidden_states[first:]])
    if method.std == "all":
        return distance_of(method.distance, ours - theirs) / theirs.std()
    each = [distance_of(method.distance, o - t) / t.std() for o, t in zip(ours, theirs, strict=True)]
    return torch.stack(each).mean()
