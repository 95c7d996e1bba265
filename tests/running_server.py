"""A server in a thread of the test's process, so that its engine can be looked at."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from codi.serving.engine import Engine

QUESTIONS = [
    "Mia has 3 apples and buys 4 more . How many apples does Mia have ?",
    "How many apples ?",
    "On Monday the price rises by 2 dollars . What does it cost now ?",
]
KEY = "a key"


@dataclass
class Running:
    """Where it answers, and what answers."""

    address: str
    engine: Engine
    app: Any
    http: Any
    server: Any

    def openai(self, **options: Any) -> Any:
        """OpenAI's client, which tries once."""
        import openai

        settings = {"base_url": f"{self.address}/v1", "api_key": KEY, "max_retries": 0, "timeout": 30}
        return openai.OpenAI(**settings | options)

    def post(self, body: Any, path: str = "/v1/chat/completions", **headers: str) -> Any:
        """A request with a body that is JSON, or bytes as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"authorization": f"Bearer {KEY}", "content-type": "application/json", **headers}
        return self.http.post(self.address + path, content=content, headers=sent)

    def get(self, path: str, **headers: str) -> Any:
        """A page, without the key."""
        return self.http.get(self.address + path, headers=headers)

    def counted(self, name: str, **labels: str) -> float:
        """A number of `/metrics`; 0 where it is not there."""
        total = 0.0
        for line in self.get("/metrics").text.splitlines():
            found = re.fullmatch(re.escape(name) + r"(?:\{(.*)\})? (\S+)", line)
            if found and all(f'{key}="{value}"' in (found.group(1) or "") for key, value in labels.items()):
                total += float(found.group(2))
        return total

    def idle(self) -> None:
        """Return when nothing is in the making."""
        until = time.monotonic() + 20
        while self.engine.load() != (0, 0):
            assert time.monotonic() < until
            time.sleep(0.01)


@contextmanager
def serving(
    engine: Engine,
    *,
    seconds_to_send: float = 30,
    seconds_to_leave: float = 2,
    sent_ahead: int | None = None,
    with_page: Any = None,
    **options: Any,
) -> Iterator[Running]:
    """A server over an engine. options: of `build_app`; with_page: called with the app before it runs.

    sent_ahead: bytes that may be on their way to a client that does not read.
    """
    import httpx

    from codi.serving.api import build_app
    from codi.serving.server import server

    app = build_app(engine, "tiny", seconds_to_send=seconds_to_send, **options)
    if with_page is not None:
        with_page(app)
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    if sent_ahead is not None:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sent_ahead)
    made = server(app, seconds_to_send=seconds_to_send, seconds_to_leave=seconds_to_leave)
    thread = threading.Thread(target=made.run, kwargs={"sockets": [listening]})
    thread.start()
    while not made.started:
        time.sleep(0.01)
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        with httpx.Client(timeout=30) as client:
            yield Running(address, engine, app, client, made)
    finally:
        made.should_exit = True
        thread.join(30)
    assert not thread.is_alive()
    assert engine.load() == (0, 0)


def chat(text: str, **more: Any) -> dict[str, Any]:
    """A chat's body."""
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 9, **more}


def plain(prompt: Any, **more: Any) -> dict[str, Any]:
    """A completion's body."""
    return {"model": "tiny", "prompt": prompt, "max_tokens": 9, **more}
