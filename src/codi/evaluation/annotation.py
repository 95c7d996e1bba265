"""Rationales for one's own questions, written by a large model behind an OpenAI-compatible endpoint.

As the paper's authors did for CommonsenseQA: a model writes the reasoning, and what leads to the right answer
is kept.

    codi.evaluation.annotation_endpoint   asks, again where that may help
    codi.evaluation.annotation_replies    reads what came back
    codi.evaluation.annotation_verdict    judges it
    codi.evaluation.annotation_files      keeps it
    codi.evaluation.annotation_account    counts it
    here                                  all questions, several at a time; when a refusal ends the run

A refusal of one question is set apart with its reason, and the run goes on. It may yet be one of all: while
nothing else is answered, refusals wait unwritten, and after a number of them in a row the run stops and says
so. A run that stops takes no new question, and gives those under way a bounded time.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from codi.data.example import Example
from codi.errors import DataError, UsageError
from codi.evaluation.annotation_account import Account
from codi.evaluation.annotation_endpoint import (
    PROMPT,
    Client,
    Endpoint,
    EndpointError,
    Pace,
    Refusal,
    Stopped,
)
from codi.evaluation.annotation_files import Files, Key, rejected_file
from codi.evaluation.annotation_replies import Reply
from codi.evaluation.annotation_verdict import judge, kind_of
from codi.evaluation.scorers import Scorer

__all__ = ["PROMPT", "Account", "Endpoint", "EndpointError", "annotate", "rejected_file"]

STOP_AFTER = 8
"""Unclear refusals in a row that stop a run in which nothing was answered."""
SURELY_OF_ALL = 4
"""So many times as many stop it when some were answered before, or when each names its question's content."""
UNANSWERED = 3
"""Questions in a row without an answer to any of their tries that stop a run."""
GRACE_REFUSED = 60.0
GRACE_INTERRUPTED = 15.0
"""Seconds for the answers under way when a run stops: they are paid for, but somebody may be waiting."""


