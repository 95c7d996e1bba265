"""Clients of a served model: how they ask, and what came back."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import psutil

from codi.evaluation.statistics import latency_summary, percentile

NAME = "served"
RETRIED = "x-stainless-retry-count"
"""OpenAI's clients say with it how often they have asked before."""
KEPT_SECONDS = 2
"""For which an idle connection is kept: the server keeps it longer (codi serve --idle-timeout)."""


@dataclass
class Load:
    """What came back of a number of requests. texts: by the request's number."""

    statuses: Counter[str] = field(default_factory=Counter)
    milliseconds: list[float] = field(default_factory=list)
    texts: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Answers."""
        return self.statuses["200"] / self.seconds

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        times = latency_summary(self.milliseconds)
        return {
            "requests_per_second": self.per_second,
            "latency_ms": {"median": times["median"], "p95": times["p95"]},
            "statuses": dict(sorted(self.statuses.items())),
        }


@dataclass(frozen=True)
class Reply:
    """Of one request. retry_after: seconds, where the server said so."""

    status: int
    text: str | None
    retry_after: int | None


async def ask(client: aiohttp.ClientSession, question: str, retried: int = 0, **options: Any) -> Reply:
    """One chat completion."""
    body = {"model": NAME, "messages": [{"role": "user", "content": question}], **options}
    async with client.post("/v1/chat/completions", json=body, headers={RETRIED: str(retried)}) as response:
        found = await response.json()
        text = found["choices"][0]["message"]["content"] if response.status == 200 else None
        told = response.headers.get("Retry-After")
        return Reply(response.status, text, None if told is None else int(told))


def client_of(address: str) -> aiohttp.ClientSession:
    """As many connections as there are clients; none is used again that the server may just be closing."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT_SECONDS)
    return aiohttp.ClientSession(address, connector=connector)


async def closed_loop(
    client: aiohttp.ClientSession, questions: list[str], requests: int, clients: int, **options: Any
) -> Load:
    """Each client sends its next request when its last was answered, until `requests` were sent."""
    load, numbers = Load(), iter(range(requests))

    async def one() -> None:
        for number in numbers:
            await _counted(client, load, number, questions, options)

    begun = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(clients)))
    load.seconds = time.perf_counter() - begun
    return load


async def at_intervals(
    client: aiohttp.ClientSession, questions: list[str], requests: int, seconds: float, **options: Any
) -> Load:
    """A request every so many seconds, whatever came back; 0: all at once."""
    load = Load()

    async def one(number: int) -> None:
        await asyncio.sleep(number * seconds)
        await _counted(client, load, number, questions, options)

    begun = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(requests)))
    load.seconds = time.perf_counter() - begun
    return load


async def beside(load: Awaitable[Load], others: Sequence[Callable[[], Awaitable[None]]]) -> Load:
    """A load, while others do what they do again and again."""

    async def again(other: Callable[[], Awaitable[None]]) -> None:
        while True:
            await other()

    tasks = [asyncio.create_task(again(other)) for other in others]
    try:
        return await load
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _counted(
    client: aiohttp.ClientSession, load: Load, number: int, questions: list[str], options: dict[str, Any]
) -> None:
    begun = time.perf_counter()
    reply = await ask(client, questions[number % len(questions)], **options)
    load.milliseconds.append(1e3 * (time.perf_counter() - begun))
    load.statuses[str(reply.status)] += 1
    if reply.text is not None:
        load.texts[number] = reply.text


async def overload(
    client: aiohttp.ClientSession,
    questions: list[str],
    clients: int,
    seconds: float,
    process: psutil.Process,
) -> dict[str, Any]:
    """More clients than may wait. Who is refused comes again when it was told to, as OpenAI's client does.

    Retry-After is compared with how long it took from the refusal to the answer. Memory in MiB at a tenth of
    the time and at its end.
    """
    statuses: Counter[str] = Counter()
    waits: list[tuple[int, float]] = []
    memory: list[float] = []
    ends = time.perf_counter() + seconds

    async def one(number: int) -> None:
        refused: tuple[float, int] | None = None
        tries = 0
        while time.perf_counter() < ends:
            try:
                reply = await ask(client, questions[number % len(questions)], tries)
            except (aiohttp.ClientError, TimeoutError) as error:
                statuses[type(error).__name__] += 1
                continue
            statuses[str(reply.status)] += 1
            now, after, tries = time.perf_counter(), reply.retry_after, tries + 1
            if reply.status == 429 and after is not None:
                refused = refused or (now, after)
                await asyncio.sleep(min(after, max(0.0, ends - now)))
            elif reply.status == 200:
                if refused is not None:
                    waits.append((refused[1], now - refused[0]))
                refused, tries = None, 0

    async def watch() -> None:
        while time.perf_counter() < ends:
            memory.append(process.memory_info().rss / 2**20)
            await asyncio.sleep(0.2)

    await asyncio.gather(watch(), *(one(number) for number in range(clients)))
    begun = time.perf_counter()
    while (await ask(client, questions[0], 1)).status != 200:
        await asyncio.sleep(0.01)
    return {
        "clients": clients,
        "statuses": dict(sorted(statuses.items())),
        "answers_per_second": statuses["200"] / seconds,
        "retry_after": _compared(waits),
        "memory_mib": {
            "after_a_tenth": statistics.median(memory[len(memory) // 10 :][:5]), "at_the_end": memory[-1],
        },
        "seconds_to_the_first_answer_afterwards": time.perf_counter() - begun,
    }  # fmt: skip


def _compared(waits: list[tuple[int, float]]) -> dict[str, Any]:
    """waits: seconds told at the first refusal, and seconds until the answer. None were refused: only 0."""
    if not waits:
        return {"refused_and_answered": 0}
    near = sum(told / 2 <= waited <= 2 * told for told, waited in waits)
    return {
        "refused_and_answered": len(waits),
        "told_seconds": statistics.median(told for told, _ in waits),
        "waited_seconds": statistics.median(waited for _, waited in waits),
        "within_a_factor_of_2": near / len(waits),
    }


async def health(client: aiohttp.ClientSession, milliseconds: list[float], pause: float = 0.02) -> None:
    """Ask for /health once, and note how long it took."""
    begun = time.perf_counter()
    async with client.get("/health") as response:
        await response.read()
    milliseconds.append(1e3 * (time.perf_counter() - begun))
    await asyncio.sleep(pause)


def summary(milliseconds: list[float]) -> dict[str, float]:
    """Of many times."""
    return {
        "number": len(milliseconds),
        "median": statistics.median(milliseconds),
        "p99": percentile(milliseconds, 99),
        "largest": max(milliseconds),
    }


def in_turn(repeats: int, *names: str) -> Iterator[str]:
    """Names again and again, every other time backwards: what else the machine does falls on all alike."""
    for repeat in range(repeats):
        yield from names if repeat % 2 == 0 else reversed(names)
