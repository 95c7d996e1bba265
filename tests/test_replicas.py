"""`codi serve --ray`: two replicas on this machine answer as one model in this process does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from codi.errors import UsageError
from codi.generation.latent_reasoner import LatentReasoner
from tiny_checkpoints import tiny_reasoner

httpx = pytest.importorskip("httpx")
pytest.importorskip("ray.serve")

QUESTIONS = [
    f"Mia has {first} apples and buys {more} more . How many apples ?"
    for first in (2, 5, 9)
    for more in (3, 4, 8)
]
KEY = "a key"
PATIENT = {
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
}
"""Beside other tests Ray's proxy may need more than the 5 seconds that it is given."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replicas") / "tiny"
    tiny_reasoner("codi").save_pretrained(folder)
    return folder


def command(checkpoint: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "codi", "serve", str(checkpoint), "--ray", "--device", "cpu", *words]


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Where it answers, and its process. One for all tests: Ray takes its time to start."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    words = command(
        checkpoint, "--port", str(port), "--replicas", "2", "--cpus-per-replica", "0.5",
        "--max-batch", "2", "--max-waiting", "8",
    )  # fmt: skip
    server = subprocess.Popen(
        words,
        env={**os.environ, "CODI_API_KEY": KEY, **PATIENT},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert server.stderr is not None
    said = []
    for line in server.stderr:
        said.append(line)
        if "are served at" in line:
            break
    else:
        pytest.fail("the replicas did not start: " + "".join(said))
    yield f"http://127.0.0.1:{port}", server
    server.send_signal(signal.SIGTERM)
    assert "stopped." in server.stderr.read()
    assert server.wait(60) == 0


@pytest.fixture(scope="module")
def address(server: tuple[str, subprocess.Popen[str]]) -> str:
    return server[0]


def ask(address: str, question: str, **more: Any) -> Any:
    body = {"model": "tiny", "messages": [{"role": "user", "content": question}], "max_tokens": 12, **more}
    headers = {"authorization": f"Bearer {KEY}"}
    return httpx.post(f"{address}/v1/chat/completions", json=body, headers=headers, timeout=60)


def test_replicas_share_the_work_and_answer_as_the_model_does(address: str, checkpoint: Path) -> None:
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda question: ask(address, question), QUESTIONS))
    reasoner = LatentReasoner.from_pretrained(checkpoint, device="cpu")
    expected = [one.text for one in reasoner.answer(QUESTIONS, max_new_tokens=12)]
    assert [one.json()["choices"][0]["message"]["content"] for one in answers] == expected
    seen: set[str] = set()
    deadline = time.monotonic() + 30
    while len(seen) < 2 and time.monotonic() < deadline:
        seen.add(httpx.get(f"{address}/health", timeout=30).json()["replica"])
    assert len(seen) == 2, "requests must reach both replicas"


