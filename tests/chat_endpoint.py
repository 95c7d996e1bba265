"""A real server that speaks OpenAI's chat API as it is told to, in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

web = pytest.importorskip("aiohttp.web")

Respond = Callable[[Any, str, int], Awaitable[Any]]
"""(request, question, how often it was asked) to a response; None closes the connection without one."""


def said(content: Any, finish: str | None = "stop", **message: Any) -> dict[str, Any]:
    """The body of a reply."""
    return {
        "choices": [
            {"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5},
    }


class ChatEndpoint:
    """Counts what it is asked, and keeps each body with the key that came with it."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.under_way = self.most_under_way = 0
        self.loop = asyncio.new_event_loop()
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        ready = threading.Event()

        async def start() -> None:
            application = web.Application()
            application.router.add_post("/v1/chat/completions", self.answer)
            self.runner = web.AppRunner(application, shutdown_timeout=0.1)
            await self.runner.setup()
            await web.SockSite(self.runner, listening).start()
            ready.set()

        def run() -> None:
            self.loop.run_until_complete(start())
            self.loop.run_forever()

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        assert ready.wait(10)

    async def answer(self, request: Any) -> Any:
        body = await request.json()
        self.bodies.append(body | {"key": request.headers.get("Authorization")})
        question = body["messages"][0]["content"].rpartition("Question: ")[2]
        self.asked[question] += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            response = await self.respond(request, question, self.asked[question])
        finally:
            self.under_way -= 1
        if response is None:
            request.transport.close()
            return web.Response()
        return web.json_response(response) if isinstance(response, dict) else response

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.runner.cleanup(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
