"""How the server leaves: what was taken is answered, and nobody keeps it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from codi.generation.latent_reasoner import LatentReasoner
from codi.serving.engine import Engine
from running_server import KEY, QUESTIONS, chat, serving
from test_serve import start
from tiny_checkpoints import tiny_reasoner

httpx = pytest.importorskip("httpx")

LONG = {"max_tokens": 150, "ignore_eos": True}


@pytest.fixture(scope="module")
def reasoner() -> LatentReasoner:
    return tiny_reasoner("codi")


def test_a_client_that_does_not_read_keeps_nobody(reasoner: LatentReasoner) -> None:
    """Its answer is far larger than what may be on its way; the server stops, and is gone after its time."""
    body = json.dumps(chat(QUESTIONS[0], stream=True, n=4, logprobs=True, top_logprobs=20, **LONG)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with serving(Engine(reasoner), api_key=KEY, seconds_to_leave=1, sent_ahead=4096) as server:
        port = int(server.address.rpartition(":")[2])
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", port))
            client.sendall(head.encode() + body)
            while server.engine.load()[1] == 0:
                time.sleep(0.01)
            server.idle()  # all is written, and hardly any of it read
            begun = time.monotonic()
            server.server.should_exit = True
            while server.server.server_state.connections or server.server.server_state.tasks:
                assert time.monotonic() - begun < 8
                time.sleep(0.02)
            assert time.monotonic() - begun > 0.9  # it had its time


def test_what_cannot_be_answered_in_time_is_told_so(
    reasoner: LatentReasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request gets 503 as JSON, a stream that has begun an event with the error, and its end."""
    engine, hangs, goes_on = Engine(reasoner, max_batch=1), threading.Event(), threading.Event()
    usual = reasoner.model.read

    def read(*asked: Any, **more: Any) -> Any:
        if hangs.is_set():
            goes_on.wait(20)
        return usual(*asked, **more)

    monkeypatch.setattr(reasoner.model, "read", read)
    body, sent = chat(QUESTIONS[0], stream=True, **LONG), {"authorization": f"Bearer {KEY}"}
    with serving(engine, api_key=KEY, seconds_to_leave=0.5) as server, ThreadPoolExecutor(1) as other:
        url = f"{server.address}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, headers=sent, timeout=20) as told:
            lines = told.iter_lines()
            first = next(lines)
            hangs.set()
            waiting = other.submit(server.post, chat(QUESTIONS[1]))
            while engine.load()[0] == 0:
                time.sleep(0.01)
            server.server.should_exit = True
            text = "\n".join([first, *lines])
        answer = waiting.result(20)
        goes_on.set()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    assert "was stopped and had no answer within 0.5 seconds" in text
    assert text.rstrip().endswith("data: [DONE]")


@pytest.mark.parametrize("page", [False, True])
def test_sigterm_answers_what_was_taken_also_beside_open_tabs(
    tmp_path: Path, reasoner: LatentReasoner, page: bool
) -> None:
    """Whole answers and streams that take longer than tabs have to go."""
    if page:
        pytest.importorskip("nicegui")
    reasoner.save_pretrained(tmp_path / "tiny")
    options = ["--port", "0", "--max-batch", "1", *(["--ui"] if page else [])]
    process, address = start(tmp_path / "tiny", *options)

    async def ask_all() -> list[Any]:
        async with httpx.AsyncClient(timeout=60) as client:
            url, poll = f"{address}/v1/chat/completions", f"{address}/_nicegui_ws/socket.io/?EIO=4"
            if page:
                opened = await client.get(f"{poll}&transport=polling")
                session = json.loads(opened.text[1:])["sid"]
                tab = asyncio.create_task(client.get(f"{poll}&transport=polling&sid={session}"))
            bodies = [chat(QUESTIONS[0], stream=n % 2 == 1, **LONG) for n in range(8)]
            asked = [asyncio.create_task(client.post(url, json=body)) for body in bodies]
            while (await client.get(f"{address}/health")).json()["waiting"] < 7:
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            answers = await asyncio.gather(*asked)
            if page:
                await asyncio.gather(tab, return_exceptions=True)
            return answers

    answers = asyncio.run(ask_all())
    process.wait(20)
    assert [answer.status_code for answer in answers] == [200] * 8
    for number, answer in enumerate(answers):
        assert ("data: [DONE]" in answer.text) is (number % 2 == 1)
        assert '"error"' not in answer.text
