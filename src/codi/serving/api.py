"""OpenAI's API over an engine: chat and plain completions, streamed or whole, models, health and metrics.

The answer's text is what the model wrote; `usage` counts thoughts as reasoning tokens; the field `codi` says
how it was thought. A request of several choices is queued whole or not at all.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

import codi
from codi.errors import CodiError, UsageError
from codi.generation.decoding import Sampling
from codi.serving.api_limits import Limits, error_body
from codi.serving.api_requests import ChatRequest, CompletionRequest
from codi.serving.engine import Engine, EngineBusy, EngineDown, Event, Finished, Job, Piece, Question
from codi.serving.metrics import Metrics

log = logging.getLogger("codi.serving")
DEFAULT_TOKENS = 256


def build_app(
    engine: Engine,
    name: str,
    *,
    api_key: str | None = None,
    max_body_bytes: int = 1_000_000,
    max_latents: int = 64,
    replica: str | None = None,
) -> FastAPI:
    """The whole API. name: of the model; its engine is closed with the app.

    api_key: what `/v1/...` asks for, or None; max_latents: most thoughts that a request may ask for;
    replica: which of several servers this is, for `/health`.
    """
    metrics, created = Metrics(engine), int(time.time())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close)

    app = FastAPI(title="CODI", version=codi.__version__, lifespan=lifespan)
    app.add_middleware(
        Limits,
        api_key=api_key,
        max_body_bytes=max_body_bytes,
        metrics=metrics,
    )
    _handle_errors(app)
    model = {"id": name, "object": "model", "created": created, "owned_by": "codi"}

    @app.post("/v1/chat/completions", responses=_ERRORS)
    async def chat(request: Request, body: ChatRequest) -> Response:
        return await _Completion(engine, metrics, name, max_latents, body, "chat").respond(request)

    @app.post("/v1/completions", responses=_ERRORS)
    async def completion(request: Request, body: CompletionRequest) -> Response:
        return await _Completion(engine, metrics, name, max_latents, body, "text").respond(request)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{wanted:path}", responses=_ERRORS)
    async def one_model(wanted: str) -> dict[str, Any]:
        _require_model(wanted, name)
        return model

    @app.get("/health")
    async def health() -> dict[str, Any]:
        waiting, active = engine.load()
        which = {} if replica is None else {"replica": replica}
        return {"status": "ok", "model": name, "waiting": waiting, "active": active, **which}

    @app.get("/metrics")
    async def prometheus() -> Response:
        return Response(metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": described}
    for status, described in (
        (400, "The request cannot be answered; the message says why."),
        (401, "The API key is missing or wrong."),
        (404, "There is no such model."), (413, "The body is too large."),
        (429, "Too many questions are waiting; see Retry-After."), (500, "The model failed."),
    )
}  # fmt: skip


class _ApiError(CodiError):
    """An error with a status of its own."""

    def __init__(self, status: int, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


def _require_model(wanted: str, name: str) -> None:
    if wanted != name:
        raise _ApiError(
            404, f"There is no model '{wanted}' here. The one served is '{name}'.", "model_not_found", "model"
        )


class _Completion:
    """One request: its choices in the engine, and its responses."""

    def __init__(
        self, engine: Engine, metrics: Metrics, name: str, max_latents: int, body: Any, kind: str
    ) -> None:
        _require_model(body.model, name)
        if body.latents is not None and body.latents > max_latents:
            raise _ApiError(
                400, f"{body.latents} latents were asked for; this server takes at most {max_latents}.",
                "too_many_latents", "latents",
            )  # fmt: skip
        self.engine, self.metrics, self.body, self.is_chat = engine, metrics, body, kind == "chat"
        self.begun, self.name = time.monotonic(), name
        self.id = f"{'chatcmpl' if self.is_chat else 'cmpl'}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self.jobs: list[Job] = []

    async def respond(self, request: Request) -> Response:
        """Queue the questions and answer, streamed or whole. A client that has left frees its places."""
        self._submit()
        if self.body.stream:
            return StreamingResponse(self._stream(), media_type="text/event-stream")
        leaving = asyncio.create_task(_until_gone(request))
        answering = asyncio.create_task(self._whole())
        try:
            await asyncio.wait((leaving, answering), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                answering.cancel()
                return Response(status_code=499)  # nobody reads it
            return answering.result()
        finally:
            leaving.cancel()
            self._give_up()

    def _submit(self) -> None:
        body, loop = self.body, asyncio.get_running_loop()
        sampling = Sampling(
            temperature=body.temperature or 0.0,
            top_p=1.0 if body.top_p is None else body.top_p,
            seed=body.seed or 0,
        )
        questions = [
            Question(
                text,
                mode=body.reasoning,
                latents=body.latents,
                sampling=sampling,
                number=number,
                max_new_tokens=body.most_tokens or DEFAULT_TOKENS,
                stop=body.stops,
                in_pieces=bool(body.stream),
                decoded_thoughts=body.decoded_thoughts,
            )
            for text in body.questions
            for number in range(body.n or 1)
        ]

        def deliver_to(choice: int) -> Callable[[Event], None]:
            return lambda event: _post(loop, self.events, (choice, event))

        self.jobs = self.engine.submit_all(questions, [deliver_to(c) for c in range(len(questions))])

    def _give_up(self) -> None:
        """Let go of what is still in the making."""
        for job in self.jobs:
            self.engine.cancel(job)
        if self.jobs:
            self.metrics.cancelled.inc(len(self.jobs))
        self.jobs = []

    async def _events(self) -> AsyncIterator[tuple[int, Piece | Finished]]:
        """Pieces and ends of every choice, until all have ended."""
        left = dict(enumerate(self.jobs))
        while left:
            choice, event = await self.events.get()
            if isinstance(event, Exception):
                raise event
            if isinstance(event, Finished):
                job = left.pop(choice)
                self.jobs.remove(job)
                self.metrics.finished(job.mode, event, time.monotonic() - self.begun)
            yield choice, event

    async def _whole(self) -> Response:
        ends = {choice: event async for choice, event in self._events() if isinstance(event, Finished)}
        choices = [self._choice(choice, ends[choice], ends[choice].answer.text) for choice in sorted(ends)]
        return JSONResponse({**self._head(), "choices": choices, "usage": _usage(list(ends.values()))})

    async def _stream(self) -> AsyncIterator[str]:
        ends: list[Finished] = []
        try:
            if self.is_chat:
                for choice in range(len(self.jobs)):
                    yield self._chunk(choice, {"delta": {"role": "assistant", "content": ""}})
            async for choice, event in self._events():
                if isinstance(event, Piece):
                    text = event.text
                    yield self._chunk(
                        choice, {"delta": {"content": text}} if self.is_chat else {"text": text}
                    )
                    continue
                ends.append(event)
                last = self._choice(choice, event, None)
                yield self._chunk(choice, {"delta": {}, **last} if self.is_chat else {"text": "", **last})
            if self.body.stream_options is not None and self.body.stream_options.include_usage:
                yield _sse({**self._head(), "choices": [], "usage": _usage(ends)})
            yield "data: [DONE]\n\n"
        except Exception as error:  # the status is sent: what is left is to say it in the stream
            log.exception("an answer failed")
            yield _sse(error_body(f"The answer failed: {error}", "internal_error", "server_error"))
        finally:
            self._give_up()

    def _head(self) -> dict[str, Any]:
        kind = "chat.completion" if self.is_chat else "text_completion"
        kind += ".chunk" if self.body.stream and self.is_chat else ""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.name}

    def _chunk(self, choice: int, content: dict[str, Any]) -> str:
        filled = {"index": choice, "finish_reason": None, "logprobs": None, **content}
        return _sse({**self._head(), "choices": [filled]})

    def _choice(self, number: int, one: Finished, text: str | None) -> dict[str, Any]:
        """A finished choice. text: None in a stream, where it was sent before."""
        thoughts: dict[str, Any] = {
            "value": one.answer.value,
            "thought_tokens": one.answer.thoughts,
            "sequential_passes": one.answer.passes,
            "unknown_tokens": one.unknown_tokens,
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
        if text is not None:
            message = {"role": "assistant", "content": text, "refusal": None}
            choice |= {"message": message} if self.is_chat else {"text": text}
        return choice


def _usage(ends: list[Finished]) -> dict[str, Any]:
    """Thoughts count as reasoning tokens and, as OpenAI has it, as part of the completion."""
    prompt = sum(one.question_tokens for one in ends)
    completion = sum(one.latent_tokens + one.written_tokens for one in ends)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "completion_tokens_details": {"reasoning_tokens": sum(one.answer.thoughts for one in ends)},
    }


def _sse(content: Any) -> str:
    return f"data: {json.dumps(content)}\n\n"


def _post(loop: asyncio.AbstractEventLoop, events: asyncio.Queue[Any], item: Any) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(events.put_nowait, item)


async def _until_gone(request: Request) -> None:
    """Returns when the client has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _handle_errors(app: FastAPI) -> None:
    """Every error in OpenAI's form, with a status that says whose it is."""

    @app.exception_handler(RequestValidationError)
    async def _(_: Request, error: RequestValidationError) -> JSONResponse:
        found = error.errors()[0]
        place = ".".join(str(part) for part in found["loc"] if part != "body")
        message = str(found["msg"]).removeprefix("Value error, ")
        told = f"{place}: {message}" if place else message
        return JSONResponse(error_body(told, "invalid_request", param=place or None), 400)

    @app.exception_handler(_ApiError)
    async def _(_: Request, error: _ApiError) -> JSONResponse:
        return JSONResponse(error_body(str(error), error.code, param=error.param), error.status)

    @app.exception_handler(EngineBusy)
    async def _(_: Request, error: EngineBusy) -> JSONResponse:
        body = error_body(str(error), "queue_full", "rate_limit_error")
        return JSONResponse(body, 429, {"Retry-After": str(error.retry_after)})

    @app.exception_handler(EngineDown)
    async def _(_: Request, error: EngineDown) -> JSONResponse:
        return JSONResponse(error_body(str(error), "engine_down", "server_error"), 503)

    @app.exception_handler(UsageError)
    async def _(_: Request, error: UsageError) -> JSONResponse:
        return JSONResponse(error_body(str(error), "invalid_request"), 400)

    @app.exception_handler(HTTPException)
    async def _(_: Request, error: HTTPException) -> JSONResponse:
        codes = {404: "not_found", 413: "body_too_large"}
        body = error_body(str(error.detail), codes.get(error.status_code, "invalid_request"))
        return JSONResponse(body, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def _(_: Request, error: Exception) -> JSONResponse:
        log.error("an answer failed", exc_info=error)
        return JSONResponse(error_body("The answer failed; see the server's log.", "internal_error",
                                       "server_error"), 500)  # fmt: skip
