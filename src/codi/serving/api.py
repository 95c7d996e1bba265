"""OpenAI's API over an engine: chat and plain completions, streamed or whole, models, health and metrics.

    request ──► Counted ─► other origins ─► Answered ─► key, body ─► parsed ─► engine ─► response

The answer's text is what the model wrote; `usage` counts thoughts as reasoning tokens; the field `codi` says
how it was thought. A request of several choices is queued whole or not at all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.middleware.cors import CORSMiddleware

from codi.serving.api_body import json_body
from codi.serving.api_completion import RETRIED, SMALL_BODY, Completion, Served
from codi.serving.api_error_body import error_body
from codi.serving.api_errors import ERRORS, handle_errors, no_such_path, paths
from codi.serving.api_limits import Answered, Counted, Limits
from codi.serving.api_requests import ChatRequest, CompletionRequest, parsed
from codi.serving.api_tokenizer import add_tokenizer
from codi.serving.engine import Engine
from codi.serving.metrics import Metrics
from codi.serving.page_key import LOGIN, PageKey
from codi.version import installed_version

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
Asked = TypeVar("Asked", ChatRequest, CompletionRequest)


def build_app(
    engine: Engine,
    name: str,
    *,
    api_key: str | None = None,
    max_body_bytes: int = 1_000_000,
    max_latents: int = 64,
    allow_origins: Sequence[str] = (),
    seconds_to_send: float = 30,
    page: bool = False,
    replica: str | None = None,
) -> FastAPI:
    """The whole API. name: of the model; its engine is closed with the app.

    api_key: what is asked for, or None; max_latents: most thoughts that a request may ask for; allow_origins:
    of web pages that may ask from a browser; seconds_to_send: a body; page: whether one will be shown at `/`;
    replica: which of several servers this is, for `/health`.
    """
    served = Served(engine, Metrics(engine, name), name, max_latents)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close)

    app = FastAPI(title="CODI", version=installed_version(), lifespan=lifespan, redirect_slashes=False)
    page_key = PageKey(api_key, name) if page and api_key is not None else None
    app.add_middleware(
        Limits, api_key=api_key, max_body_bytes=max_body_bytes, seconds_to_send=seconds_to_send, page=page_key
    )
    app.add_middleware(Answered)  # within the next: a page may read what went wrong, too
    if allow_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(allow_origins), allow_methods=["GET", "POST", "OPTIONS"],
            allow_headers=["*"], expose_headers=["Retry-After"],
        )  # fmt: skip
    app.add_middleware(Counted, metrics=served.metrics, known=partial(paths, app))
    app.state.refused = lambda status: served.metrics.requests.labels("other", str(status)).inc()
    app.state.give_up = engine.give_up
    handle_errors(app)
    _add_completions(app, served)
    _add_models(app, served)
    add_tokenizer(app, engine.reasoner)
    _add_state(app, served, replica)
    if page_key is not None:
        app.add_api_route(LOGIN, page_key.login, methods=["GET", "POST"], include_in_schema=False)

    @app.api_route("/v1", methods=_METHODS, include_in_schema=False)
    @app.api_route("/v1/{_:path}", methods=_METHODS, include_in_schema=False)
    async def nothing(request: Request) -> Response:
        return no_such_path(app, request)  # a page at / would answer it

    return app


def _add_completions(app: FastAPI, served: Served) -> None:
    async def respond(request: Request, kind: type[Asked]) -> Response:
        content = await json_body(request)
        small, again = len(content) <= SMALL_BODY, request.headers.get(RETRIED, "0") != "0"

        def read() -> tuple[Completion, list[Any]]:
            made = Completion(served, parsed(kind, content), again=again)
            return made, made.questions()

        made, questions = await served.call(small, read)
        made.submit(questions)
        return await made.respond(request)

    @app.post("/v1/chat/completions", responses=ERRORS, openapi_extra=_body_of(ChatRequest))
    async def chat(request: Request) -> Response:
        return await respond(request, ChatRequest)

    @app.post("/v1/completions", responses=ERRORS, openapi_extra=_body_of(CompletionRequest))
    async def completion(request: Request) -> Response:
        return await respond(request, CompletionRequest)


def _add_models(app: FastAPI, served: Served) -> None:
    model = {
        "id": served.name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "codi",
        "root": served.name,
        "parent": None,
        "max_model_len": served.engine.reasoner.model.longest_sequence,
    }

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{wanted:path}", responses=ERRORS)
    async def one_model(wanted: str) -> dict[str, Any]:
        served.require_model(wanted)
        return model


def _add_state(app: FastAPI, served: Served, replica: str | None) -> None:
    which = {} if replica is None else {"replica": replica}

    @app.get("/health", responses={503: ERRORS[503]})
    async def health() -> Response:
        failure = served.engine.failure
        if failure is not None:
            body = error_body(f"The model's worker has ended: {failure}", "engine_failed", "server_error")
            return JSONResponse({"status": "failed", "model": served.name, **which, **body}, 503)
        waiting, active = served.engine.load()
        told = {"status": "ok", "model": served.name, "waiting": waiting, "active": active, **which}
        return JSONResponse(told)

    @app.get("/metrics")
    async def prometheus() -> Response:
        return Response(served.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _body_of(kind: type[ChatRequest | CompletionRequest]) -> dict[str, Any]:
    """A request's body in the API's own description."""
    schema = kind.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _inlined(schema)}}}}


def _inlined(schema: dict[str, Any]) -> Any:
    """A JSON schema without references."""
    named = schema.pop("$defs", {})

    def resolve(part: Any) -> Any:
        if isinstance(part, list):
            return [resolve(one) for one in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return resolve(named[part["$ref"].rpartition("/")[2]])
        return {key: resolve(value) for key, value in part.items()}

    return resolve(schema)
