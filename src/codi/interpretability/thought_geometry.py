"""Where thoughts lie beside the token embeddings: what is fed back, its size, its neighbours (paper, 3.3).

fed back        z_i after the projection (without one: z_i itself)            [d]
norm            its length, in mean lengths of a token embedding
nearest token   cosine to the token embedding that is nearest in direction
before          cosine to the thought fed back just before, of the same question
other question  cosine to the same thought of another question: 1 where it says nothing of the question
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from codi.errors import UsageError
from codi.evaluation.benchmarks import format_question
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.thinking import in_batches, think_through


@dataclass(frozen=True)
class ThoughtGeometry:
    """Means over n questions, by thought; before: from the second thought on.

    tokens_nearest: mean cosine of a token embedding to the nearest other one; random_nearest: of a random
    direction to the nearest token.
    """

    n: int
    norm: list[float]
    nearest: list[float]
    before: list[float]
    other_question: list[float]
    tokens_nearest: float
    random_nearest: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def thought_geometry(
    reasoner: LatentReasoner, questions: Sequence[str], *, seed: int = 0, batch_size: int = 128
) -> ThoughtGeometry:
    """Think over the questions and measure what was fed back. seed: of the random directions.

    Raises UsageError for fewer than two questions, or a model without thoughts.
    """
    if len(questions) < 2:
        raise UsageError(f"{len(questions)} questions were given; thoughts are compared between two or more.")
    texts = [format_question(question) for question in questions]
    batches = in_batches(len(texts), batch_size)
    fed = torch.cat(
        [think_through(reasoner, [texts[row] for row in rows]).latents.cpu().float() for rows in batches]
    )
    tokens = reasoner.model.causal.get_input_embeddings().weight.detach().cpu().float()
    tokens = tokens[: len(reasoner.tokenizer)]
    directions, known = F.normalize(fed, dim=-1), F.normalize(tokens, dim=-1)
    among = known @ known.T - 2 * torch.eye(known.shape[0])
    draw = torch.Generator().manual_seed(seed)
    chance = F.normalize(torch.randn(1000, tokens.shape[1], generator=draw), dim=-1)
    return ThoughtGeometry(
        n=len(texts),
        norm=_by_thought(fed.norm(dim=-1) / tokens.norm(dim=-1).mean()),
        nearest=_by_thought((directions @ known.T).amax(-1)),
        before=_by_thought((directions[:, 1:] * directions[:, :-1]).sum(-1)),
        other_question=_by_thought((directions * directions.roll(1, 0)).sum(-1)),
        tokens_nearest=float(among.amax(-1).mean()),
        random_nearest=float((chance @ known.T).amax(-1).mean()),
    )


def _by_thought(values: Tensor) -> list[float]:
    """values: [questions, thoughts]. Their means over questions."""
    means: list[float] = values.mean(0).tolist()
    return means
