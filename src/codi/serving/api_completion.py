"""One request: its questions in the engine, and the response made of what comes back, streamed or whole."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from codi.errors import UsageError
from codi.generation.decoding import Sampling
from codi.generation.latent_reasoner import QuestionTooLong
from codi.serving.api_errors import ApiError, response_to
from codi.serving.api_logprobs import TokenBytes, of_chat, of_completion, offsets_from
from codi.serving.api_requests import MOST_TOKENS, ChatRequest, CompletionRequest
from codi.serving.engine import Engine, Event, Finished, Job, Piece, Question, ScoredToken
from codi.serving.metrics import Metrics

log = logging.getLogger("codi.serving")
DEFAULT_TOKENS = 256
SMALL_BODY = 4096
"""Bytes. What is larger is read and tokenised beside the event loop, which answers others meanwhile."""
LARGEST_SEED = 2**53 - 1
"""The largest that every JSON reader keeps exactly."""
_T = TypeVar("_T")


@dataclass
class Served:
    """What requests share. max_latents: most thoughts that one may ask for."""

    engine: Engine
    metrics: Metrics
    name: str
    max_latents: int
    bytes_of: TokenBytes = field(init=False)
    beside: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(2))

    def __post_init__(self) -> None:
        self.bytes_of = TokenBytes(self.engine.reasoner.tokenizer)

    async def call(self, small: bool, function: Callable[[], _T]) -> _T:
        """Call at once if it is small, else in one of a few threads."""
        if small:
            return function()
        return await anyio.to_thread.run_sync(function, limiter=self.beside)

    def require_model(self, wanted: str) -> None:
        """Raise ApiError for any name but the model's."""
        if wanted != self.name:
            told = f"There is no model '{wanted[:200]}' here. The one served is '{self.name}'."
            raise ApiError(404, told, "model_not_found", "model")


