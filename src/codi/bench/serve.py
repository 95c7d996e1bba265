"""The server under load, in a process of its own: throughput, answers, and what happens when it is too much.

    throughput   one client, one request at a time; then many, each sending its next when its last is answered
    staggered    written rationales that come all at once, and a few milliseconds apart
    mixed        clients asking for answers, alone and beside others who have rationales written
    health       /health while all that goes on and somebody sends questions that are far too long
    overload     as many clients as may wait times ten, who come again when they are told to
    faults       requests of which every tenth fails somewhere (of the engine, in this process)

The clients run in this process and share the machine with the server, so the figures are a lower bound.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import torch

from codi.bench.environment import environment
from codi.bench.serve_clients import (
    NAME,
    ask,
    at_intervals,
    beside,
    client_of,
    closed_loop,
    health,
    in_turn,
    overload,
    summary,
)
from codi.bench.serve_faults import faults_under_load
from codi.data.generators import familiar_generator
from codi.data.sources import load_examples
from codi.errors import UsageError, nearest
from codi.evaluation.benchmarks import format_question
from codi.generation.latent_reasoner import LatentReasoner, default_device
from codi.version import installed_version

PARTS = ("throughput", "staggered", "mixed", "health", "overload", "faults")
RATIONALES = 32
APART = 0.003
"""Seconds between two rationales that are asked for one after the other."""
WRITERS = 4
"""Clients who have rationales written beside those who ask for answers."""
FAR_TOO_LONG = 900_000
"""Characters of a question, just within a request body's limit."""


