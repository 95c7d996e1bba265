"""What every request passes before it is looked at: counting, the API key, and the limits of its body.

    Counted ──► (other origins) ──► Answered ──► Limits ──► the app

All is plain ASGI, so a body that is too large is never read to its end, and none is held twice.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from functools import cached_property

from codi.serving.api_errors import ApiError, response_to
from codi.serving.asgi import App, Message, Receive, Send, is_api
from codi.serving.job import EngineDown
from codi.serving.metrics import Metrics
from codi.serving.page_key import LOGIN, PageKey

OPEN = ("/health", "/metrics", "/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc", LOGIN)
"""Paths that ask for no key."""


class Counted:
    """Counts every answer's status, whoever gives it."""

    def __init__(self, app: App, metrics: Metrics, known: Callable[[], set[str]]) -> None:
        """known: paths that are counted under their own name; with others anybody could fill the registry."""
        self.app, self.metrics, self._known = app, metrics, known

    @cached_property
    def known(self) -> set[str]:
        """Asked for once, when every path has been added."""
        return self._known()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                route, path = scope.get("route"), scope["path"]
                if getattr(route, "include_in_schema", False):
                    path = getattr(route, "path", path)  # /v1/models/{...}, whichever was asked for
                label = path if path in self.known else "other"
                self.metrics.requests.labels(label, str(message["status"])).inc()
            await send(message)

        await self.app(scope, receive, counting_send)


class Answered:
    """Answers what nobody foresaw, and requests that are cancelled because the server leaves."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = is_stream = ended = False

        async def seen(message: Message) -> None:
            nonlocal started, is_stream, ended
            if message["type"] == "http.response.start":
                started = True
                kind = dict(message.get("headers", ())).get(b"content-type", b"")
                is_stream = kind.startswith(b"text/event-stream")
            else:
                ended = not message.get("more_body", False)
            await send(message)

        try:
            await self.app(scope, receive, seen)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError):
                answer = response_to(EngineDown("The server was stopped before this was answered."))
                if is_stream and not ended:
                    told = b"data: " + bytes(answer.body) + b"\n\ndata: [DONE]\n\n"
                    await send({"type": "http.response.body", "body": told})
                    return
            else:
                answer = response_to(error)
            if started:
                raise  # the server ends the connection
            await answer(scope, receive, seen)


class Limits:
    """Asks for the key, and refuses bodies that are too large or too slow.

    page: with which key the page is opened, where there is one; everything but `OPEN` asks for a key.
    """

    def __init__(
        self,
        app: App,
        api_key: str | None,
        max_body_bytes: int,
        seconds_to_send: float,
        page: PageKey | None = None,
    ) -> None:
        self.app, self.api_key, self.page = app, api_key, page
        self.max_body_bytes, self.seconds_to_send = max_body_bytes, seconds_to_send

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request, or one connection of the page's."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        asks_what_is_allowed = scope.get("method") == "OPTIONS" and is_api(scope["path"])
        if not asks_what_is_allowed and not self._may_pass(scope["path"], headers):
            await self._refuse(scope, headers, receive, send)
            return
        if scope["type"] == "websocket":
            await self.app(scope, receive, send)
            return
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.max_body_bytes:
            await self._too_large().response()(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        read, complete, until = 0, False, loop.time() + self.seconds_to_send

        async def limited_receive() -> Message:
            nonlocal read, complete
            if complete:  # what comes now is the client hanging up, and may take its time
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError as error:
                raise ApiError(
                    408,
                    f"The body did not come within {self.seconds_to_send:g} seconds "
                    "(codi serve --read-timeout).",
                    "body_too_slow",
                ) from error
            read += len(message.get("body", b""))
            if read > self.max_body_bytes:  # a body without a (true) length
                raise self._too_large()
            complete = not message.get("more_body", False)
            return message

        await self.app(scope, limited_receive, send)

    def _may_pass(self, path: str, headers: dict[bytes, bytes]) -> bool:
        if self.api_key is None or path in OPEN:
            return True
        if not is_api(path) and self.page is not None:
            return self.page.opens(headers)
        scheme, _, rest = headers.get(b"authorization", b"").strip().partition(b" ")
        given = rest.strip() if scheme.lower() == b"bearer" else b" ".join((scheme, rest)).strip()
        return hmac.compare_digest(given, self.api_key.encode())

    async def _refuse(
        self, scope: Message, headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: a 403
            return
        wants_page = not is_api(scope["path"]) and b"text/html" in headers.get(b"accept", b"")
        if self.page is not None and wants_page:
            await self.page.to_login()(scope, receive, send)
            return
        told = "The API key is missing or wrong: send the header 'Authorization: Bearer KEY'."
        answer = ApiError(401, told, "invalid_api_key").response()
        answer.headers["www-authenticate"] = "Bearer"
        answer.headers["connection"] = "close"  # what there is of a body is not read
        await answer(scope, receive, send)

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"The body is larger than {self.max_body_bytes:,} bytes, the most this server takes "
            "(codi serve --max-body-bytes).",
            "body_too_large",
        )
