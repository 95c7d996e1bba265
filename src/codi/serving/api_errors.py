"""Every error of the API, in the form that OpenAI's clients read, with a status that says whose it is."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from codi.errors import CodiError, UsageError
from codi.serving.api_error_body import SECONDS_TO_COME_BACK, error_body
from codi.serving.engine import EngineBusy, EngineDown

log = logging.getLogger("codi.serving")

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": described}
    for status, described in (
        (400, "The request cannot be answered; the message says why."),
        (401, "The API key is missing or wrong."),
        (404, "There is no such model, or no such path."),
        (405, "The path takes another method; see Allow."),
        (408, "The request's body did not come in time."),
        (413, "The body is too large."),
        (415, "The body is not said to be JSON."),
        (429, "Too many questions are waiting; see Retry-After."),
        (500, "The model failed."),
        (503, "The server takes no questions: it is closing, or its model has failed. See Retry-After."),
    )
}
"""For the API's own description."""


class ApiError(CodiError):
    """An error with a status of its own. param: the request's field that is to blame."""

    def __init__(self, status: int, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    def response(self) -> JSONResponse:
        """In OpenAI's form. A body that was not read to its end ends the connection with it."""
        headers = {"connection": "close"} if self.status in (408, 413) else None
        return JSONResponse(error_body(str(self), self.code, param=self.param), self.status, headers)


def response_to(error: Exception) -> JSONResponse:
    """What an error is answered with. One that nobody foresaw is logged, and told without its details."""
    match error:
        case ApiError():
            return error.response()
        case EngineBusy():
            body = error_body(str(error), "queue_full", "rate_limit_error")
            return JSONResponse(body, 429, {"Retry-After": str(error.retry_after)})
        case EngineDown():
            body = error_body(str(error), "unavailable", "server_error")
            return JSONResponse(body, 503, {"Retry-After": str(SECONDS_TO_COME_BACK)})
        case UsageError():
            return JSONResponse(error_body(str(error), "invalid_request"), 400)
        case HTTPException():
            codes = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
            code = codes.get(error.status_code, "invalid_request")
            return JSONResponse(error_body(str(error.detail), code), error.status_code, error.headers)
    log.error("an answer failed", exc_info=error)
    told = "The answer failed; the server's log says more."
    return JSONResponse(error_body(told, "internal_error", "server_error"), 500)


def handle_errors(app: FastAPI) -> None:
    """Answer an app's errors so. What is not foreseen is left to `Answered`, which sees everything."""

    async def handler(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, HTTPException) and error.status_code in (404, 405):
            return no_such_path(app, request)
        return response_to(error)

    for kind in (ApiError, EngineBusy, EngineDown, UsageError, HTTPException):
        app.add_exception_handler(kind, handler)


def no_such_path(app: FastAPI, request: Request) -> JSONResponse:
    """404, or 405 where the path takes another method."""
    path, method = request.url.path, request.method
    taken = sorted(
        {
            each
            for route in app.routes
            if isinstance(route, Route) and route.include_in_schema
            if route.matches(request.scope)[0] is not Match.NONE
            for each in route.methods or ()
        }
    )
    if not taken:
        known = ", ".join(sorted(paths(app)))
        return JSONResponse(
            error_body(f"There is nothing at '{path[:200]}'. This server answers {known}.", "not_found"), 404
        )
    told = f"{path} takes {', '.join(taken)}, not {method}."
    if method == "OPTIONS" and "origin" in request.headers:
        told += " Pages of other origins may not ask here unless the server is started with --allow-origin."
    body = error_body(told, "method_not_allowed")
    return JSONResponse(body, 405, {"Allow": ", ".join(taken)})


def paths(app: FastAPI) -> set[str]:
    """The paths that are part of the API, as they are declared."""
    return {route.path for route in app.routes if isinstance(route, Route) and route.include_in_schema}
