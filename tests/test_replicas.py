"""`codi serve --ray`: two replicas on this machine answer as one model in this process does."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replicas") / "tiny"
    tiny_reasoner("codi").save_pretrained(folder)
    return folder


def command(checkpoint: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "codi", "serve", str(checkpoint), "--ray", "--device", "cpu", *words]


@pytest.fixture(scope="module")
def address(checkpoint: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    words = command(
        checkpoint, "--port", str(port), "--replicas", "2", "--cpus-per-replica", "0.5", "--max-waiting", "8"
    )
    server = subprocess.Popen(
        words,
        env={**os.environ, "CODI_API_KEY": KEY},
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
    yield f"http://127.0.0.1:{port}"
    server.send_signal(signal.SIGTERM)
    assert "stopped." in server.stderr.read()
    assert server.wait(60) == 0


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
    full = ask(address, QUESTIONS[0], n=16)  # more than --max-waiting 8
    assert full.status_code == 429
    assert int(full.headers["retry-after"]) >= 1


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