def annotate(
    examples: Sequence[Example],
    endpoint: Endpoint,
    scorer: Scorer,
    output: Path,
    *,
    concurrency: int = 8,
    per_minute: float | None = None,
    use_reasoning: bool = False,
    retry_rejected: Sequence[str] | None = None,
    stop_after: int = STOP_AFTER,
    account: Account | None = None,
    on_progress: Callable[[int, int, Account], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Account:
    """Ask for every example that is not done yet, check the answers, and write both files.

    Args:
        examples: questions with their answers; what is repeated is asked once.
        endpoint, scorer: whom to ask, and how the answer is compared.
        output: where rationales are kept; what is set apart goes beside it (`rejected_file`).
        concurrency, per_minute: requests under way at a time, and most of them in a minute.
        use_reasoning: see `codi.evaluation.annotation_verdict.judge`.
        retry_rejected: ask those again that were set apart for these kinds of reason; empty: for any.
        stop_after: unclear refusals in a row that stop a run in which nothing was answered.
        account: filled in place of a new one, so that it is there after an error.
        on_progress: called with (done, in all, account) after each question; on_note: with what to say.

    Raises:
        DataError: `output` holds other questions, or the disk refuses.
        EndpointError: the endpoint refuses all questions, or answers none.
        UsageError: an option that makes no sense.
        KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM.
            Whichever it is, what was answered until then is written.
    """
    if concurrency < 1 or stop_after < 1 or (per_minute is not None and per_minute <= 0):
        raise UsageError(
            f"concurrency is {concurrency}, stop_after {stop_after} and per_minute {per_minute}; all must be "
            "above 0."
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    files = Files(output)
    distinct = list({(example.question, example.answer): example for example in reversed(examples)}.values())
    distinct.reverse()
    again = _asked_again(files, retry_rejected)
    todo = [example for example in distinct if _key(example) not in files.done or _key(example) in again]
    if files.done and not files.done & {_key(example) for example in distinct}:
        raise DataError(
            f"{output} holds {len(files.done)} questions, and none of them is in the file to annotate: it "
            "was made from another file. Choose another --output."
        )
    account = Account() if account is None else account
    account.earlier = len(distinct) - len(todo)
    account.repeated = len(examples) - len(distinct)
    run = _Run(
        endpoint, scorer, files, account, len(distinct), per_minute, use_reasoning, stop_after, on_progress,
        on_note,
    )  # fmt: skip
    try:
        asyncio.run(run.all_of(todo, concurrency))
    finally:
        files.close()
    if run.cause is not None:
        raise run.cause
    return account


def _key(example: Example) -> Key:
    return example.question, example.answer


def _asked_again(files: Files, reasons: Sequence[str] | None) -> set[Key]:
    if reasons is None:
        return set()
    known = files.reasons()
    unknown = [reason for reason in reasons if kind_of(reason) not in known]
    if unknown:
        there = ", ".join(f"'{reason}' ({count})" for reason, count in known.most_common()) or "none"
        raise UsageError(
            f"Nothing in {files.rejected} is set apart for '{unknown[0]}'. Reasons there: {there}."
        )
    return files.rejected_for([kind_of(reason) for reason in reasons] or None)


@dataclass
class _Run:
    endpoint: Endpoint
    scorer: Scorer
    files: Files
    account: Account
    total: int
    per_minute: float | None
    use_reasoning: bool
    stop_after: int
    on_progress: Callable[[int, int, Account], None] | None
    on_note: Callable[[str], None] | None

    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    hurried: asyncio.Event = field(default_factory=asyncio.Event)
    cause: BaseException | None = None
    waiting: list[tuple[Example, Refusal]] = field(default_factory=list)
    """Refusals since the last reply: of these questions, or of all?"""
    answered: bool = False
    under_way: int = 0
    certain: asyncio.Event = field(default_factory=asyncio.Event)

    async def all_of(self, examples: Sequence[Example], concurrency: int) -> None:
        """Work through a shared queue until it is empty or something stops the run."""
        client = Client(self.endpoint, Pace(self.per_minute, self.stopping), self.on_note)
        queue = iter(examples)
        self.certain.set()
        limit = aiohttp.ClientTimeout(total=self.endpoint.timeout)
        async with aiohttp.ClientSession(
            headers=self.endpoint.headers, timeout=limit, connector=aiohttp.TCPConnector(limit=0)
        ) as session:
            with self.signals():
                workers = {
                    asyncio.create_task(self.work(client, session, queue))
                    for _ in range(min(concurrency, len(examples)))
                }
                await self.until_done_or_stopped(workers)
        if self.cause is None:
            self.end_of_waiting()
        self.account.refused = len(self.waiting)

    async def work(self, client: Client, session: aiohttp.ClientSession, queue: Iterator[Example]) -> None:
        """One of those who take from the queue. What goes wrong stops the run, and loses nobody's answer."""
        while await self.may_go_on() and (example := next(queue, None)) is not None:
            self.under_way += 1
            try:
                try:
                    reply = await client.ask(session, example.question, example.id)
                except Refusal as refusal:
                    self.refused(example, refusal)
                else:
                    self.replied(example, reply)
                if self.on_progress is not None:
                    self.on_progress(self.account.earlier + self.account.asked, self.total, self.account)
            except Stopped:
                self.account.given_up += 1
            except asyncio.CancelledError:
                self.account.given_up += 1
                raise
            except Exception as error:  # noqa: BLE001 (raised again, once the others have their answers)
                self.account.given_up += 1
                self.stop(error)
            finally:
                self.under_way -= 1
            self.weigh()

    async def may_go_on(self) -> bool:
        """Whether to take another question, as soon as there is no doubt; not where the run stops."""
        await self.certain.wait()
        return not self.stopping.is_set()

    def weigh(self) -> None:
        """Are the refusals that wait of all questions? While others are under way, their answers may tell."""
        scopes = [refusal.scope for _, refusal in self.waiting]
        limit = self.stop_after * (SURELY_OF_ALL if self.answered else 1)
        doubtful = (
            scopes.count("busy") >= UNANSWERED
            or scopes.count("unclear") >= limit
            or len(scopes) >= self.stop_after * SURELY_OF_ALL
        )
        if not doubtful:
            self.certain.set()
        elif self.under_way == 0:
            self.stop(self.of_all(self.waiting[-1][1]))
        elif not self.stopping.is_set():
            self.certain.clear()

    async def until_done_or_stopped(self, workers: set[asyncio.Task[None]]) -> None:
        """Wait for the workers; once the run stops, no longer than the grace."""
        everyone: asyncio.Future[Any] = asyncio.gather(*workers, return_exceptions=True)
        stopped, hurried = (asyncio.create_task(event.wait()) for event in (self.stopping, self.hurried))
        await asyncio.wait([everyone, stopped], return_when=asyncio.FIRST_COMPLETED)
        grace = GRACE_REFUSED if isinstance(self.cause, Exception) else GRACE_INTERRUPTED
        await asyncio.wait([everyone, hurried], timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        for task in (stopped, hurried, *workers):
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    def stop(self, cause: BaseException) -> None:
        """The first cause counts. No new question is asked, none again."""
        if self.cause is None:
            self.cause = cause
        self.stopping.set()
        self.certain.set()

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM stop the run in good order; a second one does not wait for what is under way."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)
        }
        loop = asyncio.get_running_loop()

        def came(number: int, _frame: Any) -> None:
            loop.call_soon_threadsafe(self.interrupted, signal.Signals(number))

        for number in before:
            signal.signal(number, came)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def interrupted(self, number: signal.Signals) -> None:
        """What a signal asks for, in the event loop."""
        if self.stopping.is_set():
            self.hurried.set()
            return
        self.stop(KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number))
        if self.on_note is not None:
            self.on_note(
                f"Stopping. Answers under way have {GRACE_INTERRUPTED:.0f} seconds to come in; once more "
                "ends at once."
            )

    def replied(self, example: Example, reply: Reply) -> None:
        """Keep the rationale, or set the reply apart with the reason."""
        self.answered = True
        self.write_waiting()
        self.account.prompt_tokens += reply.prompt_tokens or 0
        self.account.completion_tokens += reply.completion_tokens or 0
        self.account.tokens_untold += reply.completion_tokens is None
        verdict = judge(reply, example, self.scorer, use_reasoning=self.use_reasoning)
        if verdict.reason is not None:
            self.set_apart(example, verdict.reason, reply.content, reply.reasoning)
            return
        row = {"id": example.id, "question": example.question, "steps": list(verdict.steps)}
        self.files.write(row | {"answer": example.answer}, kept=True)
        self.account.accepted += 1
        self.account.rationale_from[verdict.rationale_from] += 1

    def refused(self, example: Example, refusal: Refusal) -> None:
        """Set the question apart: at once where it is its own and others are answered, else in a while."""
        if refusal.scope == "question" and self.answered:
            self.set_apart(example, refusal.reason, refusal.told)
            return
        self.waiting.append((example, refusal))

    def end_of_waiting(self) -> None:
        """When no question is left: what nobody answered in a first run is no fault of the questions."""
        doubtful = [pair for pair in self.waiting if pair[1].scope != "question"]
        if doubtful and not self.answered and not self.files.done:
            self.waiting = [pair for pair in self.waiting if pair[1].scope == "question"]
            self.write_waiting()
            self.waiting = doubtful
            self.stop(self.of_all(doubtful[-1][1]))
            return
        self.write_waiting()

    def of_all(self, last: Refusal) -> EndpointError:
        """The error of a run that stops for the refusals that wait."""
        count, where = len(self.waiting), self.endpoint.address
        if last.scope == "busy":
            return EndpointError(
                f"{where} did not answer {count} questions, nor any in between; the last: {last.told}. What "
                "was answered before is kept: run the same command again to go on."
            )
        return EndpointError(
            f"{where} refused {count} questions and answered none in between; the last: {last.told}. It "
            "seems to refuse all: check --model, --max-tokens, --prompt and --extra. Were they truly refused "
            "for what they say, --stop-after takes a larger number. What was answered before is kept."
        )

    def write_waiting(self) -> None:
        """The endpoint answers: the refusals until now were of their questions."""
        while self.waiting:
            example, refusal = self.waiting.pop(0)
            self.set_apart(example, refusal.reason, refusal.told)

    def set_apart(self, example: Example, reason: str, response: str, reasoning: str = "") -> None:
        """Into the rejected file, and into the account under the kind of reason."""
        row = {"id": example.id, "question": example.question, "answer": example.answer, "reason": reason}
        row |= {"response": response} | ({"reasoning": reasoning} if reasoning else {})
        self.files.write(row, kept=False)
        self.account.rejected[kind_of(reason)] += 1
