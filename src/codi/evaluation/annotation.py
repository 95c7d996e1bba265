"""Rationales for one's own questions, written by a large model behind an OpenAI-compatible endpoint.

As the paper's authors did for CommonsenseQA: a model writes the reasoning, and what leads to the right answer
is kept.

    OUTPUT.jsonl             id, question, steps, answer: a training file for `codi train data.train=...`
    OUTPUT.rejected.jsonl    id, question, answer, reason, response: wrong, unreadable or refused ones

A response is written as soon as it is there, so a run that is killed pays again only for what was under way.
The two files are its whole memory: what stands in one of them is not asked again.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from codi.data.example import Example
from codi.data.steps import split_steps
from codi.errors import CodiError, DataError, UsageError
from codi.evaluation.scorers import ANSWER_PROMPT, Scorer

PROMPT = (
    "Answer the question. Reason in short sentences, one for each step. Write the reasoning first, then a "
    f"line that says '{ANSWER_PROMPT} ' with the answer alone.\n\nQuestion: {{question}}"
)
PATIENCE = 8
"""Tries for one question, when the endpoint is busy or out of reach."""
_WORTH_ANOTHER_TRY = {408, 409, 425, 429, 500, 502, 503, 504, 529}


class EndpointError(CodiError):
    """The endpoint cannot be used: a wrong address, key or model."""


@dataclass(frozen=True)
class Endpoint:
    """url: up to and with `/v1`; extra: more fields of the body; timeout: seconds for one answer."""

    url: str
    model: str
    api_key: str | None = None
    prompt: str = PROMPT
    temperature: float = 0.0
    max_tokens: int = 512
    extra: dict[str, Any] = field(default_factory=dict)
    timeout: float = 300.0

    def __post_init__(self) -> None:
        if "{question}" not in self.prompt:
            raise UsageError("The prompt must hold '{question}', where each question is put.")

    def body(self, question: str) -> dict[str, Any]:
        """What is asked for one question."""
        message = {"role": "user", "content": self.prompt.replace("{question}", question)}
        settings = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        return {"model": self.model, "messages": [message], **settings, **self.extra}


@dataclass
class Account:
    """What was done. asked: in this run; earlier: in files before it."""

    accepted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    earlier: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def asked(self) -> int:
        """Questions that got an answer in this run."""
        return self.accepted + sum(self.rejected.values())

    def describe(self) -> str:
        """One line for the terminal."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.rejected.items()))
        return (
            f"{self.asked} asked ({self.earlier} were done before): {self.accepted} kept"
            f"{f'; set apart: {reasons}' if reasons else ''}. Tokens: {self.prompt_tokens:,} read, "
            f"{self.completion_tokens:,} written."
        )


class Files:
    """The two files, opened for adding; a line that a kill cut short is removed."""

    def __init__(self, output: Path) -> None:
        self.kept, self.rejected = output, output.with_suffix(".rejected.jsonl")
        rows = [row for file in (self.kept, self.rejected) for row in _rows_of(file)]
        self.done = {(row["question"], row["answer"]) for row in rows}

    def write(self, row: dict[str, Any], *, kept: bool) -> None:
        """Add a row, and see it on the disk. Raises DataError when the disk refuses."""
        file = self.kept if kept else self.rejected
        try:
            with file.open("ab") as opened:
                opened.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
                opened.flush()
                os.fsync(opened.fileno())
        except OSError as error:
            raise DataError(f"{file} could not be written: {error}. What is in it is kept.") from error


def annotate(
    examples: Sequence[Example],
    endpoint: Endpoint,
    scorer: Scorer,
    output: Path,
    *,
    concurrency: int = 8,
    per_minute: float | None = None,
    on_progress: Callable[[int, int, Account], None] | None = None,
) -> Account:
    """Ask for every example that is not done yet, check the answers, and write both files.

    per_minute: most requests in a minute. Raises DataError when OUTPUT holds other questions, EndpointError
    when the endpoint refuses for good; what was written until then stays.
    """
    if concurrency < 1 or (per_minute is not None and per_minute <= 0):
        raise UsageError(f"concurrency is {concurrency} and per_minute {per_minute}; both must be above 0.")
    output.parent.mkdir(parents=True, exist_ok=True)
    files = Files(output)
    todo = [example for example in examples if (example.question, example.answer) not in files.done]
    if files.done and len(todo) == len(examples):
        raise DataError(
            f"{output} holds {len(files.done)} questions, and none of them is in the file to annotate: it "
            "was made from another file. Choose another --output."
        )
    account = Account(earlier=len(examples) - len(todo))
    run = _Run(endpoint, scorer, files, account, _Pace(per_minute), len(examples), on_progress)
    asyncio.run(run.all_of(todo, concurrency))
    return account