class Completion:
    """One request of either kind."""

    def __init__(self, served: Served, body: ChatRequest | CompletionRequest) -> None:
        self.served, self.body, self.is_chat = served, body, isinstance(body, ChatRequest)
        self.begun, self.created = time.monotonic(), int(time.time())
        self.id = f"{'chatcmpl' if self.is_chat else 'cmpl'}-{uuid.uuid4().hex}"
        sampled = bool(body.temperature)
        self.seed = body.seed if body.seed is not None or not sampled else secrets.randbelow(LARGEST_SEED)
        self.events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self.jobs: dict[int, Job] = {}  # those that have not ended, by choice

    # --- to the engine --------------------------------------------------------------------------------------

    def questions(self) -> list[Question]:
        """One per choice, tokenised and checked. Raises ApiError for what cannot be answered."""
        body = self.body
        self.served.require_model(body.model)
        self._check_limits()
        sampling = Sampling(
            temperature=body.temperature or 0.0,
            top_k=max(body.top_k or 0, 0),
            top_p=1.0 if body.top_p is None else body.top_p,
            seed=self.seed or 0,
        )
        self.texts, asked = list[str](), list[Question]()
        for question in body.questions:
            text, ids = self._read(question)
            self.texts.append(text)
            for _ in range(body.choices):
                asked.append(
                    Question(
                        text,
                        mode=body.reasoning,
                        latents=body.latents,
                        sampling=sampling,
                        number=len(asked),
                        max_new_tokens=self._most_tokens(),
                        stop=body.stop,
                        in_pieces=bool(body.stream),
                        decoded_thoughts=body.decoded_thoughts,
                        ids=ids,
                        logprobs=body.likeliest,
                        prompt_logprobs=body.echoed and body.likeliest is not None,
                        ignore_eos=bool(body.ignore_eos),
                    )
                )
        return asked

    def _check_limits(self) -> None:
        body, served = self.body, self.served
        if body.latents is not None and body.latents > served.max_latents:
            told = f"{body.latents} latents were asked for; this server takes at most {served.max_latents}."
            raise ApiError(400, told, "too_many_latents", "latents")
        choices, most = len(body.questions) * body.choices, served.engine.max_waiting
        if choices > most:
            told = (
                f"{len(body.questions)} questions with {body.choices} choices each are {choices} answers; "
                f"at most {most} may ever wait here. Ask in several requests."
            )
            raise ApiError(400, told, "too_many_choices", "n" if body.choices > 1 else "prompt")
        positions = served.engine.reasoner.model.longest_sequence
        if (body.most_tokens or 0) > MOST_TOKENS and (positions is None or positions > MOST_TOKENS):
            told = f"{body.most_tokens} tokens were asked for; at most {MOST_TOKENS} are written here."
            raise ApiError(400, told, "too_many_tokens", "max_tokens")

    def _read(self, question: str | tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        """A question as text and as tokens, one of which was given."""
        reasoner, asked = self.served.engine.reasoner, (self.body.reasoning, self.body.latents)
        try:
            reasoner.checked_mode(*asked)
        except UsageError as error:
            param = "reasoning" if self.body.latents is None else "latents"
            raise ApiError(400, str(error), "invalid_request", param) from error
        try:
            if isinstance(question, str):
                return question, tuple(reasoner.question_ids(question, "The question", *asked))
            reasoner.framed_ids(question, "The question", *asked)
            return reasoner.text.decode(list(question)), question
        except UsageError as error:
            code = "context_length_exceeded" if isinstance(error, QuestionTooLong) else "invalid_request"
            raise ApiError(400, str(error), code, "messages" if self.is_chat else "prompt") from error

    def _most_tokens(self) -> int:
        asked = DEFAULT_TOKENS if self.body.most_tokens is None else self.body.most_tokens
        return min(asked, MOST_TOKENS)

    def submit(self, questions: list[Question]) -> None:
        """Queue every choice, or none. Raises EngineBusy or EngineDown."""
        loop = asyncio.get_running_loop()

        def deliver_to(choice: int) -> Callable[[Event], None]:
            return lambda event: _post(loop, self.events, (choice, event))

        made = self.served.engine.submit_all(questions, [deliver_to(c) for c in range(len(questions))])
        self.jobs, self.mode = dict(enumerate(made)), made[0].mode

    # --- to the client --------------------------------------------------------------------------------------

    async def respond(self, request: Request) -> Response:
        """The answer, streamed or whole. A client that has left frees its places.

        A stream begins with its first event, so that what fails before it has a status of its own.
        """
        leaving = asyncio.create_task(_until_gone(request))
        answering = asyncio.create_task(self._first_event() if self.body.stream else self._whole())
        try:
            await asyncio.wait((leaving, answering), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                answering.cancel()
                self.give_up(client_left=True)
                return Response(status_code=499)  # nobody reads it
            found = answering.result()
        except BaseException:
            answering.cancel()
            self.give_up(client_left=False)
            raise
        finally:
            leaving.cancel()
        return found if isinstance(found, Response) else _Stream(self, found)

    def give_up(self, *, client_left: bool) -> None:
        """Let go of what is still in the making."""
        for job in self.jobs.values():
            self.served.engine.cancel(job)
        if client_left and self.jobs:
            self.served.metrics.cancelled(len(self.jobs))
        self.jobs = {}

    async def _first_event(self) -> tuple[int, Event]:
        choice, event = await self.events.get()
        if isinstance(event, Exception):
            self._failed(choice)
            raise event
        return choice, event

    async def _events(
        self, first: tuple[int, Event] | None = None
    ) -> AsyncIterator[tuple[int, Piece | Finished]]:
        """Pieces and ends of every choice, until all have ended."""
        while self.jobs:
            choice, event = first or await self.events.get()
            first = None
            if isinstance(event, Exception):
                self._failed(choice)
                raise event
            if isinstance(event, Finished):
                job = self.jobs.pop(choice)
                self.served.metrics.finished(
                    job.mode,
                    event,
                    time.monotonic() - self.begun,
                    first_of_question=choice % self.body.choices == 0,
                )
            yield choice, event

    def _failed(self, choice: int) -> None:
        self.jobs.pop(choice, None)
        self.served.metrics.failed()

    async def _whole(self) -> Response:
        ends = {choice: event async for choice, event in self._events() if isinstance(event, Finished)}
        return await self.served.call(self.body.likeliest is None, lambda: self._rendered(ends))

    def _rendered(self, ends: dict[int, Finished]) -> Response:
        choices = [self._choice(choice, ends[choice], whole=True) for choice in sorted(ends)]
        content = {**self._head(), "choices": choices, "usage": self._usage(ends)}
        return Response(json.dumps(content), media_type="application/json")

    async def stream(self, first: tuple[int, Event]) -> AsyncIterator[str]:
        """The response's events, as text."""
        ends: dict[int, Finished] = {}
        try:
            if self.is_chat:
                for choice in list(self.jobs):
                    yield self._chunk(choice, {"delta": {"role": "assistant", "content": ""}})
            writing = [_Written(self, choice) for choice in range(len(self.jobs))]
            async for choice, event in self._events(first):
                for chunk in writing[choice].chunks(event):
                    yield self._chunk(choice, chunk)
                if isinstance(event, Finished):
                    ends[choice] = event
                    last = self._choice(choice, event, whole=False)
                    yield self._chunk(choice, {"delta": {}, **last} if self.is_chat else {"text": "", **last})
            if self._tells_usage:
                yield _sse({**self._head(), "choices": [], "usage": self._usage(ends)})
        except Exception as error:  # noqa: BLE001 (the status is sent: what is left is to say it in the stream)
            self.give_up(client_left=False)
            yield f"data: {bytes(response_to(error).body).decode()}\n\n"
        yield "data: [DONE]\n\n"

    @property
    def _tells_usage(self) -> bool:
        return self.body.stream_options is not None and self.body.stream_options.include_usage

    def _head(self) -> dict[str, Any]:
        kind = "chat.completion" if self.is_chat else "text_completion"
        kind += ".chunk" if self.body.stream and self.is_chat else ""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.served.name}

    def _chunk(self, choice: int, content: dict[str, Any]) -> str:
        filled = {"index": choice, "finish_reason": None, "logprobs": None, **content}
        usage = {"usage": None} if self._tells_usage else {}
        return _sse({**self._head(), "choices": [filled], **usage})

    def _choice(self, number: int, one: Finished, *, whole: bool) -> dict[str, Any]:
        """A finished choice. whole: with its text, which a stream has sent before."""
        thoughts: dict[str, Any] = {
            "value": one.answer.value,
            "thought_tokens": one.answer.thoughts,
            "sequential_passes": one.answer.passes,
            "unknown_tokens": one.unknown_tokens,
            "seed": self.seed,
        }
        if one.decoded is not None:
            thoughts["decoded_thoughts"] = [
                [{"token": token, "probability": round(share, 6)} for token, share in tokens]
                for tokens in one.decoded
            ]
        choice: dict[str, Any] = {
            "index": number,
            "finish_reason": "stop" if one.answer.finished else "length",
            "logprobs": None,
            "codi": thoughts,
        }
        if whole:
            text = self.question_text(number) + one.answer.text
            message = {"role": "assistant", "content": text, "refusal": None}
            choice |= {"message": message} if self.is_chat else {"text": text}
            choice["logprobs"] = self.logprobs(number, one.prompt_tokens or (), self.written(one), None)
        return choice

    def question_text(self, choice: int) -> str:
        """What stands before an answer: the question, where it is echoed."""
        return self.texts[choice // self.body.choices] if self.body.echoed else ""

    def written(self, one: Finished) -> tuple[ScoredToken, ...]:
        """The tokens of an answer. With `echo` the end of text is one: who asks for n tokens gets n."""
        end = (one.end,) if self.body.echoed and one.end is not None else ()
        return (one.tokens or ()) + end

    def logprobs(
        self,
        choice: int,
        question: tuple[ScoredToken, ...],
        written: tuple[ScoredToken, ...],
        begin: int | None,
    ) -> dict[str, Any] | None:
        """In the form of this kind of request; None where none were asked for.

        begin: where `written` begins in the text; None: with what the model wrote itself.
        """
        if self.body.likeliest is None:
            return None
        if self.is_chat:
            return of_chat(written, self.served.bytes_of)
        begin = self.first_written(choice) if begin is None else begin
        offsets = offsets_from(0, question) + offsets_from(begin, written)
        return of_completion(question + written, offsets)

    def first_written(self, choice: int) -> int:
        """Where in a choice's text the model's own tokens begin: behind the answer prompt, if it was read."""
        text = self.served.engine.reasoner.text
        opening = (
            "" if self.mode == "explicit" or self.body.most_tokens == 0 else text.decode(text.prompt_ids)
        )
        return len(self.question_text(choice)) + len(opening)

    def _usage(self, ends: dict[int, Finished]) -> dict[str, Any]:
        """A question counts once, whatever the number of its choices.

        Thoughts count as reasoning tokens and, as OpenAI has it, as part of the completion.
        """
        prompt = sum(one.question_tokens for choice, one in ends.items() if choice % self.body.choices == 0)
        completion = sum(one.latent_tokens + one.written_tokens for one in ends.values())
        thoughts = sum(one.answer.thoughts for one in ends.values())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "completion_tokens_details": {"reasoning_tokens": thoughts},
        }


class _Written:
    """What of a choice has been streamed."""

    def __init__(self, completion: Completion, choice: int) -> None:
        self.completion, self.choice = completion, choice
        self.offset = completion.first_written(choice)  # of the next token, in characters
        self.question_sent = not completion.body.echoed
        # The question's log-probabilities come with the end, and stand before everything else.
        scored = completion.body.echoed and completion.body.likeliest is not None
        self.held: list[Piece] | None = [] if scored else None

    def chunks(self, event: Piece | Finished) -> list[dict[str, Any]]:
        """What this event adds."""
        pieces, question = [event] if isinstance(event, Piece) else [], tuple[ScoredToken, ...]()
        if isinstance(event, Finished):
            question = event.prompt_tokens or ()
            if self.completion.body.echoed and event.end is not None:
                pieces = [Piece("", (event.end,))]
        if self.held is not None:
            self.held += pieces
            if isinstance(event, Piece):
                return []
            pieces = self.held
        chunks = []
        if not self.question_sent:
            self.question_sent = True
            chunks.append(self._chunk(self.completion.question_text(self.choice), question, ()))
        return [*chunks, *(self._chunk(piece.text, (), piece.tokens) for piece in pieces)]

    def _chunk(
        self, text: str, question: tuple[ScoredToken, ...], written: tuple[ScoredToken, ...]
    ) -> dict[str, Any]:
        logprobs = self.completion.logprobs(self.choice, question, written, self.offset)
        self.offset += sum(len(token.text) for token in written)
        return {
            **({"delta": {"content": text}} if self.completion.is_chat else {"text": text}),
            "logprobs": logprobs,
        }


class _Stream(StreamingResponse):
    """A stream that lets go of its places however it ends."""

    def __init__(self, completion: Completion, first: tuple[int, Event]) -> None:
        super().__init__(completion.stream(first), media_type="text/event-stream")
        self.completion = completion

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.completion.give_up(client_left=True)  # where all has been sent, nothing is left


def _sse(content: Any) -> str:
    return f"data: {json.dumps(content)}\n\n"


def _post(loop: asyncio.AbstractEventLoop, events: asyncio.Queue[Any], item: Any) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(events.put_nowait, item)


async def _until_gone(request: Request) -> None:
    """Returns when the client has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
