"""Token-by-token decoding of a batch of answers, greedy or sampled.

A row that has written its end-of-sequence token leaves the batch, so finished rows cost nothing more. Every
row draws from a generator of its own, seeded by (seed, question number): a sampled answer does not depend on
which other questions it was batched with.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

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


class Decoding:
    """A batch of answers being written: each `step` gives every row that is not done its next token.

    Rows may be sampled differently and have different limits; what a row writes depends on neither its
    neighbours nor on when it is stepped, so several batches can take turns.
    """

    def __init__(
        self,
        model: ThoughtModel,
        start: Start,
        eos_id: int,
        limits: Sequence[int],
        samplings: Sequence[Sampling],
        numbers: Sequence[int],
    ) -> None:
        """One of each per row. limits: most tokens written; numbers: of the question, for its seed."""
        rows = start.context.rows
        self.ids: list[list[int]] = [[] for _ in range(rows)]
        self.passes, self.ended = [start.passes] * rows, [False] * rows
        self.active = list(range(rows))
        """Rows that are not done, in the order in which the context holds them."""
        self._model, self._eos_id, self._context = model, eos_id, start.context
        self._limits, self._samplings = limits, samplings
        self._generators = [
            torch.Generator().manual_seed(_row_seed(sampling.seed, number))
            for sampling, number in zip(samplings, numbers, strict=True)
        ]
        self._unread: Tensor | None = None  # [b], the tokens written last

    @torch.no_grad()
    def step(self) -> None:
        """One token more for every active row. Rows that are done with it leave the batch."""
        if self._unread is not None:
            token_ids = self._unread.unsqueeze(1)
            tokens = Tokens(token_ids, torch.ones_like(token_ids))
            self._context = self._model.read(tokens, after=self._context).context
            for row in self.active:
                self.passes[row] += 1
        following = self._choose(self._model.logits(self._context.last_hidden).float())
        full = _full(self._context, self._model.longest_sequence)
        going_on: list[int] = []
        for index, (row, token) in enumerate(zip(self.active, following.tolist(), strict=True)):
            if token == self._eos_id:
                self.ended[row] = True
                continue
            self.ids[row].append(token)
            if len(self.ids[row]) < self._limits[row] and not full[index]:
                going_on.append(index)
        self._unread = following
        self._keep(going_on)

    def drop(self, rows: Collection[int]) -> None:
        """Let these rows go, done or not."""
        self._keep([index for index, row in enumerate(self.active) if row not in rows])

    def written(self, row: int) -> Written:
        """What a row has written so far."""
        return Written(self.ids[row], self.passes[row], self.ended[row])

    def _keep(self, indices: list[int]) -> None:
        if len(indices) == len(self.active):
            return
        self.active = [self.active[index] for index in indices]
        if self.active:
            keep = torch.tensor(indices, device=self._model.device)
            self._context = self._context.select(keep)
            self._unread = None if self._unread is None else self._unread[keep]

    def _choose(self, logits: Tensor) -> Tensor:
        """logits: [b, vocabulary]. Returns [b] ids; rows that are sampled alike are sampled together."""
        alike: dict[Sampling, list[int]] = {}
        for index, row in enumerate(self.active):
            alike.setdefault(replace(self._samplings[row], seed=0), []).append(index)
        if len(alike) == 1:
            return _choose(logits, next(iter(alike)), [self._generators[row] for row in self.active])
        following = torch.empty(len(self.active), dtype=torch.long, device=logits.device)
        for sampling, indices in alike.items():
            generators = [self._generators[self.active[index]] for index in indices]
            following[indices] = _choose(logits[indices], sampling, generators)
        return following


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
    numbers = range(first_row, first_row + rows)
    decoding = Decoding(model, start, eos_id, [max_new_tokens] * rows, [sampling] * rows, numbers)
    while decoding.active:
        decoding.step()
    return [decoding.written(row) for row in range(rows)]


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
