"""Nonsense, by the hundred: each is answered in time, with a status that was meant, in the form of the API.

CODI_FUZZ=10 makes ten times as much of it.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest

from codi.serving.engine import Engine
from running_server import KEY, QUESTIONS, Running, chat, plain, serving
from tiny_checkpoints import tiny_reasoner

httpx = pytest.importorskip("httpx")

TIMES = int(os.environ.get("CODI_FUZZ", "1"))
MEANT = (200, 400, 401, 404, 405, 408, 413, 415, 429)
HEADERS = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
WHOLE = [
    ("/v1/chat/completions",
     chat(QUESTIONS[0], stop=["x"], n=2, max_tokens=1, logprobs=True, top_logprobs=2)),
    ("/v1/chat/completions",
     chat(QUESTIONS[0], stream=True, stream_options={"include_usage": True}, max_tokens=2)),
    ("/v1/completions", plain([QUESTIONS[0], QUESTIONS[1]], echo=True, logprobs=1, max_tokens=1, seed=5)),
    ("/v1/completions",
     plain([[5, 6, 7]], temperature=1.0, top_p=0.9, top_k=3, max_tokens=2, reasoning="explicit")),
    ("/tokenize", {"prompt": "apples", "add_special_tokens": False}),
    ("/detokenize", {"tokens": [5, 6, 7]}),
]  # fmt: skip
STRANGE: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**64), 10**40, 0.5, -0.0, 1e-40, 1e308, "", " ", "x",
    "\u0000", "\ud800", "🍎" * 300, "9" * 50, [], [[]], [None], [[[1]]], ["a", 1], [5] * 400, {},
    {"a": {"b": []}}, "latent", [{"type": "text", "text": "a"}], [{"role": "user", "content": "b"}],
    {"include_usage": 1}, {"type": "text"},
]  # fmt: skip


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(Engine(tiny_reasoner("codi")), api_key=KEY, max_body_bytes=20_000, max_latents=12) as server:
        yield server
        assert server.post(chat(QUESTIONS[0])).status_code == 200
        assert server.counted("codi_failed_total") == 0


def check(response: Any, sent: Any) -> None:
    assert response.status_code in MEANT, (sent, response.text)
    if response.status_code >= 400:
        assert response.json()["error"].keys() == {"message", "type", "param", "code"}, (sent, response.text)
        assert "validation error" not in response.text


def test_bytes_changed_cut_and_repeated(running: Running) -> None:
    rng = random.Random(1)
    with httpx.Client(base_url=running.address, headers=HEADERS, timeout=20) as client:
        for _ in range(300 * TIMES):
            path, whole = rng.choice(WHOLE)
            body = bytearray(json.dumps(whole).encode())
            for _ in range(rng.randint(1, 4)):
                place = rng.randrange(len(body) + 1)
                kind = rng.randrange(3)
                if kind == 0:
                    body[place : place + rng.randint(0, 9)] = rng.randbytes(rng.randint(0, 9))
                elif kind == 1:
                    del body[place:]
                else:
                    body += body[place:]
            check(client.post(path, content=bytes(body)), bytes(body))


def test_values_that_do_not_belong(running: Running) -> None:
    """Bodies that are JSON, with one to three of their fields changed for something strange, or invented."""
    from codi.serving.api_neutral import NEUTRAL

    rng = random.Random(2)
    invented = [*NEUTRAL, "latents", "decoded_thoughts", "reasoning", "best_of", "stream", "nonsense"]
    with httpx.Client(base_url=running.address, headers=HEADERS, timeout=20) as client:
        for _ in range(300 * TIMES):
            path, whole = rng.choice(WHOLE)
            body = dict(whole)
            for _ in range(rng.randint(1, 3)):
                body[rng.choice([*whole, rng.choice(invented)])] = rng.choice(STRANGE)
            check(client.post(path, content=json.dumps(body)), body)


@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_what_its_own_description_allows_and_forbids_breaks_nothing(running: Running, mode: str) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    import hypothesis

    schema = schemathesis.openapi.from_url(f"{running.address}/openapi.json")
    settings = hypothesis.settings(max_examples=15 * TIMES, deadline=None, derandomize=True, database=None,
                                   suppress_health_check=list(hypothesis.HealthCheck))  # fmt: skip
    tried = 0
    for operation in schema.get_all_operations():
        kind = schemathesis.GenerationMode[mode]
        if mode == "NEGATIVE" and not operation.ok().body:
            continue

        @hypothesis.given(case=operation.ok().as_strategy(generation_mode=kind))
        @settings
        def ask(case: Any) -> None:
            nonlocal tried
            tried += 1
            check(case.call(headers={"authorization": f"Bearer {KEY}"}, timeout=20), case.body)

        ask()
    assert tried > 40
