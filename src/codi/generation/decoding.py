"""Token-by-token decoding of a batch of answers that come and go.

    join ──► step, step, step ... ──► drop
    rows that begin to be written     rows that are done, or no longer wanted

A row that is done is dropped, so it costs nothing more. Every row draws from a generator of its own, seeded
by (seed, question number): what it writes depends on no row beside it, nor on when it joined.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from codi.errors import CodiError
from codi.generation.fixed_answering import FixedAnswering, Writing
from codi.generation.sampling import Choice, Sampling
from codi.methods.method import Start
from codi.modeling.context import Context, Tokens, can_join
from codi.modeling.model import ThoughtModel

__all__ = ["BrokenLogits", "Decoding", "Row", "Sampling", "TokenScore", "Written", "decode", "token_scores"]

_ROOM = 16
"""Tokens that are taken in before what was read is copied again, where no fixed buffers hold it."""


class BrokenLogits(CodiError):
    """The model gave numbers that are not finite, so no token can be chosen."""


@dataclass(frozen=True, slots=True)
class Written:
    """What one row wrote. ids: without eos; passes: the model's sequential passes; ended: by eos."""

    ids: list[int]
    passes: int
    ended: bool


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token's natural log-probability, and the likeliest ids in its place with theirs.

    They are the model's own, before temperature and cuts, as OpenAI's and vLLM's are.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(eq=False)
class Row:
    """One answer being written.

    limit: most tokens; number: of the question, for its seed; logprobs: for every token its score with so
    many likeliest beside it (None: no scores); goes_on: past its end-of-sequence token, to the limit;
    passes: of the model, counted on from the start's.
    """

    limit: int
    sampling: Sampling = field(default_factory=Sampling)
    number: int = 0
    logprobs: int | None = None
    goes_on: bool = False
    ids: list[int] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)
    passes: int = 0
    ended: bool = False
    """By the end-of-sequence token."""
    end_score: TokenScore | None = None
    """That token's."""
    done: bool = False
    """Whether nothing more is to be written."""
    error: Exception | None = None
    """Why it could not be written on."""
    position: int = 0
    """Position id of its next token."""
    width: int = 0
    """Positions from its first token on, in its context."""

    def __post_init__(self) -> None:
        self._generator = self.sampling.generator(self.number)
        self._uniform: float | None = None

    @property
    def uniform(self) -> float:
        """The number that decides the next token: the same one until that token is written."""
        if self._uniform is None:
            self._uniform = float(torch.rand((), generator=self._generator, dtype=torch.float64))
        return self._uniform

    @property
    def written(self) -> Written:
        """What it has written so far."""
        return Written(self.ids, self.passes, self.ended)

    def take_in(
        self, token: int, score: TokenScore | None, read: bool, eos_id: int, longest: int | None
    ) -> None:
        """The token that was chosen. read: whether the one before it was; longest: the model's positions."""
        self._uniform = None
        self.position, self.width, self.passes = self.position + read, self.width + read, self.passes + read
        if token < 0:
            raise BrokenLogits(
                f"After {len(self.ids)} tokens the model's numbers were not finite, so none could be chosen."
            )
        self.ended = token == eos_id and not self.goes_on
        if self.ended:
            self.end_score = score
        else:
            self.ids.append(token)
            if score is not None:
                self.scores.append(score)
        full = longest is not None and self.position >= longest
        self.done = self.ended or full or len(self.ids) >= self.limit


