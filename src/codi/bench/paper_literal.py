"""CODI's training step as the paper writes it (Eq. 1-5, Figure A1) and its published code runs it.

    teacher, for Eq. 2     Q r          a pass of its own, logits at every position
    teacher, for Eq. 5     Q r          a second pass, without gradient
    student                Q <bot>  z_1 .. z_n  <eot> y      the question a third time, logits in every pass

Nothing of `ThoughtModel.read`, `think` or `Context` is used, only weights: the causal LM, the projection and
the two thought-token rows. That makes it the oracle of the tests and the reference of `codi bench train`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from codi.methods.codi import Codi
from codi.methods.method import Batch
from codi.modeling.context import given_to
from codi.modeling.model import ThoughtModel

IGNORED = -100  # what cross_entropy leaves out


def literal_step(model: ThoughtModel, method: Codi, batch: Batch) -> dict[str, Tensor]:
    """The scalars `loss`, `student`, `distillation` and `teacher` of one collated batch."""
    llm, rows = model.causal, batch["question_ids"].shape[0]
    wte = llm.get_input_embeddings()
    bot, eot = (row.to(wte.weight.dtype).expand(rows, 1, -1) for row in model.thought_tokens)
    one = batch["question_mask"].new_ones(rows, 1)
    x, y, x_mask, y_mask = wte(batch["question_ids"]), wte(batch["student_ids"]), *masks_of(batch, "student")

    # Teacher learning (Eq. 2), and once more for the states to distil, without gradient
    ids, teacher_mask, labels, at_teacher = question_and_rationale(batch)
    x_cot_y = wte(ids)
    seen = {"attention_mask": teacher_mask, "position_ids": positions_of(teacher_mask)}
    learning = llm(inputs_embeds=x_cot_y, **seen, output_hidden_states=True, use_cache=False)
    loss_teacher = mean_cross_entropy(learning.logits, labels)
    with torch.no_grad():
        teacher = llm(inputs_embeds=x_cot_y, **seen, output_hidden_states=True, use_cache=False)

    # Student: continuous thoughts, each the projected last hidden state of the pass before (section 3.3)
    cache = DynamicCache(config=llm.config)
    inputs, mask = torch.cat([x, bot], 1), torch.cat([x_mask, one], 1)
    out = student_pass(llm, inputs, mask, cache)
    for _ in range(method.latents):
        latent = model.projection(out.hidden_states[-1][:, -1:])
        mask = torch.cat([mask, one], 1)
        out = student_pass(llm, latent, mask, cache)

    # Student learning (Eq. 3): the thoughts' cache, then <eot> y
    mask = torch.cat([mask, one, y_mask], 1)
    student = student_pass(llm, torch.cat([eot, y], 1), mask, cache)
    loss_student = mean_cross_entropy(
        student.logits, torch.cat([torch.full_like(one, IGNORED), labels_of(batch, "student")], 1)
    )

    # Knowledge distillation (Eq. 5), at the token before the answer
    row = torch.arange(rows, device=x.device)
    first = 0 if method.layers == "all" else 1
    distances = []
    for h_t, h_s in zip(teacher.hidden_states[first:], student.hidden_states[first:], strict=True):
        h_teacher, h_student = h_t[row, at_teacher].float(), h_s[row, batch["student_distillation"]].float()
        distance = distance_of(method.distance, h_student - h_teacher)
        if method.divide_by_std:  # section 3.5
            distance = distance / h_teacher.std() ** (2 if method.distance == "l2" else 1)
        distances.append(distance)
    loss_kd = torch.stack(distances).mean()

    loss = method.alpha * loss_student + method.beta * loss_kd + method.gamma * loss_teacher  # Eq. 1
    return {"loss": loss, "student": loss_student, "distillation": loss_kd, "teacher": loss_teacher}


def distance_of(kind: str, difference: Tensor) -> Tensor:
    """Mean over all components of |x|, x squared, or x squared / 2 below 1 and |x| - 1/2 above."""
    size = difference.abs()
    if kind == "l1":
        return size.mean()
    square = difference.square()
    return square.mean() if kind == "l2" else torch.where(size < 1, square / 2, size - 0.5).mean()


def student_pass(llm: torch.nn.Module, inputs: Tensor, mask: Tensor, cache: DynamicCache) -> Output:
    """One pass that extends the cache. inputs: [b, t, d]; mask: [b, s + t]. The cache changes in place."""
    output: Output = llm(
        inputs_embeds=inputs,
        attention_mask=mask,
        position_ids=positions_of(mask)[:, -inputs.shape[1] :],
        use_cache=True,
        output_hidden_states=True,
        **given_to(llm, cache),
    )
    return output


class Output:
    """What is used of a causal LM's output. logits: [b, t, vocabulary]; hidden_states: [b, t, d] a layer."""

    logits: Tensor
    hidden_states: tuple[Tensor, ...]


def question_and_rationale(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """[Q, r] of each row joined, padded to the right: ids, mask and labels [b, t]; distillation place [b]."""
    ids = torch.cat([batch["question_ids"], batch["teacher_ids"]], 1)
    mask = torch.cat(masks_of(batch, "teacher"), 1)
    labels = torch.cat([torch.full_like(batch["question_ids"], IGNORED), labels_of(batch, "teacher")], 1)
    question_length = batch["question_mask"].sum(1)
    shift = batch["question_mask"].shape[1] - question_length  # left padding to take away
    place = torch.arange(int(mask.sum(1).max()), device=ids.device) + shift.unsqueeze(1)
    inside, place = place < ids.shape[1], place.clamp(max=ids.shape[1] - 1)
    joined_mask = mask.gather(1, place) * inside
    joined_labels = labels.gather(1, place).masked_fill(joined_mask == 0, IGNORED)
    return ids.gather(1, place), joined_mask, joined_labels, question_length + batch["teacher_distillation"]


def masks_of(batch: Batch, answer: str) -> tuple[Tensor, Tensor]:
    """Of the question and of a segment, [b, t] each."""
    return batch["question_mask"], batch[f"{answer}_mask"]


def positions_of(mask: Tensor) -> Tensor:
    """Position ids [b, t] that leave padding out."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def labels_of(batch: Batch, answer: str) -> Tensor:
    """A segment's ids, `IGNORED` at padding."""
    return batch[f"{answer}_ids"].masked_fill(batch[f"{answer}_mask"] == 0, IGNORED)


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the labelled positions. logits: [b, t, vocabulary]; labels: [b, t], of the same positions."""
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED
    )
