"""The server under load, in a process of its own: throughput, answers, and what happens when it is too much.

    sequential   one client, one request at a time
    concurrent   many clients, each sending its next request when its last is answered
    overload     as many clients as the queue times ten; only 200 and 429 may come back

The clients run in this process and share the machine with the server, so the figures are a lower bound.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import torch

from codi.data.sources import load_examples
from codi.errors import UsageError
from codi.evaluation.benchmarks import format_question
from codi.evaluation.statistics import latency_summary
from codi.experiments.bench_train import environment
from codi.generation.latent_reasoner import LatentReasoner, default_device

NAME = "served"


def bench_serve(
    *,
    checkpoint: Path,
    base: str | None = None,
    clients: int = 32,
    requests: int = 2000,
    sequential: int = 200,
    overload_seconds: float = 60,
    max_waiting: int = 256,
    device: str | None = None,
    seed: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Requests per second and latencies of each part; whether every answer is the reasoner's own.

    Raises UsageError for a count below 1, or when the server does not start.
    """
    if min(clients, requests, sequential, max_waiting) < 1:
        raise UsageError("clients, requests, sequential and max_waiting must be 1 or more.")
    examples, _ = load_examples(f"word-problems?seed={seed}&count={min(requests, 1000)}", split="test")
    questions = [format_question(example.question) for example in examples]
    say("the answers as `codi generate` gives them")
    reasoner = LatentReasoner.from_pretrained(checkpoint, device=device, base=base)
    expected = [answer.text for answer in reasoner.answer(questions)]
    del reasoner
    with _served(checkpoint, device, max_waiting, base) as (address, process):
        say(f"{sequential} requests one at a time")
        one = asyncio.run(_closed_loop(address, questions[:sequential] * (sequential // len(questions) + 1),
                                       sequential, 1))  # fmt: skip
        say(f"{requests} requests from {clients} clients")
        many = asyncio.run(_closed_loop(address, questions, requests, clients))
        wrong = sum(text != expected[number % len(questions)] for number, text in many.texts.items())
        say(f"overload for {overload_seconds:g} s")
        over = asyncio.run(_overload(address, questions, 10 * max_waiting, overload_seconds, process))
    return {
        "bench": "serve",
        "environment": environment(torch.device(device) if device else default_device(), bf16=False),
        "settings": {
            "clients": clients, "requests": requests, "sequential": sequential,
            "overload_seconds": overload_seconds, "max_waiting": max_waiting, "seed": seed,
        },
        "sequential": one.as_dict(),
        "concurrent": many.as_dict() | {"answers_unlike_generate": wrong},
        "throughput_ratio": many.per_second / one.per_second,
        "overload": over,
    }  # fmt: skip


class _Load:
    """What came back of a closed loop."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.milliseconds: list[float] = []
        self.texts: dict[int, str] = {}
        self.seconds = 0.0

    @property
    def per_second(self) -> float:
        return self.statuses[200] / self.seconds

    def as_dict(self) -> dict[str, Any]:
        times = latency_summary(self.milliseconds)
        return {
            "requests_per_second": self.per_second,
            "latency_ms": {"median": times["median"], "p95": times["p95"]},
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
        }


async def _ask(client: aiohttp.ClientSession, question: str) -> tuple[int, Any]:
    """Status and body."""
    body = {"model": NAME, "messages": [{"role": "user", "content": question}]}
    async with client.post("/v1/chat/completions", json=body) as response:
        return response.status, await response.json()


def _client(address: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(address, connector=aiohttp.TCPConnector(limit=0))


async def _closed_loop(address: str, questions: list[str], requests: int, clients: int) -> _Load:
    """Each client sends its next request when its last was answered, until `requests` were sent."""
    load, numbers = _Load(), iter(range(requests))
    async with _client(address) as client:

        async def one() -> None:
            for number in numbers:
                begun = time.perf_counter()
                status, body = await _ask(client, questions[number % len(questions)])
                load.milliseconds.append(1e3 * (time.perf_counter() - begun))
                load.statuses[status] += 1
                if status == 200:
                    load.texts[number] = body["choices"][0]["message"]["content"]

        begun = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(clients)))
        load.seconds = time.perf_counter() - begun
    return load


async def _overload(
    address: str, questions: list[str], clients: int, seconds: float, process: psutil.Process
) -> dict[str, Any]:
    """More clients than may wait, without a pause after a 429. Memory in MiB at a tenth and at the end."""
    statuses: Counter[str] = Counter()
    memory: list[float] = []
    ends = time.perf_counter() + seconds
    async with _client(address) as client:

        async def one(number: int) -> None:
            while time.perf_counter() < ends:
                try:
                    status, _ = await _ask(client, questions[number % len(questions)])
                    statuses[str(status)] += 1
                except (aiohttp.ClientError, TimeoutError) as error:
                    statuses[type(error).__name__] += 1

        async def watch() -> None:
            while time.perf_counter() < ends:
                memory.append(process.memory_info().rss / 2**20)
                await asyncio.sleep(0.2)

        await asyncio.gather(watch(), *(one(number) for number in range(clients)))
    begun = time.perf_counter()
    async with _client(address) as client:
        while (await _ask(client, questions[0]))[0] != 200:
            await asyncio.sleep(0.01)
    return {
        "clients": clients,
        "statuses": dict(sorted(statuses.items())),
        "memory_mib": {
            "after_a_tenth": statistics.median(memory[len(memory) // 10 :][:5]), "at_the_end": memory[-1],
        },
        "seconds_to_the_first_answer_afterwards": time.perf_counter() - begun,
    }  # fmt: skip


@contextmanager
def _served(
    checkpoint: Path, device: str | None, max_waiting: int, base: str | None
) -> Iterator[tuple[str, psutil.Process]]:
    """The server's address and process, while it runs."""
    command = [sys.executable, "-m", "codi", "serve", str(checkpoint), "--port", "0", "--name", NAME,
               "--max-waiting", str(max_waiting), *(["--device", device] if device else []),
               *(["--base", base] if base else [])]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        found = re.search(r"(http://\S+)/v1", said)
        if found is None:
            raise UsageError(f"codi serve did not start: {said}{process.stderr.read()}".strip())
        yield found.group(1), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.communicate()
