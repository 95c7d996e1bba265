"""One request: its questions in the engine, and the response made of what comes back, streamed or whole."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
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
from codi.serving.api_logprobs import TokenBytes
from codi.serving.api_requests import MOST_TOKENS, ChatRequest, CompletionRequest
from codi.serving.api_responses import ResponseForm, Streamed
from codi.serving.engine import Engine, Event, Finished, Job, Piece, Question
from codi.serving.metrics import Metrics

DEFAULT_TOKENS = 256
SMALL_BODY = 4096
"""Bytes. What is larger is read and tokenised beside the event loop, which answers others meanwhile."""
RETRIED = "x-stainless-retry-count"
"""OpenAI's clients say with it how often they have asked before; they keep to Retry-After."""
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
    """One request of either kind. again: it was refused before, and comes when it was told to."""

    def __init__(self, served: Served, body: ChatRequest | CompletionRequest, *, again: bool = False) -> None:
        self.served, self.body, self.again, self.begun = served, body, again, time.monotonic()
        self.events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self.jobs: dict[int, Job] = {}  # those that have not ended, by choice

    # --- to the engine --------------------------------------------------------------------------------------

    def questions(self) -> list[Question]:
        """One per choice, tokenised and checked.

        Raises ApiError for what cannot be answered, and EngineBusy, before it is tokenised, without room.
        """
        body = self.body
        self.served.require_model(body.model)
        self._check_limits()
        self.served.engine.require_room(len(body.questions) * body.choices, again=self.again)
        sampling, asked = self._sampling(), list[Question]()
        for question in body.questions:
            text, ids = self._read(question)
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
                        decoded_thoughts=bool(body.decoded_thoughts),
                        ids=ids,
                        logprobs=body.likeliest,
                        prompt_logprobs=body.echoed and body.likeliest is not None,
                        ignore_eos=bool(body.ignore_eos),
                    )
                )
        return asked

    def _sampling(self) -> Sampling:
        """As asked. Without a seed one is drawn, where it matters."""
        body = self.body
        asked = Sampling(
            temperature=body.temperature or 0.0,
            top_k=max(body.top_k or 0, 0),
            top_p=1.0 if body.top_p is None else body.top_p,
        )
        self.seed = body.seed
        if self.seed is None and not asked.is_greedy:
            self.seed = secrets.randbelow(LARGEST_SEED)
        return replace(asked, seed=self.seed or 0)

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
        for param, given in (("reasoning", (asked[0],)), ("latents", asked)):
            try:
                reasoner.checked_mode(*given)
            except UsageError as error:
                raise ApiError(400, str(error), "invalid_request", param) from error
        try:
            if isinstance(question, str):
                return question, tuple(reasoner.question_ids(question, "The question", *asked))
            reasoner.framed_ids(question, "The question", *asked)
            return reasoner.text.decode(list(question)), question
        except UsageError as error:
            code = "context_length_exceeded" if isinstance(error, QuestionTooLong) else "invalid_request"
            raise ApiError(
                400, str(error), code, "messages" if isinstance(self.body, ChatRequest) else "prompt"
            ) from error

    def _most_tokens(self) -> int:
        asked = DEFAULT_TOKENS if self.body.most_tokens is None else self.body.most_tokens
        return min(asked, MOST_TOKENS)

    def submit(self, questions: list[Question]) -> None:
        """Queue every choice, or none. Raises EngineBusy or EngineDown."""
        loop = asyncio.get_running_loop()

        def deliver_to(choice: int) -> Callable[[Event], None]:
            return lambda event: _post(loop, self.events, (choice, event))

        made = self.served.engine.submit_all(
            questions, [deliver_to(c) for c in range(len(questions))], again=self.again
        )
        self.jobs = dict(enumerate(made))
        self.form = ResponseForm(
            self.body,
            self.served.name,
            self.served.engine.reasoner.text,
            self.served.bytes_of,
            self.seed,
            [question.text for question in questions[:: self.body.choices]],
            made[0].mode,
        )

    # --- to the client --------------------------------------------------------------------------------------

    async def respond(self, request: Request) -> Response:
        """The answer, streamed or whole. A client that has left frees its places.

        A stream begins with its first event, so that what fails before it has a status of its own.
        """
        leaving = asyncio.create_task(_until_gone(request))
        answering = asyncio.create_task(self._opened() if self.body.stream else self._whole())
        try:
            await asyncio.wait((leaving, answering), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                answering.cancel()
                self.give_up(client_left=True)
                return Response(status_code=499)  # nobody reads it
            return answering.result()
        except BaseException:
            answering.cancel()
            self.give_up(client_left=False)
            raise
        finally:
            leaving.cancel()

    def give_up(self, *, client_left: bool) -> None:
        """Let go of what is still in the making."""
        for job in self.jobs.values():
            self.served.engine.cancel(job)
        if client_left and self.jobs:
            self.served.metrics.cancelled(len(self.jobs))
        self.jobs = {}

    async def _opened(self) -> Response:
        choice, event = await self.events.get()
        if isinstance(event, Exception):
            self._failed(choice)
            raise event
        return _Stream(self, (choice, event))

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
        """With one choice the request fails: all that are still in the making are lost."""
        self.served.metrics.failed(len(self.jobs))
        self.jobs.pop(choice, None)

    async def _whole(self) -> Response:
        ends = {choice: event async for choice, event in self._events() if isinstance(event, Finished)}
        content = await self.served.call(self.body.likeliest is None, lambda: self.form.whole(ends))
        return Response(content, media_type="application/json")

    async def stream(self, first: tuple[int, Event]) -> AsyncIterator[str]:
        """The response's events, as text."""
        form, ends = self.form, dict[int, Finished]()
        try:
            streamed = [Streamed(form, choice) for choice in range(len(self.jobs))]
            if form.is_chat:
                for choice in range(len(streamed)):
                    yield form.chunk(choice, {"delta": {"role": "assistant", "content": ""}})
            async for choice, event in self._events(first):
                for told in streamed[choice].events(event):
                    yield told
                if isinstance(event, Finished):
                    ends[choice] = event
                    yield form.last(choice, event)
            if form.tells_usage:
                yield form.used(ends)
        except Exception as error:  # noqa: BLE001 (the status is sent: what is left is to say it in the stream)
            self.give_up(client_left=False)
            yield f"data: {bytes(response_to(error).body).decode()}\n\n"
        yield "data: [DONE]\n\n"


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


def _post(loop: asyncio.AbstractEventLoop, events: asyncio.Queue[Any], item: Any) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(events.put_nowait, item)


async def _until_gone(request: Request) -> None:
    """Returns when the client has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
