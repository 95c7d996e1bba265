"""What every request passes before it is looked at: the API key, and the size of its body.

Both are plain ASGI, so a body that is too large is never read to its end, and none is held twice.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException

from codi.serving.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


def error_body(message: str, code: str, kind: str = "invalid_request_error", param: str | None = None) -> Any:
    """An error as OpenAI's clients expect it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Limits:
    """Asks for the key on `/v1/...`, refuses large bodies, and counts every answer's status."""

    def __init__(self, app: App, api_key: str | None, max_body_bytes: int, metrics: Metrics) -> None:
        self.app, self.api_key, self.max_body_bytes, self.metrics = app, api_key, max_body_bytes, metrics

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = scope.get("route")
                path = getattr(route, "path", "other")  # not what was typed: anybody could fill the registry
                self.metrics.requests.labels(path, str(message["status"])).inc()
            await send(message)

        headers = dict(scope["headers"])
        if self.api_key is not None and scope["path"].startswith("/v1/"):
            given = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
            if not hmac.compare_digest(given, self.api_key.encode()):
                told = "The API key is missing or wrong: send the header 'Authorization: Bearer KEY'."
                await _answer(counting_send, 401, error_body(told, "invalid_api_key"))
                return
        length = headers.get(b"content-length", b"0")
        too_large = error_body(
            f"The body is larger than {self.max_body_bytes:,} bytes, the most this server takes "
            "(codi serve --max-body-bytes).",
            "body_too_large",
        )
        if length.isdigit() and int(length) > self.max_body_bytes:
            await _answer(counting_send, 413, too_large)
            return
        read = 0

        async def limited_receive() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.max_body_bytes:  # a body without a (true) length
                raise HTTPException(413, too_large["error"]["message"])
            return message

        await self.app(scope, limited_receive, counting_send)


async def _answer(send: Send, status: int, body: Any) -> None:
    content = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    headers.append((b"connection", b"close"))  # what is left of the body is not read
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