def test_streams_keys_and_limits_are_those_of_one_server(address: str, checkpoint: Path) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": QUESTIONS[0]}], "stream": True}
    headers = {"authorization": f"Bearer {KEY}"}
    text, lines = "", []
    where = f"{address}/v1/chat/completions"
    with httpx.stream("POST", where, json=body, headers=headers, timeout=60) as stream:
        lines = [line.removeprefix("data: ") for line in stream.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    for line in lines[:-1]:
        text += json.loads(line)["choices"][0]["delta"].get("content", "")
    assert text == LatentReasoner.from_pretrained(checkpoint, device="cpu").answer([QUESTIONS[0]])[0].text
    assert httpx.post(where, json=body, timeout=60).status_code == 401
    never = ask(address, QUESTIONS[0], n=16)  # more than --max-waiting 8
    assert (never.status_code, never.json()["error"]["param"]) == (400, "n")
    with ThreadPoolExecutor(60) as clients:
        several = list(
            clients.map(lambda _: ask(address, QUESTIONS[0], n=4, reasoning="explicit"), range(60))
        )
    assert {one.status_code for one in several} == {200, 429}
    refused = next(one for one in several if one.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "queue_full"
    page = httpx.get(f"{address}/metrics", timeout=30).text
    assert 'vllm:request_success_total{engine="0",finished_reason="length",model_name="tiny"}' in page


def watch(address: str, until: threading.Event, clients: int) -> list[Any]:
    """What clients are answered who ask again and again, and wait where they are told to ask later."""
    answers: list[Any] = []

    def one(number: int) -> None:
        with httpx.Client(timeout=60) as client:
            while not until.is_set():
                body = {"model": "tiny", "messages": [{"role": "user", "content": QUESTIONS[number % 9]}],
                        "reasoning": "explicit", "max_tokens": 60}  # fmt: skip
                try:
                    headers = {"authorization": f"Bearer {KEY}"}
                    answers.append(client.post(f"{address}/v1/chat/completions", json=body, headers=headers))
                except httpx.TransportError as error:
                    answers.append(error)
                    return
                if answers[-1].status_code != 200:
                    until.wait(0.2)

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(one, range(clients)))
    return answers


def test_a_replica_that_is_killed_loses_its_own_rows_alone(server: tuple[str, subprocess.Popen[str]]) -> None:
    address, process = server
    replicas = [
        one
        for one in psutil.Process(process.pid).children(recursive=True)
        if "ServeReplica" in " ".join(one.cmdline())
    ]
    assert len(replicas) == 2
    enough = threading.Event()
    with ThreadPoolExecutor(1) as watching:
        # Few enough for one replica, beside the places kept for those whom the test before had refused.
        watched = watching.submit(watch, address, enough, 4)
        time.sleep(1.5)
        replicas[0].kill()
        time.sleep(1.5)
        enough.set()
        answers = watched.result()
    statuses = Counter(one.status_code for one in answers)
    # 429: places may still be kept for those whom the test before had refused.
    assert statuses.keys() <= {200, 503, 429}, statuses
    assert statuses[200] > statuses[429]
    assert 0 < statuses[503] <= 4  # those that it had
    for one in answers:
        if one.status_code == 503:
            assert int(one.headers["retry-after"]) >= 1
            assert one.json()["error"]["code"] == "unavailable"
    assert ask(address, QUESTIONS[0]).status_code == 200  # the other one goes on, and a new one comes


def test_taking_it_down_answers_503_until_nobody_is_there(server: tuple[str, subprocess.Popen[str]]) -> None:
    address, process = server
    gone = threading.Event()
    with ThreadPoolExecutor(1) as watching:
        watched = watching.submit(watch, address, gone, 4)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        process.wait(90)
        gone.set()
        answers = watched.result()
    statuses = Counter("gone" if isinstance(one, Exception) else one.status_code for one in answers)
    assert statuses.keys() <= {200, 503, 429, "gone"}, statuses
    assert statuses[200] > statuses[429]
    assert statuses[503] > 0
    for one in answers:
        if not isinstance(one, Exception) and one.status_code == 503:
            assert (one.json()["error"]["code"], "retry-after" in one.headers) == ("unavailable", True)


@pytest.mark.parametrize(
    ("said", "status", "told"),
    [
        ([(404, b"text/plain", b"Path '/v1/models' not found.")], 503, "Ask again"),
        ([(500, b"text/plain", b"Internal Server Error")], 503, "Ask again"),
        ([], 503, "Ask again"),  # Ray's proxies say nothing of a replica that died
        ([(404, b"application/json", b'{"error": {}}')], 404, '{"error": {}}'),
        ([(200, b"text/plain", b"up 1")], 200, "up 1"),
        ([(200, b"text/event-stream", b"data: 1\n\n"), b""], 200, "[DONE]"),
        ([(200, b"text/event-stream", b"data: 1\n\n"), None], 200, "[DONE]"),
        (
            [(200, b"text/event-stream", b"data: 1\n\n"), b"data: [DONE]\n\n"],
            200,
            "data: 1\n\ndata: [DONE]\n\n",
        ),
    ],
)
def test_what_rays_proxies_say_themselves_is_said_as_the_api_does(
    said: list[Any], status: int, told: str
) -> None:
    """None in `said`: the connection is cut there."""
    from codi.serving.replica_proxy import middlewares

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        for number, one in enumerate(said):
            if one is None:
                return
            if number == 0:
                await send(
                    {"type": "http.response.start", "status": one[0], "headers": [(b"content-type", one[1])]}
                )
            body = one[2] if number == 0 else one
            await send({"type": "http.response.body", "body": body, "more_body": number < len(said) - 1})

    [middleware] = middlewares()
    transport = httpx.ASGITransport(middleware.cls(proxy))

    async def asked() -> Any:
        async with httpx.AsyncClient(transport=transport, base_url="http://proxy") as client:
            return await client.get("/v1/models")

    answer = asyncio.run(asked())
    assert answer.status_code == status
    assert told in answer.text
    if status == 503:
        assert "retry-after" in answer.headers
    if len(said) == 2 and said[1] != b"data: [DONE]\n\n":
        cut = json.loads(answer.text.split("data: ")[2])
        assert cut["error"]["code"] == "unavailable"


@pytest.mark.parametrize(
    ("asked", "gpus_there", "got"),
    [
        ({}, 2, 1.0),
        ({}, 0, 0.0),
        ({"device": "cpu"}, 2, 0.0),
        ({"gpus": 0.0}, 2, 0.0),
        ({"gpus": 0.5}, 1, 0.5),
    ],
)
def test_a_replica_gets_a_gpu_where_there_are_any(
    asked: dict[str, Any], gpus_there: float, got: float
) -> None:
    from codi.serving.replicas import ReplicaSettings

    settings = ReplicaSettings("folder", "name", replicas=2, **asked)
    assert settings.fitted({"CPU": 4.0, "GPU": gpus_there}).gpus == got
    with pytest.raises(UsageError, match=r"6 replicas of 1 GPUs each need 6; the cluster has 2"):
        ReplicaSettings("folder", "name", replicas=6).fitted({"CPU": 8.0, "GPU": 2.0})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--replicas", "500"), "500 replicas of 1 CPUs each need 500"),
        (("--ui",), "Leave --ui or --ray out"),
        (("--ray-address", "127.0.0.1:1"), "cannot be reached"),
    ],
)
def test_what_cannot_be_deployed_is_said(checkpoint: Path, words: tuple[str, ...], told: str) -> None:
    done = subprocess.run(
        command(checkpoint, "--port", "0", *words), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2, done.stderr
    assert told in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
