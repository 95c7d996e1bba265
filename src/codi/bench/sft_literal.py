"""Supervised fine-tuning as transformers itself does it: one pass, labels on all but question and padding.

    input    Q  r_1 ... r_k  The answer is : 12 eos
    labels   .  r_1 ... r_k  The answer is : 12 eos

What CoT-SFT's step and, on a shortened rationale, iCoT's are held against: the oracle of the tests and the
reference of `codi bench`. Nothing of `ThoughtModel.read` or `Context` is used.
"""

from __future__ import annotations

import torch
from torch import Tensor

from codi.methods.method import Batch
from codi.modeling.model import ThoughtModel

IGNORED = -100  # what transformers' loss leaves out


def literal_sft_step(model: ThoughtModel, batch: Batch) -> dict[str, Tensor]:
    """The scalars `loss` and `teacher` of one collated batch."""
    ids = torch.cat([batch["question_ids"], batch["teacher_ids"]], 1)
    mask = torch.cat([batch["question_mask"], batch["teacher_mask"]], 1)
    labels = torch.cat([torch.zeros_like(batch["question_mask"]), batch["teacher_mask"]], 1)
    loss: Tensor = model.causal(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        labels=ids.masked_fill(labels == 0, IGNORED),
        use_cache=False,
    ).loss
    return {"loss": loss, "teacher": loss}
