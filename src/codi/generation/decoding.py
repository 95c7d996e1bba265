"""Token-by-token decoding of a batch of answers, greedy or sampled.

A row that has written its end-of-sequence token leaves the batch, so finished rows cost nothing more. Every
row draws from a generator of its own, seeded by (seed, question number): a sampled answer does not depend on
which other questions it was batched with.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from codi.errors import UsageError
from codi.methods.method import Start
from codi.modeling.context import Context, Tokens
from codi.modeling.model import ThoughtModel


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. temperature 0 is greedy; top_k 0 and top_p 1 cut nothing off."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise UsageError(f"temperature is {self.temperature}; it must be 0 (greedy) or more.")
        if self.top_k < 0:
            raise UsageError(f"top_k is {self.top_k}; it must be 0 (off) or more.")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p is {self.top_p}; it must be above 0 and at most 1.")


@dataclass(frozen=True, slots=True)
class Written:
    """What one row wrote. ids: without eos; passes: the model's sequential passes; ended: by eos."""

    ids: list[int]
    passes: int
    ended: bool


@torch.no_grad()
def decode(
    model: ThoughtModel,
    start: Start,
    eos_id: int,
    max_new_tokens: int,
    sampling: Sampling,
    first_row: int = 0,
) -> list[Written]:
    """Decode from where a method left off. `first_row`: number of the first question, for its seed."""
    rows = start.context.rows
    ids: list[list[int]] = [[] for _ in range(rows)]
    passes, ended = [start.passes] * rows, [False] * rows
    generators = [
        torch.Generator().manual_seed(_row_seed(sampling.seed, first_row + row)) for row in range(rows)
    ]
    active, context = list(range(rows)), start.context
    limit = model.longest_sequence
    while active:
        following = _choose(
            model.logits(context.last_hidden).float(), sampling, [generators[row] for row in active]
        )
        going_on: list[int] = []
        full = _full(context, limit)
        for index, (row, token) in enumerate(zip(active, following.tolist(), strict=True)):
            if token == eos_id:
                ended[row] = True
                continue
            ids[row].append(token)
            if len(ids[row]) < max_new_tokens and not full[index]:
                going_on.append(index)
        if not going_on:
            break
        if len(going_on) < len(active):
            keep = torch.tensor(going_on, device=model.device)
            context, following = context.select(keep), following[keep]
            active = [active[index] for index in going_on]
        token_ids = following.unsqueeze(1)
        context = model.read(Tokens(token_ids, torch.ones_like(token_ids)), after=context).context
        for row in active:
            passes[row] += 1
    return [Written(ids[row], passes[row], ended[row]) for row in range(rows)]


def _full(context: Context, limit: int | None) -> list[bool]:
    """Whether each row has used up the model's positions (one transfer from the device for all)."""
    if limit is None:
        return [False] * context.rows
    return [position >= limit for position in context.next_position.tolist()]


def _choose(logits: Tensor, sampling: Sampling, generators: list[torch.Generator]) -> Tensor:
    """logits: [b, vocabulary]. Returns [b] ids."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    logits = logits / sampling.temperature
    if sampling.top_k:
        smallest = logits.topk(min(sampling.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.sort(descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        logits = logits.masked_fill((before >= sampling.top_p).gather(-1, order.argsort(-1)), -torch.inf)
    probabilities = logits.softmax(-1).cpu()
    drawn = [torch.multinomial(p, 1, generator=g) for p, g in zip(probabilities, generators, strict=True)]
    return torch.cat(drawn).to(logits.device)


def _row_seed(seed: int, row: int) -> int:
    return (seed * 1_000_003 + row) % (2**63)