def bench_serve(
    *,
    checkpoint: Path,
    base: str | None = None,
    parts: Sequence[str] = PARTS,
    clients: int = 32,
    requests: int = 2000,
    sequential: int = 200,
    overload_seconds: float = 60,
    faulty: int = 1000,
    repeats: int = 5,
    max_waiting: int = 256,
    device: str | None = None,
    seed: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """What each part measured, and whether every answer is the reasoner's own.

    faulty: requests of the part `faults`; repeats: of `staggered` and `mixed`, which are left out for a model
    that writes no rationales. Raises UsageError for a count below 1, a part that there is not, or when the
    server does not start.
    """
    if min(clients, requests, sequential, max_waiting, faulty, repeats) < 1:
        raise UsageError("clients, requests, sequential, faulty, repeats and max_waiting must be 1 or more.")
    for part in parts:
        if part not in PARTS:
            raise UsageError(f"There is no part '{part}'.{nearest(part, PARTS)} Parts: {', '.join(PARTS)}.")
    reasoner = LatentReasoner.from_pretrained(checkpoint, device=device, base=base)
    familiar = familiar_generator(reasoner.text.reads)
    examples, _ = load_examples(f"{familiar}?seed={seed}&count={min(requests, 1000)}", split="test")
    questions = [format_question(example.question) for example in examples]
    writes = "explicit" in reasoner.method.modes
    on = torch.device(device) if device else default_device()
    results: dict[str, Any] = {
        "bench": "serve",
        "environment": environment(on, bf16=False) | machine(),
        "settings": {
            "clients": clients, "requests": requests, "sequential": sequential, "repeats": repeats,
            "overload_seconds": overload_seconds, "faulty": faulty, "max_waiting": max_waiting, "seed": seed,
        },
    }  # fmt: skip
    if "faults" in parts:
        say(f"faults: {faulty} requests, every tenth of which fails")
        results["faults"] = faults_under_load(reasoner, questions, faulty)
    expected = []
    if "throughput" in parts:
        say("the answers as `codi generate` gives them")
        expected = [answer.text for answer in reasoner.answer(questions)]
    del reasoner

    async def measure(address: str, process: psutil.Process) -> None:
        async with client_of(address) as client:
            for part in (part for part in PARTS if part in parts):
                if part in ("staggered", "mixed") and not writes:
                    continue
                say(part)
                match part:
                    case "throughput":
                        results.update(
                            await _throughput(client, questions, expected, requests, clients, sequential)
                        )
                    case "staggered":
                        results[part] = await _staggered(client, questions, repeats)
                    case "mixed":
                        results[part] = await _mixed(client, questions, requests, clients, repeats)
                    case "health":
                        results[part] = await _health(client, questions, requests, clients)
                    case "overload":
                        many = 10 * max_waiting
                        results[part] = await overload(client, questions, many, overload_seconds, process)

    if set(parts) - {"faults"}:
        with _served(checkpoint, device, max_waiting, base) as (address, process):
            asyncio.run(measure(address, process))
    return results


def machine() -> dict[str, Any]:
    """Processor, cores, and the commit that was measured where the package is a checkout."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        named = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        processor = named.group(1) if named else processor
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        commit = ""
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "commit": commit or f"codi {installed_version()}",
    }


async def _throughput(
    client: aiohttp.ClientSession,
    questions: list[str],
    expected: list[str],
    requests: int,
    clients: int,
    sequential: int,
) -> dict[str, Any]:
    await closed_loop(client, questions, min(requests, clients), clients)  # connections are made
    one = await closed_loop(client, questions, sequential, 1)
    many = await closed_loop(client, questions, requests, clients)
    wrong = sum(text != expected[number % len(questions)] for number, text in many.texts.items())
    return {
        "sequential": one.as_dict(),
        "concurrent": many.as_dict() | {"answers_unlike_generate": wrong},
        "throughput_ratio": many.per_second / one.per_second,
    }


async def _staggered(client: aiohttp.ClientSession, questions: list[str], repeats: int) -> dict[str, Any]:
    """Seconds from the first request to the last answer; each request's own time beside it."""
    intervals = {"all_at_once": 0.0, "one_after_the_other": APART}
    seconds: dict[str, list[float]] = {name: [] for name in intervals}
    latencies: dict[str, list[float]] = {name: [] for name in intervals}
    for name in ("all_at_once", *in_turn(repeats, *intervals)):
        load = await at_intervals(client, questions, RATIONALES, intervals[name], reasoning="explicit")
        seconds[name].append(load.seconds)
        latencies[name] += load.milliseconds
    seconds["all_at_once"].pop(0)  # the first, for warming up
    medians = {name: statistics.median(many) for name, many in seconds.items()}
    return {
        "rationales": RATIONALES,
        "milliseconds_apart": 1e3 * APART,
        "seconds": medians,
        "median_latency_ms": {name: statistics.median(many) for name, many in latencies.items()},
        "ratio": medians["one_after_the_other"] / medians["all_at_once"],
    }


async def _mixed(
    client: aiohttp.ClientSession, questions: list[str], requests: int, clients: int, repeats: int
) -> dict[str, Any]:
    asking, each = max(1, clients - WRITERS), max(1, requests // (2 * repeats))
    await closed_loop(client, questions, clients, clients)
    rationales = 0

    async def write() -> None:
        nonlocal rationales
        await ask(client, questions[rationales % len(questions)], reasoning="explicit")
        rationales += 1

    times: dict[str, list[float]] = {"alone": [], "beside_rationales": []}
    statuses: dict[str, int] = {}
    for name in in_turn(repeats, *times):
        others = [write] * WRITERS if name == "beside_rationales" else []
        load = await beside(closed_loop(client, questions, each, asking), others)
        times[name] += load.milliseconds
        for status, count in load.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
    p95 = {name: statistics.quantiles(many, n=20)[-1] for name, many in times.items()}
    return {
        "clients_asking": asking,
        "clients_with_rationales": WRITERS,
        "rationales_written": rationales,
        "statuses": statuses,
        "answers_p95_ms": p95,
        "ratio": p95["beside_rationales"] / p95["alone"],
    }


async def _health(
    client: aiohttp.ClientSession, questions: list[str], requests: int, clients: int
) -> dict[str, Any]:
    milliseconds: list[float] = []
    refused: list[int] = []
    far_too_long = ("many " * (FAR_TOO_LONG // 5)).strip()

    async def ask_far_too_long() -> None:
        refused.append((await ask(client, far_too_long)).status)
        await asyncio.sleep(0.1)

    load = closed_loop(client, questions, requests, clients)
    await beside(load, [lambda: health(client, milliseconds), ask_far_too_long])
    return {
        "health_ms": summary(milliseconds),
        "questions_far_too_long": {"number": len(refused), "characters": len(far_too_long),
                                   "statuses": sorted(set(refused))},
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
