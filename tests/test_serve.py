"""The API as its clients see it: OpenAI's own Python client, plain requests, and nonsense."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from codi.generation.latent_reasoner import LatentReasoner
from codi.serving.engine import Engine
from tiny_checkpoints import tiny_reasoner

httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")
uvicorn = pytest.importorskip("uvicorn")

QUESTIONS = [
    "Mia has 3 apples and buys 4 more . How many apples does Mia have ?",
    "How many apples ?",
    "On Monday the price rises by 2 dollars . What does it cost now ?",
]
KEY = "a key"


@dataclass
class Running:
    """A server in a thread of this process, so that the engine can be looked at."""

    address: str
    engine: Engine
    app: Any

    def client(self) -> Any:
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key=KEY, max_retries=0, timeout=30)

    def post(self, body: Any, path: str = "/v1/chat/completions", **headers: str) -> Any:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"authorization": f"Bearer {KEY}", "content-type": "application/json", **headers}
        return httpx.post(self.address + path, content=content, headers=sent, timeout=30)


def run_server(engine: Engine, **options: Any) -> Iterator[Running]:
    from codi.serving.api import build_app

    app = build_app(engine, "tiny", **options)
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield Running(f"http://127.0.0.1:{listening.getsockname()[1]}", engine, app)
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()
    assert engine.load() == (0, 0)


@pytest.fixture(scope="module")
def reasoner() -> LatentReasoner:
    return tiny_reasoner("codi")


@pytest.fixture(scope="module")
def running(reasoner: LatentReasoner) -> Iterator[Running]:
    yield from run_server(Engine(reasoner), api_key=KEY, max_body_bytes=20_000, max_latents=12)


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 9, **more}


# --- OpenAI's client ----------------------------------------------------------------------------------------


def test_openai_client_gets_the_reasoners_answers(running: Running, reasoner: LatentReasoner) -> None:
    client = running.client()
    assert [model.id for model in client.models.list()] == ["tiny"]
    for text, expected in zip(QUESTIONS, reasoner.answer(QUESTIONS, max_new_tokens=9), strict=True):
        found = client.chat.completions.create(**chat(text))
        (choice,) = found.choices
        assert choice.message.content == expected.text
        assert choice.finish_reason == ("stop" if expected.finished else "length")
        assert choice.codi["value"] == expected.value
        assert found.usage.completion_tokens_details.reasoning_tokens == expected.thoughts == 8
        assert found.usage.completion_tokens == 8 + expected.answer_tokens
        assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
        plain = client.completions.create(model="tiny", prompt=text, max_tokens=9)
        assert plain.choices[0].text == expected.text


def test_openai_client_streams_the_same(running: Running, reasoner: LatentReasoner) -> None:
    for options, asked in (({}, {}), ({"mode": "explicit"}, {"extra_body": {"reasoning": "explicit"}})):
        expected = reasoner.answer([QUESTIONS[0]], max_new_tokens=9, **options)[0]
        stream = running.client().chat.completions.create(
            **chat(QUESTIONS[0]), stream=True, stream_options={"include_usage": True}, **asked
        )
        *chunks, last = list(stream)
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
        assert "".join(pieces) == expected.text
        assert sum(bool(piece) for piece in pieces) > 1
        assert chunks[-1].choices[0].finish_reason in ("stop", "length")
        assert last.choices == []
        assert last.usage.completion_tokens_details.reasoning_tokens == expected.thoughts
        plain = running.client().completions.create(
            model="tiny", prompt=QUESTIONS[0], max_tokens=9, stream=True, **asked
        )
        assert "".join(chunk.choices[0].text for chunk in plain) == expected.text


def test_sampling_choices_stops_and_thoughts(running: Running, reasoner: LatentReasoner) -> None:
    client = running.client()
    expected = reasoner.answer([QUESTIONS[0]] * 3, temperature=1.0, top_p=0.9, seed=4, max_new_tokens=9)
    found = client.chat.completions.create(**chat(QUESTIONS[0], n=3, temperature=1.0, top_p=0.9, seed=4))
    assert [choice.message.content for choice in found.choices] == [answer.text for answer in expected]
    whole = reasoner.answer([QUESTIONS[0]], latents=3, max_new_tokens=9)[0].text
    asked = {"latents": 3, "decoded_thoughts": True}
    found = client.chat.completions.create(**chat(QUESTIONS[0], stop=[whole[8:11]]), extra_body=asked)
    assert found.choices[0].message.content == whole[: whole.index(whole[8:11])]
    assert found.choices[0].finish_reason == "stop"
    decoded = found.choices[0].codi["decoded_thoughts"]
    assert [len(tokens) for tokens in decoded] == [5, 5, 5]
    several = client.completions.create(model="tiny", prompt=QUESTIONS, max_tokens=2)
    wanted = reasoner.answer(QUESTIONS, max_new_tokens=2)
    assert [choice.text for choice in several.choices] == [answer.text for answer in wanted]


def test_many_at_once_get_their_own_answers(running: Running, reasoner: LatentReasoner) -> None:
    expected = [answer.text for answer in reasoner.answer(QUESTIONS, max_new_tokens=9)]

    async def ask_all() -> list[str]:
        client = openai.AsyncOpenAI(base_url=f"{running.address}/v1", api_key=KEY, max_retries=0)
        asked = [client.chat.completions.create(**chat(QUESTIONS[n % 3])) for n in range(60)]
        return [found.choices[0].message.content for found in await asyncio.gather(*asked)]

    assert asyncio.run(ask_all()) == [expected[n % 3] for n in range(60)]


# --- refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (chat(QUESTIONS[0], model="other"), 404, "There is no model 'other' here. The one served is 'tiny'."),
        (chat("apples " * 300), 400, "has 300 tokens"),
        (chat(" "), 400, "The question is empty"),
        (chat(QUESTIONS[0], latents=13), 400, "13 latents were asked for; this server takes at most 12"),
        (chat(QUESTIONS[0], latents=3, reasoning="explicit"), 400, "in mode 'explicit' has none"),
        (chat(QUESTIONS[0], reasoning="direct"), 400, "direct"),
        (chat(QUESTIONS[0], temperature=-1), 400, "temperature: Input should be greater than or equal to 0"),
        (chat(QUESTIONS[0], tools=[{"type": "function"}]), 400, "'tools' is not supported"),
        (chat(QUESTIONS[0], colour="red"), 400, "there is no parameter 'colour'"),
        (chat(QUESTIONS[0], n=17), 400, "n: Input should be less than or equal to 16"),
        (chat(QUESTIONS[0], stop=[""]), 400, "stop"),
        ({"model": "tiny", "messages": [{"role": "system", "content": "Be kind."},
                                        {"role": "user", "content": "Hi"}]}, 400, "send one message"),
        ({"model": "tiny", "messages": []}, 400, "messages"),
        (b"{", 400, "JSON decode error"),
        (b"\xff\xfe", 400, ""),
        (b"[]", 400, "valid dictionary"),
        (b"", 400, "Field required"),
        (chat("x" * 30_000), 413, "larger than 20,000 bytes"),
    ],
)  # fmt: skip
def test_bad_requests_get_one_clear_message(running: Running, body: Any, status: int, said: str) -> None:
    response = running.post(body)
    assert response.status_code == status, response.text
    assert said in response.json()["error"]["message"]


def test_the_key_is_asked_for(running: Running) -> None:
    for headers in ({"authorization": "Bearer wrong"}, {"authorization": ""}, {"authorization": KEY}):
        response = running.post(chat(QUESTIONS[0]), **headers)
        expected = 200 if headers["authorization"] == KEY else 401  # the scheme's name may be left out
        assert response.status_code == expected
    with pytest.raises(openai.AuthenticationError, match="missing or wrong"):
        openai.OpenAI(base_url=f"{running.address}/v1", api_key="wrong", max_retries=0).models.list()
    assert httpx.get(f"{running.address}/health").json()["status"] == "ok"


def test_a_body_without_a_length_is_limited_too(running: Running) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(1000):
            yield b" " * 1000

    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    response = httpx.post(f"{running.address}/v1/completions", content=endless(), headers=headers)
    assert response.status_code == 413


def test_malformed_bodies_never_break_it(running: Running) -> None:
    """500 of them: valid requests with bytes changed, cut and repeated."""
    rng, whole = random.Random(1), json.dumps(chat(QUESTIONS[0], stop=["x"], n=2, max_tokens=1)).encode()
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    with httpx.Client(base_url=running.address, headers=headers) as client:
        for _ in range(500):
            body = bytearray(whole)
            for _ in range(rng.randint(1, 4)):
                place = rng.randrange(len(body) + 1)
                kind = rng.randrange(3)
                if kind == 0:
                    body[place : place + rng.randint(0, 9)] = rng.randbytes(rng.randint(0, 9))
                elif kind == 1:
                    del body[place:]
                else:
                    body += body[place:]
            status = client.post("/v1/chat/completions", content=bytes(body)).status_code
            assert status in (200, 400, 404, 413), bytes(body)
    assert running.post(chat(QUESTIONS[0])).status_code == 200


def test_what_its_own_description_allows_breaks_nothing(running: Running) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    import hypothesis

    schema = schemathesis.openapi.from_url(f"{running.address}/openapi.json")
    settings = hypothesis.settings(max_examples=25, deadline=None, derandomize=True, database=None,
                                   suppress_health_check=list(hypothesis.HealthCheck))  # fmt: skip
    tried = 0
    for operation in schema.get_all_operations():

        @hypothesis.given(case=operation.ok().as_strategy())
        @settings
        def check(case: Any) -> None:
            nonlocal tried
            tried += 1
            response = case.call(headers={"authorization": f"Bearer {KEY}"})
            assert response.status_code < 500, response.text

        check()
    assert tried > 60


# --- load ---------------------------------------------------------------------------------------------------


@pytest.fixture
def narrow(reasoner: LatentReasoner) -> Iterator[Running]:
    yield from run_server(Engine(reasoner, max_batch=1, max_waiting=2), api_key=KEY)


def test_a_full_queue_answers_429_and_says_when(narrow: Running) -> None:
    engine, headers = narrow.engine, {"authorization": f"Bearer {KEY}"}

    async def ask_all() -> tuple[list[Any], list[int]]:
        async with httpx.AsyncClient(timeout=30, headers=headers) as client:
            url = f"{narrow.address}/v1/chat/completions"
            engine.one_at_a_time.acquire()  # the model is taken: nothing moves
            asked = [asyncio.create_task(client.post(url, json=chat(QUESTIONS[1]))) for _ in range(8)]
            while sum(task.done() for task in asked) < 5:
                await asyncio.sleep(0.01)
            refused = [task.result() for task in asked if task.done()]
            engine.one_at_a_time.release()
            await asyncio.wait(asked)
            return refused, [task.result().status_code for task in asked]

    refused, statuses = asyncio.run(ask_all())
    assert {response.status_code for response in refused} == {429}
    assert all(int(response.headers["retry-after"]) >= 1 for response in refused)
    assert "at most 2 may wait" in refused[0].json()["error"]["message"]
    assert sorted(statuses) == [200] * (8 - len(refused)) + [429] * len(refused)
    assert narrow.post(chat(QUESTIONS[1])).status_code == 200  # it takes questions again at once


def test_a_client_that_hangs_up_frees_its_place(running: Running) -> None:
    engine = running.engine
    for stream in (False, True):
        with engine.one_at_a_time:
            body = chat(QUESTIONS[0], reasoning="explicit", max_tokens=120, stream=stream)
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{running.address}/v1/chat/completions", json=body, timeout=0.3,
                           headers={"authorization": f"Bearer {KEY}"})  # fmt: skip
        waited = time.monotonic() + 10
        while engine.load() != (0, 0):
            assert time.monotonic() < waited
            time.sleep(0.01)
    page = httpx.get(f"{running.address}/metrics").text
    assert "codi_cancelled_total 2.0" in page or "codi_cancelled_total 1.0" in page
    assert 'codi_answers_total{mode="latent"}' in page
    assert 'codi_requests_total{path="/v1/chat/completions",status="200"}' in page


def test_a_broken_model_is_said_and_survived(
    running: Running, reasoner: LatentReasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = reasoner.model.think
    monkeypatch.setattr(reasoner.model, "think", lambda *_, **__: 1 / 0)
    response = running.post(chat(QUESTIONS[0]))
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert "division by zero" in running.post(chat(QUESTIONS[0], stream=True)).text
    monkeypatch.setattr(reasoner.model, "think", usual)
    assert running.post(chat(QUESTIONS[0])).status_code == 200


# --- the command --------------------------------------------------------------------------------------------


def start(checkpoint: Path, *options: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "codi", "serve", str(checkpoint), "--device", "cpu", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert " is served at " in line, line + process.stderr.read()
    return process, line.split(" is served at ")[1].split("/v1")[0]


def test_sigterm_under_load_answers_what_was_taken(tmp_path: Path, reasoner: LatentReasoner) -> None:
    reasoner.save_pretrained(tmp_path / "tiny")
    process, address = start(tmp_path / "tiny", "--port", "0", "--max-batch", "2")

    async def ask_all() -> tuple[list[Any], list[Any]]:
        async with httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=None)) as client:
            url = f"{address}/v1/chat/completions"
            asked = [asyncio.create_task(client.post(url, json=chat(QUESTIONS[n % 3]))) for n in range(40)]
            while (await client.get(f"{address}/health")).json()["waiting"] == 0:
                await asyncio.sleep(0)
            process.send_signal(signal.SIGTERM)
            found = await asyncio.gather(*asked, return_exceptions=True)
            return [one for one in found if isinstance(one, httpx.Response)], found

    answered, every = asyncio.run(ask_all())
    process.wait(30)
    assert answered
    assert {response.status_code for response in answered} == {200}
    # What was not taken was not half answered: its connection was refused.
    assert all(isinstance(one, httpx.Response | httpx.ConnectError | httpx.ReadError) for one in every)


def test_a_port_in_use_and_an_empty_key_are_told(tmp_path: Path, reasoner: LatentReasoner) -> None:
    from typer.testing import CliRunner

    from codi.cli import app

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(app, ["serve", str(tmp_path), "--port", port])
    assert result.exit_code == 2
    assert f"Port {port} on 127.0.0.1 is in use" in result.output
    result = CliRunner().invoke(app, ["serve", str(tmp_path), "--port", "0", "--api-key", " "])
    assert result.exit_code == 2
    assert "The API key is empty" in result.output
