"""Coconut's training step as its paper describes it and its published code runs it.

    pass 0    Q <bot>                the hidden state at <bot> takes the place of the first latent's embedding
    pass i    z_i                    one position more, after the cache; the list of embeddings is built anew
    last      <eot> remaining steps and answer

Logits are computed at every position of every pass, and the loss over all of them joined. Nothing of
`ThoughtModel.read`, `think` or `Context` is used. The oracle of the tests and the reference of `codi bench`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from codi.methods.method import Batch
from codi.modeling.context import given_to
from codi.modeling.model import ThoughtModel

IGNORED = -100  # what cross_entropy leaves out


def literal_coconut_step(model: ThoughtModel, batch: Batch) -> dict[str, Tensor]:
    """The scalars `loss` and `student` of one collated batch, whose rows all think the same number.

    Raises ValueError when they do not: the published code pads rows so that their latents stand aligned.
    """
    counts = sorted(set(batch["thoughts"].tolist()))
    if len(counts) != 1:
        raise ValueError(f"The rows think {counts} latents; the literal step takes one number.")
    latents, llm = int(counts[0]), model.causal
    wte = llm.get_input_embeddings()
    rows, asked = batch["question_ids"].shape
    bot, eot = (row.to(wte.weight.dtype).expand(rows, 1, -1) for row in model.thought_tokens)
    placeholder = torch.zeros_like(bot).expand(rows, latents, -1)
    embeds = torch.cat([wte(batch["question_ids"]), bot, placeholder, eot, wte(batch["student_ids"])], 1)
    ones = batch["question_mask"].new_ones(rows, latents + 2)
    mask = torch.cat([batch["question_mask"], ones, batch["student_mask"]], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache, logits = DynamicCache(config=llm.config), []
    ends = [asked + 1 + i for i in range(latents + 1)] + [embeds.shape[1]]
    begin = 0
    for end in ends:
        if begin == end:
            continue
        out = llm(
            inputs_embeds=embeds[:, begin:end],
            attention_mask=mask[:, :end],
            position_ids=positions[:, begin:end],
            use_cache=True,
            output_hidden_states=True,
            **given_to(llm, cache),
        )
        logits.append(out.logits)
        if end < asked + 1 + latents:  # the next position is a latent
            pieces = [[embeds[row, place] for place in range(embeds.shape[1])] for row in range(rows)]
            for row in range(rows):
                pieces[row][end] = out.hidden_states[-1][row, -1]
            embeds = torch.stack([torch.stack(row) for row in pieces])
        begin = end
    ignored = torch.full((rows, asked + latents + 2), IGNORED, device=embeds.device)
    labels = torch.cat([ignored, batch["student_ids"].masked_fill(batch["student_mask"] == 0, IGNORED)], 1)
    scores = torch.cat(logits, 1)[:, :-1].flatten(0, 1).float()
    loss = F.cross_entropy(scores, labels[:, 1:].flatten(), ignore_index=IGNORED)
    return {"loss": loss, "student": loss}
