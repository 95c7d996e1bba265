"""Speaking to an OpenAI-compatible endpoint: one question in; its reply, or what was said instead, out.

A busy endpoint, a lost connection and an answer that does not come in time are worth another try, ever later.
What a refusal of one question means for the others is decided in `codi.evaluation.annotation`.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp

from codi.data.answers import ANSWER_PROMPT
from codi.errors import CodiError, UsageError
from codi.evaluation.annotation_refusals import classify, retry_after, said_in
from codi.evaluation.annotation_replies import NotAReply, Reply, parse_body, read_reply

PROMPT = (
    "Answer the question. Reason in short sentences, one for each step. Write the reasoning first, then a "
    f"line that says '{ANSWER_PROMPT} ' with the answer alone.\n\nQuestion: {{question}}"
)
SHOWN = 300
"""Characters of what an endpoint said that a message shows."""


_KEPT = "What was answered before is kept."


class EndpointError(CodiError):
    """The endpoint cannot be used: a wrong address, key, model or option, no credit, or no answer at all."""


@dataclass(frozen=True)
class Endpoint:
    """Where and what to ask.

    url: up to and with `/v1`; extra: more fields of the body, None removes one; timeout: seconds for one
    answer; tries: of one question, when the endpoint is busy or out of reach; pause: seconds before the
    second try, doubled before each that follows, up to a minute.
    """

    url: str
    model: str
    api_key: str | None = None
    prompt: str = PROMPT
    temperature: float = 0.0
    max_tokens: int = 512
    extra: dict[str, Any] = field(default_factory=dict)
    timeout: float = 300.0
    tries: int = 8
    pause: float = 1.0

    def __post_init__(self) -> None:
        if "{question}" not in self.prompt:
            raise UsageError("The prompt must hold '{question}', where each question is put.")
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).hostname:
            raise UsageError(
                f"The endpoint '{self.url}' is no address: it must begin with http:// or https://, such as "
                "http://127.0.0.1:8000/v1."
            )
        if self.timeout <= 0 or self.tries < 1:
            raise UsageError(
                f"timeout is {self.timeout:g} seconds and tries {self.tries}; both must be above 0."
            )

    @property
    def address(self) -> str:
        """Where each question is sent."""
        return self.url.strip().rstrip("/").removesuffix("/chat/completions") + "/chat/completions"

    @property
    def headers(self) -> dict[str, str]:
        """Those of every request."""
        return {"Authorization": f"Bearer {self.api_key.strip()}"} if self.api_key else {}

    def body(self, question: str) -> dict[str, Any]:
        """What is asked for one question."""
        message = {"role": "user", "content": self.prompt.replace("{question}", question)}
        settings = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        fields = {"model": self.model, "messages": [message], **settings, **self.extra}
        return {name: value for name, value in fields.items() if value is not None}


class Refusal(Exception):
    """No reply to a question, and why.

    scope: 'question': the refusal names its content; 'unclear': it may be all that the endpoint would say to
    any question; 'busy': no answer after all tries. reason: what it is counted under; told: what was said.
    """

    def __init__(self, scope: Literal["question", "unclear", "busy"], reason: str, told: str) -> None:
        super().__init__(told)
        self.scope = scope
        self.reason = reason
        self.told = told


class Stopped(Exception):
    """The run has ended before this question was sent again."""


class Pace:
    """Requests are spread evenly over the minute; when the endpoint asks for a pause, all keep it.

    Waiting ends with `Stopped` as soon as `stopping` is set.
    """

    def __init__(self, per_minute: float | None, stopping: asyncio.Event) -> None:
        self.gap = 0.0 if per_minute is None else 60 / per_minute
        self.next = self.held_until = 0.0
        self.stopping = stopping

    async def wait(self) -> None:
        """Until it is one's turn."""
        mine = max(time.monotonic(), self.next)
        self.next = mine + self.gap
        await self.sleep(mine - time.monotonic())
        while (left := self.held_until - time.monotonic()) > 0:
            await self.sleep(left + random.uniform(0, min(left, 1.0)))

    def hold(self, seconds: float) -> None:
        """Nobody asks anything for so long."""
        self.held_until = max(self.held_until, time.monotonic() + seconds)

    async def sleep(self, seconds: float) -> None:
        """Raises Stopped when the run ends before."""
        if not self.stopping.is_set() and seconds > 0:
            with suppress(TimeoutError):  # the usual end
                await asyncio.wait_for(self.stopping.wait(), seconds)
        if self.stopping.is_set():
            raise Stopped


