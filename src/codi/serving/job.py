"""What is asked of the engine, and what it gives back: the values that pass between it and whoever asks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from codi.errors import CodiError
from codi.generation.answer import Answer
from codi.generation.sampling import Sampling


class EngineBusy(CodiError):
    """There is no room: the queue is full, or memory has run out. retry_after: seconds until there may be."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineDown(CodiError):
    """The engine takes no question any more: it is closing, or its worker has ended; the message says why."""


@dataclass(frozen=True)
class Question:
    """What is asked of the engine.

    ids: the question as tokens (None: `text` is tokenised here); number: of the choice, for its seed;
    max_new_tokens: 0 reads the question alone, for `prompt_logprobs`; stop: texts before which the answer
    ends; in_pieces: whether its text is delivered as it is written; decoded_thoughts: whether each thought's
    likeliest tokens come with it; logprobs: with each written token its log-probability and those of so many
    likeliest (None: none at all); prompt_logprobs: the same for the question's own tokens, read as plain text
    without thoughts; ignore_eos: whether it is written on past the end of text, to the limit.
    """

    text: str
    mode: str | None = None
    latents: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    number: int = 0
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    in_pieces: bool = True
    decoded_thoughts: bool = False
    ids: tuple[int, ...] | None = None
    logprobs: int | None = None
    prompt_logprobs: bool = False
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token with its natural log-probability (None for a text's first), and the likeliest in its place."""

    id: int
    text: str
    logprob: float | None
    top: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: from submission to thinking, to the first written token, and to the end."""

    queued: float
    first_token: float
    total: float


@dataclass(frozen=True, slots=True)
class Piece:
    """New text of an answer, and the tokens it was written with where log-probabilities were asked for."""

    text: str
    tokens: tuple[ScoredToken, ...] = ()


@dataclass(frozen=True)
class Finished:
    """An answer, and what it took. answer.text ends before a stop text, if one came.

    question_tokens: read; latent_tokens: thought without being written, <bot> and <eot> counted;
    written_tokens: all that were written; unknown_tokens: of the question, which the tokenizer does not know;
    decoded: per thought its likeliest tokens; tokens: those of the text, less the answer prompt that was read
    and not written, and less the end of text; end: that one, where it was written and scored.
    """

    answer: Answer
    question_tokens: int
    latent_tokens: int
    written_tokens: int
    unknown_tokens: int
    decoded: list[list[tuple[str, float]]] | None
    tokens: tuple[ScoredToken, ...] | None = None
    prompt_tokens: tuple[ScoredToken, ...] | None = None
    timing: Timing | None = None
    end: ScoredToken | None = None


@dataclass(eq=False)
class PromptScores:
    """A question's own tokens, being scored for every choice of a request.

    first, end: those that are told, of all; final: [n, d], what the model read, until all are scored.
    """

    first: int
    end: int
    final: Tensor | None = None
    scored: list[ScoredToken] = field(default_factory=list)
    is_complete: bool = False

    @property
    def told(self) -> tuple[ScoredToken, ...]:
        """Those that were asked for."""
        return tuple(self.scored[self.first : self.end])


Event = Piece | Finished | Exception
"""A piece of text, the end, or what went wrong."""


@dataclass(eq=False)
class Job:
    """A question on its way.

    deliver: called from the engine's thread with each event; width: positions it holds when it begins to be
    written; limit: most tokens it may write.
    """

    question: Question
    ids: list[int]
    mode: str
    deliver: Callable[[Event], None]
    width: int = 0
    limit: int = 256
    cancelled: bool = False
    ended: bool = False
    """Whether its last event was delivered, or nobody waits for one."""
    submitted: float = field(default_factory=time.monotonic)
    thinking: float | None = None
    """When it began to be thought about, and when its first token was written."""
    first_token: float | None = None
    overtaken: int = 0
    """Questions that went before it though they came later."""
    is_taken: bool = False
    """Whether it is being answered, and waits no longer."""
    tried_again: bool = False
    """Whether it began anew because memory had run out."""
    prompt: PromptScores | None = None
    """Where its own tokens are to be scored: before it is thought about."""
    told: int = 0
    """Characters and tokens delivered."""
    told_tokens: int = 0

    @property
    def is_wanted(self) -> bool:
        """Whether it is being answered, and somebody waits for it."""
        return self.is_taken and not self.ended and not self.cancelled

    @property
    def thinks_as(self) -> tuple[str, int | None]:
        """Mode and number of latents."""
        return self.mode, self.question.latents

    @property
    def goes_with(self) -> tuple[str, int | None, bool]:
        """Jobs that have this in common can be taken in together."""
        return self.mode, self.question.latents, self.limit > 0

    @property
    def timing(self) -> Timing:
        """Up to now."""
        now = time.monotonic()
        thinking = now if self.thinking is None else self.thinking
        first = now if self.first_token is None else self.first_token
        return Timing(thinking - self.submitted, first - self.submitted, now - self.submitted)
