"""What the literal oracles of PCCoT, SIM-CoT, KaVa and LOTUS share: one row at a time, no padding, no cache.

Every pass runs the whole sequence from its beginning through transformers' own model; nothing of `read`,
`think`, `refine` or `Context` is used, only weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from codi.modeling.model import ThoughtModel


@dataclass
class Pass:
    """One whole sequence. logits: [t, vocabulary]; states: [t, d] per layer, embeddings first."""

    logits: Tensor
    states: list[Tensor]
    output: Any

    @property
    def h(self) -> Tensor:
        """[t, d], after the final norm."""
        return self.states[-1]


def embedded(model: ThoughtModel, ids: list[int]) -> Tensor:
    """[t, d] of tokens of the vocabulary."""
    weight: Tensor = model.causal.get_input_embeddings().weight
    return weight[torch.tensor(ids, dtype=torch.long)]


def whole_pass(model: ThoughtModel, *parts: Tensor, **options: Any) -> Pass:
    """parts: [t, d] each, joined to one sequence."""
    inputs = torch.cat(parts).unsqueeze(0)
    output = model.causal(inputs_embeds=inputs, output_hidden_states=True, **options)
    return Pass(output.logits[0], [state[0] for state in output.hidden_states], output)


def summed_ce(logits: Tensor, targets: list[int]) -> Tensor:
    """logits: [t, vocabulary], each of the place before its target."""
    return F.cross_entropy(logits.float(), torch.tensor(targets, dtype=torch.long), reduction="sum")


def pccot_latents(model: ThoughtModel, question: list[int], latents: int, rounds: int) -> Tensor:
    """x^T of section 1.2 of the method: [M, d], by Jacobi iteration over whole sequences."""
    bot, place = model.thought_tokens[:1], model.rows["<latent>"].unsqueeze(0)
    x, q = place.expand(latents, -1), embedded(model, question)
    for _ in range(rounds):
        h = whole_pass(model, q, bot, x).h
        x = model.projection(h[len(question) : len(question) + latents])  # at <bot>, latent 1 .. M - 1
    return x