@dataclass
class Client:
    """Asks an endpoint. on_note is told when a long pause begins."""

    endpoint: Endpoint
    pace: Pace
    on_note: Callable[[str], None] | None = None
    replied: bool = False
    """Whether anything was ever answered: until then, what looks like a wrong address is one."""

    async def ask(self, session: aiohttp.ClientSession, question: str, name: str) -> Reply:
        """The reply to a question, after as many tries as it takes. name: the question's, for messages.

        Raises:
            EndpointError: no question would be answered.
            Refusal: this one is not.
            Stopped: the run ended while it waited for another try.
        """
        told, unreachable = "", 0
        for number in range(1, self.endpoint.tries + 1):
            await self.pace.wait()
            asked_for: float | None = None
            everyone = False
            try:
                status, headers, content, charset = await self._post(session, question)
            except aiohttp.ClientConnectorError as error:
                self._refuse_if_hopeless(error)
                told, unreachable = f"out of reach: {error}", unreachable + 1
                if unreachable >= 3 and not self.replied:
                    raise self._of_all(told, "Check the address, and whether the server runs.") from error
            except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
                raise self._of_all(f"no usable address: {error}", "Check --endpoint.") from error
            except TimeoutError:
                told = f"no answer within {self.endpoint.timeout:g} seconds"
            except (aiohttp.ClientError, ConnectionError) as error:
                told = f"{type(error).__name__}: {error}"
            else:
                outcome = self._understood(status, content, charset, headers)
                if isinstance(outcome, Reply):
                    self.replied = True
                    return outcome
                told = outcome
                asked_for = retry_after(headers, outcome)
                everyone = status in (429, 503, 529)
            if number < self.endpoint.tries:
                await self._pause(number, asked_for, told, everyone)
        raise Refusal("busy", "no answer", f"'{name}', {self.endpoint.tries} tries; the last: {told}")

    async def _post(
        self, session: aiohttp.ClientSession, question: str
    ) -> tuple[int, Mapping[str, str], bytes, str | None]:
        # Redirects are not followed: they would turn the request into a GET, or take the key elsewhere.
        async with session.post(
            self.endpoint.address, json=self.endpoint.body(question), allow_redirects=False
        ) as response:
            return response.status, response.headers, await response.read(), response.charset

    def _understood(
        self, status: int, content: bytes, charset: str | None, headers: Mapping[str, str]
    ) -> Reply | str:
        """The reply, or what was said where it is worth another try. Raises as `ask` does."""
        if 300 <= status < 400:
            where = headers.get("Location", "elsewhere")
            raise self._of_all(f"{status}, moved to {where}", "Give that address as --endpoint, up to /v1.")
        if not 200 <= status < 300:
            return self._refused(status, parse_body(content, charset))
        body = parse_body(content, charset)
        try:
            return read_reply(body)
        except NotAReply as problem:
            if problem.error is not None:  # an error with status 200
                return self._refused(problem.status, problem.error)
            if problem.other_api and not self.replied:
                raise EndpointError(
                    f"{self.endpoint.address} does not speak OpenAI's chat API; {problem}. {_KEPT}"
                ) from problem
            return f"{status} {problem}"

    def _refused(self, status: int, body: Any) -> str:
        """What was said, where it is worth another try. Raises EndpointError or Refusal where it is not."""
        names, told = said_in(body)
        told = f"{status} {told[:SHOWN]}".strip()
        if self.endpoint.api_key:
            told = told.replace(self.endpoint.api_key.strip(), "***")
        scope, word = classify(status, names, own_fields=self.endpoint.body("").keys())
        if scope == "busy":
            return told
        if scope == "all":
            raise self._of_all(told, word)
        raise Refusal(scope, word, told)

    def _refuse_if_hopeless(self, error: aiohttp.ClientConnectorError) -> None:
        if isinstance(error, (aiohttp.ClientSSLError, ssl.SSLError)):
            raise self._of_all(
                f"no trusted connection: {error}",
                "Check https or http in --endpoint; a certificate of one's own is named by SSL_CERT_FILE.",
            ) from error

    def _of_all(self, told: str, advice: str) -> EndpointError:
        return EndpointError(f"{self.endpoint.address} refused the request: {told}. {advice} {_KEPT}")

    async def _pause(self, number: int, asked_for: float | None, told: str, everyone: bool) -> None:
        seconds = min(60.0, self.endpoint.pause * 2 ** (number - 1)) * random.uniform(0.5, 1.5)
        if asked_for is not None:  # a little later than it says, and not all at the same time
            seconds = asked_for * random.uniform(1.0, 1.1)
        if everyone:
            already = self.pace.held_until - time.monotonic() > seconds / 2
            self.pace.hold(seconds)
            if seconds >= 10 and not already and self.on_note is not None:
                self.on_note(f"The endpoint asks for a pause of {seconds:.0f} seconds ({told[:120]}).")
        await self.pace.sleep(seconds)
