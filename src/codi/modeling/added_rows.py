"""The rows that published code adds to a vocabulary: where they start, and what they score in a loss.

CODI's released code makes its embedding longer by three rows (padding, <bot>, <eot>) with transformers'
`resize_token_embeddings`, and under LoRA never moves them:

    start      the vocabulary's mean, and a hair beside it: N(mean, 1e-9 covariance)
    softmax    over the vocabulary and the three, for the head has rows for them too (GPT-2's is tied)

Here <bot> and <eot> are rows of our own, padding has none (it is masked), and the head knows the vocabulary
alone. Both choices are options: `model.new_rows`, `model.softmax`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from codi.errors import RecipeError

STARTS = ("drawn", "mean")
SOFTMAXES = ("vocabulary", "added-rows")
RESIZE_EPSILON = 1e-9
"""Share of the vocabulary's covariance that transformers lets new rows have."""


def check_choices(new_rows: str, softmax: str) -> None:
    """Raise RecipeError for a choice that there is not."""
    for name, value, known in (("new_rows", new_rows, STARTS), ("softmax", softmax, SOFTMAXES)):
        if value not in known:
            raise RecipeError(f"model.{name} is '{value}'; it must be {' or '.join(known)}.")


@torch.no_grad()
def start_at_mean(rows: Iterable[Tensor], embedding: Tensor) -> None:
    """Put rows [.., d] where `resize_token_embeddings` puts new ones. embedding: [vocabulary, d]."""
    if embedding.device.type == "meta":
        return
    table = embedding.float()
    mean, number = table.mean(0), table.shape[0]
    for row in rows:
        # a sum of the centred rows with normal weights has their covariance, without its square root
        drawn = torch.randn(*row.shape[:-1], number, device=table.device)
        row.copy_(mean + (RESIZE_EPSILON / number) ** 0.5 * (drawn @ (table - mean)))


def added_scores(causal: Any, thought_tokens: Tensor, hidden: Tensor) -> Tensor:
    """What the head's rows of padding, <bot> and <eot> score. hidden: [.., d]. Returns [.., 3].

    A tied head has the embedding's rows; one of its own has three at its mean. Padding's is the mean itself.
    """
    embedding, head = causal.get_input_embeddings().weight, causal.get_output_embeddings().weight
    mean = head.detach().mean(0, dtype=torch.float32).unsqueeze(0)
    own = thought_tokens.float() if head is embedding else mean.expand(2, -1)
    return hidden @ torch.cat([mean, own]).to(hidden.dtype).T
