"""What clients read where a replica says nothing: it died with their request, or is being taken down.

Ray's proxies then answer in their own words: 500 for the requests of a replica that died, 404 once a
deployment is being deleted. Loaded into the proxies, this says 503 with Retry-After, in the API's form, and
ends a stream that was cut off with an error. What replicas say themselves passes as it is.
"""

from __future__ import annotations

import json
from typing import Any

from starlette.middleware import Middleware

from codi.serving.api_error_body import SECONDS_TO_COME_BACK, error_body
from codi.serving.asgi import App, Message, Receive, Send

IMPORT_PATH = "codi.serving.replica_proxy:middlewares"
"""For Ray's setting RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH, read where its proxies start."""
_RAYS_OWN = (404, 500, 503)


def middlewares() -> list[Middleware]:
    """What Ray asks for."""
    return [Middleware(Unavailable)]


class Unavailable:
    """Answers for a replica that cannot."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = ended = stands_in = is_stream = said_done = False

        async def seen(message: Message) -> None:
            nonlocal started, ended, stands_in, is_stream, said_done
            if message["type"] == "http.response.start":
                kind = dict(message.get("headers", ())).get(b"content-type", b"")
                stands_in = message["status"] in _RAYS_OWN and not kind.startswith(b"application/json")
                is_stream = kind.startswith(b"text/event-stream")
                if stands_in:
                    return
                started = True
            elif stands_in:
                return
            elif message["type"] == "http.response.body":
                said_done = said_done or message.get("body", b"").endswith(b"data: [DONE]\n\n")
                ended = not message.get("more_body", False)
                if ended and is_stream and not said_done:
                    message = {**message, "body": message.get("body", b"") + _cut_off()}
            await send(message)

        await self.app(scope, receive, seen)
        if not started:
            await _unavailable(send)
        elif not ended and is_stream:
            await send({"type": "http.response.body", "body": b"" if said_done else _cut_off()})


async def _unavailable(send: Send) -> None:
    content = json.dumps(_body()).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"retry-after", str(SECONDS_TO_COME_BACK).encode()),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def _cut_off() -> bytes:
    return f"data: {json.dumps(_body())}\n\ndata: [DONE]\n\n".encode()


def _body() -> dict[str, Any]:
    told = "The replica that had this question has ended, or the server is being taken down. Ask again."
    return error_body(told, "unavailable", "server_error")