@dataclass
class _Run:
    endpoint: Endpoint
    scorer: Scorer
    files: Files
    account: Account
    pace: _Pace
    total: int
    on_progress: Callable[[int, int, Account], None] | None

    async def all_of(self, examples: Sequence[Example], concurrency: int) -> None:
        """Work through a shared queue; the first error stops everyone."""
        waiting = iter(examples)
        headers = {"Authorization": f"Bearer {self.endpoint.api_key}"} if self.endpoint.api_key else {}
        limit = aiohttp.ClientTimeout(total=self.endpoint.timeout)
        async with aiohttp.ClientSession(headers=headers, timeout=limit) as session:

            async def work() -> None:
                for example in waiting:
                    self.judge(example, await self.ask(session, example))
                    if self.on_progress is not None:
                        self.on_progress(self.account.earlier + self.account.asked, self.total, self.account)

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(concurrency, len(examples))):
                        group.create_task(work())
            except* CodiError as errors:
                raise errors.exceptions[0] from None

    async def ask(self, session: aiohttp.ClientSession, example: Example) -> dict[str, Any]:
        """The endpoint's response to one question, after as many tries as it takes."""
        url = self.endpoint.url.rstrip("/") + "/chat/completions"
        for number in range(1, PATIENCE + 1):
            await self.pace.wait()
            pause = min(60.0, 0.5 * 2**number) * random.uniform(0.5, 1.5)
            try:
                async with session.post(url, json=self.endpoint.body(example.question)) as response:
                    said = await response.text()
                    if response.status == 200:
                        return _parsed(said, url)
                    told = f"{response.status} {said[:300]}"
                    if response.status not in _WORTH_ANOTHER_TRY:
                        raise EndpointError(
                            f"{url} refused the question '{example.id}': {told}. Check the address, --model, "
                            "the key (CODI_ENDPOINT_KEY) and the options; what was answered before is kept."
                        )
                    pause = _retry_after(response.headers.get("Retry-After")) or pause
            except (aiohttp.ClientError, TimeoutError) as error:
                told = f"{type(error).__name__}: {error}"
            if number == PATIENCE:
                raise EndpointError(
                    f"{url} did not answer the question '{example.id}' in {PATIENCE} tries; the last: "
                    f"{told}. What was answered before is kept: run the same command again to go on."
                )
            await self.pace.hold(pause)
        raise AssertionError("unreachable")

    def judge(self, example: Example, response: dict[str, Any]) -> None:
        """Keep the rationale, or set the response apart with the reason."""
        usage = response.get("usage") or {}
        self.account.prompt_tokens += int(usage.get("prompt_tokens") or 0)
        self.account.completion_tokens += int(usage.get("completion_tokens") or 0)
        choice = response["choices"][0]
        text = choice["message"].get("content") or ""
        rationale, found, answer = text.rpartition(ANSWER_PROMPT)
        reason = None
        if choice.get("finish_reason") == "length":
            reason = "cut off"
        elif not found:
            reason = f"without '{ANSWER_PROMPT}'"
        elif self.scorer.parse(ANSWER_PROMPT + answer) is None:
            reason = "unreadable answer"
        elif not self.scorer.correct(ANSWER_PROMPT + answer, example.answer):
            reason = "wrong answer"
        elif not rationale.strip():
            reason = "no reasoning"
        row: dict[str, Any] = {"id": example.id, "question": example.question}
        if reason is None:
            steps = split_steps(" ".join(rationale.split()), "auto")
            self.files.write(row | {"steps": list(steps), "answer": example.answer}, kept=True)
            self.account.accepted += 1
            return
        self.files.write(row | {"answer": example.answer, "reason": reason, "response": text}, kept=False)
        self.account.rejected[reason] = self.account.rejected.get(reason, 0) + 1


class _Pace:
    """Requests are spread evenly over the minute; when the endpoint asks for a pause, all keep it."""

    def __init__(self, per_minute: float | None) -> None:
        self.gap = 0.0 if per_minute is None else 60 / per_minute
        self.next = 0.0

    async def wait(self) -> None:
        now = time.monotonic()
        mine = max(now, self.next)
        self.next = mine + self.gap
        await asyncio.sleep(mine - now)

    async def hold(self, seconds: float) -> None:
        self.next = max(self.next, time.monotonic() + seconds)
        await asyncio.sleep(seconds)


def _parsed(said: str, url: str) -> dict[str, Any]:
    try:
        response: dict[str, Any] = json.loads(said)
        response["choices"][0]["message"]
    except (ValueError, LookupError, TypeError) as error:
        raise EndpointError(f"{url} does not speak OpenAI's chat API; it answered: {said[:200]}") from error
    return response


def _retry_after(value: str | None) -> float | None:
    """Seconds that the endpoint asks to wait; a date, which is rare, is not read."""
    try:
        return min(600.0, float(value)) if value is not None else None
    except ValueError:
        return None


def _rows_of(file: Path) -> list[dict[str, Any]]:
    """The rows of a file; its last line is removed where a kill cut it short."""
    if not file.exists():
        return []
    content = file.read_bytes()
    whole, end, rest = content.rpartition(b"\n")
    if rest:
        with file.open("r+b") as opened:
            opened.truncate(len(whole) + len(end))
    rows = []
    for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
        try:
            row = json.loads(line)
            row["question"], row["answer"]
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(
                f"{file}, line {number} is none of this command's ({error}). "
                "Choose another --output, or mend it."
            ) from error
        rows.append(row)
    return rows