class Decoding:
    """The answers being written: each `step` gives every row its next token.

    Rows may be sampled differently and have different limits. A step, join, take or drop that raises has
    changed nothing, so it can be tried again with fewer rows.
    """

    def __init__(
        self,
        model: ThoughtModel,
        eos_id: int,
        start: Start | None = None,
        rows: Sequence[Row] = (),
        fixed: FixedAnswering | None = None,
    ) -> None:
        """Empty, or from where rows begin. rows: those of `start`, in its order; they are set to it.

        fixed: lends buffers of fixed shapes, where it can; None has every token read plainly.
        """
        self.rows = list(rows)
        """In the order in which the context holds them."""
        self._model, self._eos_id, self._fixed = model, eos_id, fixed
        self._context: Context | None = None  # either this or the buffers hold the rows
        self._writing: Writing | None = None
        self._choice: Choice | None = None  # of the rows at the last step
        self._unread: Tensor | None = None  # [b], the tokens written last; None before the first step
        self._asked: set[Hashable] = set()  # the shapes in which these rows asked for buffers
        self.can_join = start is None or can_join(start.context.cache)
        """Whether rows can be added to these: a recurrent base's cannot."""
        if start is not None:
            self._context = replace(start.context, thoughts=None, latents=None, thought=None)
            real = start.context.width - start.context.mask.argmax(1)
            places = torch.stack([start.context.next_position, real]).tolist()
            for row, position, width, (_, passes) in zip(rows, *places, start.spent(), strict=True):
                row.position, row.width, row.passes = position, width, passes

    @property
    def width(self) -> int:
        """Positions held for every row, padding included."""
        if self._writing is not None:
            return self._writing.held.width
        return 0 if self._context is None else self._context.width

    def can_stay(self, going_on: int) -> bool:
        """Whether rows that are done are best left in their buffers, beside so many that are not."""
        return self._writing is not None and going_on > 0 and self._writing.is_worth_it(going_on)

    @torch.no_grad()
    def step(self) -> None:
        """One token more for every row; those that are `done` with it leave at the next step, or by `drop`.
        In fixed buffers they may stay longer: nothing is written for them, and only there are they read on.

        A row whose logits are not finite is done, with an `error`. What was chosen travels from the device
        once for all rows; scores, where any row asks for them, besides.
        """
        if not self.can_stay(sum(not row.done for row in self.rows)):
            self.drop([row for row in self.rows if row.done])
        if not self.rows:
            return
        read = self._unread is not None
        context, logits = self._read_on()
        samplings = tuple(row.sampling for row in self.rows)
        if self._choice is None or self._choice.samplings != samplings:
            self._choice = Choice(samplings, logits.device)
        uniforms = [0.0 if row.done or row.sampling.is_greedy else row.uniform for row in self.rows]
        following = self._choice.of(logits, uniforms)
        scores, tokens = self._scores(logits, following), following.tolist()
        longest = self._model.longest_sequence
        # The step is made; what fails from here on, fails for its row.
        if read and self._writing is not None:
            self._writing.keep()
        self._context, self._unread = context, following
        for row, token, score in zip(self.rows, tokens, scores, strict=True):
            if row.done:
                continue
            try:
                row.take_in(token, score, read, self._eos_id, longest)
            except Exception as error:  # noqa: BLE001 (whatever it was)
                row.done, row.error = True, error

    def _read_on(self) -> tuple[Context | None, Tensor]:
        """The context with what was written last, None where buffers hold it, and the logits after it."""
        if self._unread is None:
            return self._context, self._model.logits(self._held.last_hidden).float()
        if self._writing is not None and self._writing.is_full:
            self._context, full, self._writing = self._held, self._writing, None
            full.let_go()
        if self._writing is None and self._fixed is not None:
            self._writing = self._fixed.lend(self._held, self._unread, self, self._asked)
        if self._writing is not None:
            self._context = None
            return None, self._writing.step(self._unread)
        ids = self._unread.unsqueeze(1)
        held = self._held.with_room(1, more=_ROOM)
        context = self._model.read(Tokens(ids, torch.ones_like(ids), padded=False), after=held).context
        return context, self._model.logits(context.last_hidden).float()

    def join(self, others: Sequence[Decoding]) -> None:
        """Take in the rows of others, which have been stepped as often as once or more, as these have."""
        parts = [part for part in (self, *others) if part.rows]
        if not parts:
            return
        rows = [row for part in parts for row in part.rows]
        can = all(part.can_join for part in parts)
        context = Context.join([part._held.narrowed(max(row.width for row in part.rows)) for part in parts])
        unread = torch.cat([part._unread for part in parts if part._unread is not None])
        # Nothing fails from here on.
        writing, self._writing = self._writing, None
        self.rows, self.can_join, self._unread, self._asked, self._context = rows, can, unread, set(), context
        if writing is not None:
            writing.let_go()

    def take(self, rows: Collection[Row]) -> Decoding:
        """Some of the rows, as a decoding of their own."""
        taken = Decoding(self._model, self._eos_id, fixed=self._fixed)
        at = [index for index, row in enumerate(self.rows) if row in rows]
        if at:
            taken.can_join, taken._asked = self.can_join, set(self._asked)
            taken.rows = [self.rows[index] for index in at]
            keep = torch.tensor(at, device=self._model.device)
            taken._context = self._held.narrowed(max(row.width for row in taken.rows)).select(keep)
            taken._unread = None if self._unread is None else self._unread[keep]
        return taken

    def drop(self, rows: Collection[Row]) -> None:
        """Let these rows go, and what was held for them."""
        if any(row in rows for row in self.rows):
            left = self.take([row for row in self.rows if row not in rows])
            # Nothing fails from here on.
            writing, self._writing = self._writing, None
            self.rows, self.can_join, self._unread = left.rows, left.can_join, left._unread
            self._context = left._context
            if writing is not None:
                writing.let_go()

    @property
    def _held(self) -> Context:
        if self._writing is not None:
            return self._writing.held.copied()
        assert self._context is not None  # there are rows
        return self._context

    def _scores(self, logits: Tensor, following: Tensor) -> list[TokenScore | None]:
        scores: list[TokenScore | None] = [None] * len(self.rows)
        tops = {index: row.logprobs for index, row in enumerate(self.rows) if row.logprobs is not None}
        if tops:
            at = torch.tensor(list(tops), device=logits.device)
            found = token_scores(logits[at], following[at].clamp(min=0), list(tops.values()))
            for index, score in zip(tops, found, strict=True):
                scores[index] = score
        return scores


def token_scores(logits: Tensor, ids: Tensor, tops: Sequence[int]) -> list[TokenScore]:
    """How likely tokens were. logits: [n, vocabulary]; ids: [n]; tops: how many likeliest beside each."""
    logprobs = logits.float().log_softmax(-1)
    chosen = logprobs.gather(-1, ids.unsqueeze(-1)).squeeze(-1).tolist()
    best = logprobs.topk(min(max(tops), logits.shape[-1]))
    likeliest = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [
        TokenScore(one, tuple(zip(its_ids[:top], its_logprobs[:top], strict=True)))
        for one, top, (its_ids, its_logprobs) in zip(chosen, tops, likeliest, strict=True)
    ]


def decode(
    model: ThoughtModel,
    start: Start,
    eos_id: int,
    max_new_tokens: int,
    sampling: Sampling,
    first_row: int = 0,
    fixed: FixedAnswering | None = None,
) -> list[Written]:
    """Decode from where a method left off. `first_row`: number of the first question, for its seed.

    fixed: lends buffers of fixed shapes. Raises BrokenLogits where the model's numbers are not finite.
    """
    rows = [Row(max_new_tokens, sampling, first_row + index) for index in range(start.context.rows)]
    decoding = Decoding(model, eos_id, start, rows, fixed)
    try:
        while not all(row.done for row in rows):
            decoding.step()
    finally:
        decoding.drop(rows)
    for row in rows:
        if row.error is not None:
            raise row.error
    return [row.written for row in rows]
