"""The API as whoever sends it requests sees it: answers, refusals, limits, load, and nonsense."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from codi.generation.latent_reasoner import LatentReasoner
from codi.serving.engine import Engine
from running_server import KEY, QUESTIONS, Running, chat, plain, serving
from tiny_checkpoints import tiny_reasoner

httpx = pytest.importorskip("httpx")


@pytest.fixture(scope="module")
def reasoner() -> LatentReasoner:
    return tiny_reasoner("codi")


@pytest.fixture(scope="module")
def running(reasoner: LatentReasoner) -> Iterator[Running]:
    with serving(Engine(reasoner), api_key=KEY, max_body_bytes=20_000, max_latents=12) as server:
        yield server


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
        (chat(QUESTIONS[0], temperature="0.5"), 400, "temperature: Input should be a number, not a text"),
        (chat(QUESTIONS[0], n="2"), 400, "n: Input should be a number, not a text"),
        (chat(QUESTIONS[0], seed="7"), 400, "seed: Input should be a number, not a text"),
        (chat(QUESTIONS[0], stream="no"), 400, "stream: Input should be a valid boolean"),
        (chat(QUESTIONS[0], decoded_thoughts="yes"), 400, "decoded_thoughts: Input should be a valid bool"),
        (chat(QUESTIONS[0], stream=1), 400, "stream: Input should be a valid boolean"),
        (chat(QUESTIONS[0], stream=True, stream_options={"include_usage": 1}), 400, "include_usage"),
        (chat(QUESTIONS[0], frequency_penalty=False), 400, "'frequency_penalty' is not supported with false"),
        (chat(QUESTIONS[0], store=0), 400, "'store' is not supported with 0"),
        (chat(QUESTIONS[0], seed=2**63), 400,
         "seed: Input should be a whole number from -9223372036854775808 to 9223372036854775807"),
        (chat(QUESTIONS[0], seed=-(2**63) - 1), 400, "seed: Input should be a whole number from -922337"),
        ({"model": "tiny", "messages": [{"role": "system", "content": "Be kind."},
                                        {"role": "user", "content": "Hi"}]}, 400, "send one message"),
        ({"model": "tiny", "messages": []}, 400, "messages"),
        (b"{", 400, "JSON decode error"),
        (b"\xff\xfe", 400, ""),
        (b"[]", 400, "a JSON object is expected"),
        (b"", 400, "JSON decode error"),
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
    assert httpx.get(f"{running.address}/health").json()["status"] == "ok"


def test_a_body_without_a_length_is_limited_too(running: Running) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(1000):
            yield b" " * 1000

    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    response = httpx.post(f"{running.address}/v1/completions", content=endless(), headers=headers)
    assert response.status_code == 413


# --- fields -------------------------------------------------------------------------------------------------

NEUTRAL = {
    "repetition_penalty": 1.0, "length_penalty": 1, "frequency_penalty": 0, "presence_penalty": 0.0,
    "ignore_eos": False, "top_k": -1, "top_p": 1, "min_p": 0, "min_tokens": 0, "use_beam_search": False,
    "skip_special_tokens": True, "spaces_between_special_tokens": True, "stop_token_ids": [], "bad_words": [],
    "logit_bias": {}, "n": 1, "best_of": 1, "seed": None, "stop": [], "user": "somebody",
    "stream": False, "stream_options": None, "include_stop_str_in_output": False, "prompt_logprobs": None,
}  # fmt: skip
IN_CHAT = {
    "tools": [], "tool_choice": "none", "parallel_tool_calls": True, "response_format": {"type": "text"},
    "reasoning_effort": "medium", "verbosity": None, "logprobs": False, "top_logprobs": None, "store": False,
    "metadata": {"a": "b"}, "service_tier": "auto", "add_generation_prompt": True,
    "continue_final_message": False, "chat_template_kwargs": None, "max_completion_tokens": 9,
}  # fmt: skip
IN_COMPLETIONS = {"echo": False, "suffix": None, "logprobs": None, "add_special_tokens": True}


def test_neutral_values_are_taken(running: Running) -> None:
    alone = running.post(chat(QUESTIONS[0])).json()["choices"][0]["message"]["content"]
    found = running.post(chat(QUESTIONS[0], **NEUTRAL, **IN_CHAT))
    assert found.status_code == 200, found.text
    assert found.json()["choices"][0]["message"]["content"] == alone
    found = running.post(plain(QUESTIONS[0], **NEUTRAL, **IN_COMPLETIONS), "/v1/completions")
    assert found.status_code == 200, found.text
    assert found.json()["choices"][0]["text"] == alone
    for field in {**NEUTRAL, **IN_CHAT}:  # null asks for nothing, whatever the field
        assert running.post(chat("apples", max_tokens=1) | {field: None}).status_code == 200, field
    for field in {**NEUTRAL, **IN_COMPLETIONS}:
        body = plain("apples", max_tokens=1) | {field: None}
        assert running.post(body, "/v1/completions").status_code == 200, field


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"repetition_penalty": 1.2}, "not supported with 1.2"),
        ({"frequency_penalty": 0.5}, "leave it out, or send 0"),
        ({"logit_bias": {"5": 3}}, "not supported"),
        ({"min_p": 0.1}, "not supported"),
        ({"top_k": -2}, "top_k: Input should be greater than or equal to -1"),
        ({"best_of": 3, "n": 2}, "it must be n, which is 2"),
        ({"stop_token_ids": [5]}, "not supported"),
        ({"skip_special_tokens": False}, "leave it out, or send true"),
        ({"reasoning_effort": "high"}, "not supported"),
        ({"response_format": {"type": "json_object"}}, "not supported"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "not supported"),
        ({"tool_choice": "required"}, "not supported"),
        ({"temprature": 1}, "Did you mean 'temperature'?"),
        ({"seed": 2**63}, f"seed: Input should be a whole number from {-(2**63)} to {2**63 - 1}"),
        ({"seed": "one"}, "seed: Input should be a number, not a text"),
        ({"temperature": 2.5}, "temperature: Input should be less than or equal to 2"),
        ({"temperature": True}, "not true or false"),
        ({"n": 0}, "n: Input should be greater than or equal to 1"),
        ({"max_tokens": 0}, "max_tokens: it must be 1 or more"),
        ({"max_tokens": "many"}, "max_tokens: Input should be a number, not a text"),
        ({"top_logprobs": 3}, "top_logprobs: it goes with logprobs: true"),
        ({"logprobs": True, "top_logprobs": 21}, "less than or equal to 20"),
        ({"logprobs": 2}, "logprobs: Input should be a valid boolean"),
        ({"stop": ["x"] * 17}, "17 stop texts were given; at most 16"),
        ({"stop": "x" * 1001}, "1,001 characters; at most 1,000"),
        ({"stop": [7]}, "a list of texts"),
        ({"stream_options": {"include_usage": True}}, "it goes with stream: true"),
        ({"reasoning": "telepathy"}, "reasoning: Input should be 'latent', 'explicit' or 'direct'"),
        ({"latents": -1}, "latents: Input should be greater than or equal to 0"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role: Input should be"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content: Input should be a text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
         "messages[0].content: part 0 is image_url"),
        ({"messages": "Hi"}, "messages: Input should be a valid list"),
        ({"model": 5}, "model: Input should be a valid string"),
    ],
)  # fmt: skip
def test_what_would_change_the_answer_is_refused_by_its_name(
    running: Running, given: dict[str, Any], said: str
) -> None:
    response = running.post({**chat(QUESTIONS[0]), **given})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert said in error["message"]
    assert error["param"].split("[")[0] in given
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (5, "prompt: Input should be a text"),
        ([], "it is an empty list"),
        ([[]], "item 0 does not fit"),
        (["a", 5], "item 0 does not fit"),
        ([[5], "a"], "item 1 does not fit"),
        ([5, True], "does not fit"),
        ([[5.5]], "does not fit"),
        ([5, 10**9], "has the token id 1000000000 at place 2; ids are 0 to"),
        ([-1], "has the token id -1 at place 1"),
        ([5] * 300, "300 tokens"),
        ("", "The question is empty"),
    ],
)
def test_prompts_that_are_none_are_refused(running: Running, prompt: Any, said: str) -> None:
    response = running.post(plain(prompt), "/v1/completions")
    assert response.status_code == 400, response.text
    assert said in response.json()["error"]["message"]
    assert response.json()["error"]["param"] == "prompt"


def test_half_characters_are_refused_wherever_they_stand(running: Running) -> None:
    for field, value in (
        ("messages", [{"role": "user", "content": "apples \ud800"}]),
        ("model", "\udfff"),
        ("stop", ["\ud83d"]),
        ("user", "\ud800"),
    ):
        response = running.post({**chat(QUESTIONS[0]), field: value})
        assert (response.status_code, response.json()["error"]["param"]) == (400, field)
        assert "surrogate" in response.json()["error"]["message"]
    assert running.post({**chat(QUESTIONS[0]), "\ud800": 1}).status_code == 400
    whole = running.post(chat("apples \U0001f600 \u0000 ?"))  # a whole pair, and NUL
    assert whole.status_code == 200


def test_keywords_are_read_in_any_case(running: Running) -> None:
    body = {**chat(QUESTIONS[0]), "reasoning": "Explicit"}
    body["messages"] = [{"role": "User", "content": [{"type": "TEXT", "text": QUESTIONS[0]}]}]
    for scheme in ("bearer", "BEARER", "Bearer "):
        found = running.post(
            body, Authorization=f"{scheme} {KEY}", **{"Content-Type": "Application/JSON; charset=utf-8"}
        )
        assert found.status_code == 200, found.text
    assert found.json()["choices"][0]["codi"]["sequential_passes"] > 1


def test_the_docs_name_every_parameter() -> None:
    from codi.serving import api_neutral
    from codi.serving.api_requests import ChatRequest, CompletionRequest

    page = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    tables = (api_neutral.NEUTRAL, api_neutral.NEUTRAL_IN_CHAT, api_neutral.NEUTRAL_IN_COMPLETIONS)
    names = {name for table in tables for name in table} | set(api_neutral.NO_EFFECT)
    names |= set(ChatRequest.model_fields) | set(CompletionRequest.model_fields)
    missing = {name for name in names - {"model"} if f"`{name}`" not in page and f"`{name}." not in page}
    assert not missing


# --- choices and seeds --------------------------------------------------------------------------------------


def texts(response: Any) -> list[str]:
    return [choice["text"] for choice in response.json()["choices"]]


def test_without_a_seed_every_request_is_drawn_anew_and_says_how(
    running: Running, reasoner: LatentReasoner
) -> None:
    hot = {"temperature": 2.0, "max_tokens": 12}
    drawn = [running.post(plain(QUESTIONS[0], **hot), "/v1/completions") for _ in range(8)]
    assert len({texts(one)[0] for one in drawn}) > 1
    seeds = [one.json()["choices"][0]["codi"]["seed"] for one in drawn]
    assert len(set(seeds)) == 8
    again = running.post(plain(QUESTIONS[0], seed=seeds[3], **hot), "/v1/completions")
    assert texts(again) == texts(drawn[3])
    # The same question twice in one list is two samples, and a given seed is the reasoner's own.
    twice = running.post(plain([QUESTIONS[0]] * 2, n=3, seed=7, **hot), "/v1/completions")
    expected = reasoner.answer([QUESTIONS[0]] * 6, temperature=2.0, seed=7, max_new_tokens=12)
    assert texts(twice) == [one.text for one in expected]
    assert len(set(texts(twice))) > 3
    assert [choice["index"] for choice in twice.json()["choices"]] == list(range(6))
    greedy = running.post(plain(QUESTIONS[0]), "/v1/completions").json()["choices"][0]["codi"]
    assert greedy["seed"] is None  # nothing was drawn


def test_top_k_is_honoured(running: Running, reasoner: LatentReasoner) -> None:
    sampled = {"temperature": 1.5, "top_k": 3, "seed": 5}
    expected = reasoner.answer([QUESTIONS[0]], max_new_tokens=9, **sampled)[0].text
    assert texts(running.post(plain(QUESTIONS[0], **sampled), "/v1/completions")) == [expected]


def test_usage_counts_a_question_once(running: Running, reasoner: LatentReasoner) -> None:
    asked = plain(QUESTIONS[:2], n=4, max_tokens=3)
    read, made = running.counted("vllm:prompt_tokens_total"), running.counted("vllm:generation_tokens_total")
    usage = running.post(asked, "/v1/completions").json()["usage"]
    tokens = sum(len(reasoner.text.question(text)) for text in QUESTIONS[:2])
    assert usage["prompt_tokens"] == tokens
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 8 * 8
    streamed = running.post(
        {**asked, "stream": True, "stream_options": {"include_usage": True}}, "/v1/completions"
    )
    chunks = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    assert chunks[-1]["usage"] == usage
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert running.counted("vllm:prompt_tokens_total") == read + 2 * tokens
    assert running.counted("vllm:generation_tokens_total") == made + 2 * usage["completion_tokens"]


def test_token_ids_are_a_question(running: Running, reasoner: LatentReasoner) -> None:
    ids = [reasoner.text.question(text) for text in QUESTIONS]
    expected = [one.text for one in reasoner.answer(QUESTIONS, max_new_tokens=9)]
    assert texts(running.post(plain(ids), "/v1/completions")) == expected
    one = running.post(plain(ids[0]), "/v1/completions")
    assert texts(one) == expected[:1]
    assert one.json()["usage"]["prompt_tokens"] == len(ids[0])


# --- paths, methods, bodies ---------------------------------------------------------------------------------


def test_every_status_has_openais_form_and_is_counted(running: Running) -> None:
    key = {"authorization": f"Bearer {KEY}"}

    def send(method: str, path: str, content: bytes = b"", **headers: str) -> Any:
        return httpx.request(method, running.address + path, content=content, headers={**key, **headers})

    json_type = {"content-type": "application/json"}
    big = b"x" * 30_000
    cases = [
        (404, "not_found", lambda: send("GET", "/v1/nothing")),
        (404, "not_found", lambda: send("POST", "/v1")),
        (404, "model_not_found", lambda: send("GET", "/v1/models/other")),
        (405, "method_not_allowed", lambda: send("GET", "/v1/chat/completions")),
        (405, "method_not_allowed", lambda: send("POST", "/v1/models")),
        (405, "method_not_allowed", lambda: send("OPTIONS", "/v1/chat/completions")),
        (413, "body_too_large", lambda: send("POST", "/v1/completions", big, **json_type)),
        (415, "not_json", lambda: send("POST", "/v1/completions", b"{}")),
        (415, "not_json", lambda: send("POST", "/v1/completions", b"{}", **{"content-type": "text/plain"})),
        (400, "invalid_json", lambda: send("POST", "/v1/completions", b"{\xff}", **json_type)),
        (400, "invalid_json", lambda: send("POST", "/v1/completions", b"[" * 19_000, **json_type)),
        (400, "invalid_json", lambda: send("POST", "/v1/completions", b'{"n": NaN}', **json_type)),
        (400, "invalid_json", lambda: send("POST", "/v1/completions", b"1" * 5_000, **json_type)),
        (401, "invalid_api_key", lambda: send("GET", "/v1/models", authorization="Bearer no")),
        (401, "invalid_api_key", lambda: send("POST", "/tokenize", authorization="")),
    ]  # fmt: skip
    for status, code, ask in cases:
        before = running.counted("codi_requests_total", status=str(status))
        response = ask()
        assert response.status_code == status, response.text
        error = response.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["code"] == code
        assert running.counted("codi_requests_total", status=str(status)) == before + 1
    assert send("GET", "/v1/chat/completions").headers["allow"] == "POST"


def test_what_can_never_fit_is_400_and_what_could_later_429(reasoner: LatentReasoner) -> None:
    with serving(Engine(reasoner, max_batch=2, max_waiting=4)) as server:
        never = server.post(plain([QUESTIONS[0]] * 3, n=2), "/v1/completions")
        assert (never.status_code, never.json()["error"]["param"]) == (400, "n")
        assert "at most 4 may ever wait" in never.json()["error"]["message"]
        long = server.post(chat("apples " * 300)).json()["error"]
        assert (long["code"], long["param"]) == ("context_length_exceeded", "messages")
        # More tokens than there are positions are a limit like any other: the answer ends at the last one.
        most = server.post(chat(QUESTIONS[0], max_tokens=10**6, reasoning="explicit"))
        assert most.status_code == 200
        held = server.engine.one_at_a_time
        with held:
            statuses = asyncio.run(_ask_and_hang_up(server, 12))
        assert set(statuses) == {"gone", 429}
        server.idle()


async def _ask_and_hang_up(server: Running, requests: int) -> list[int | str]:
    async def one(client: Any) -> int | str:
        try:
            response = await client.post(f"{server.address}/v1/chat/completions", json=chat(QUESTIONS[1]))
        except httpx.ReadTimeout:
            return "gone"
        return int(response.status_code)

    async with httpx.AsyncClient(timeout=1) as client:
        return list(await asyncio.gather(*(one(client) for _ in range(requests))))


# --- slow and endless clients -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hurried(reasoner: LatentReasoner) -> Iterator[Running]:
    with serving(Engine(reasoner), seconds_to_send=0.5) as server:
        yield server


def dribble(server: Running, first: bytes, then: bytes) -> str:
    """Send a beginning, and one byte at a time behind it, until the server has had enough. What it says."""
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(first)
        connection.settimeout(0.05)
        said = b""
        for _ in range(200):
            try:
                said += (received := connection.recv(65536))
                if not received:
                    return said.decode()
            except TimeoutError:
                connection.sendall(then)
            except ConnectionResetError:
                return said.decode()
    raise AssertionError("it waits for ever")


HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


def test_a_client_that_sends_a_byte_at_a_time_is_let_go(hurried: Running) -> None:
    for first, then, said in (
        (HEAD, b"a", "headers did not come within 0.5 seconds"),
        (HEAD + b"content-length: 900\r\n\r\n{", b" ", "body did not come within 0.5 seconds"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n", "body did not come within 0.5 seconds"),
    ):
        before = hurried.counted("codi_requests_total", status="408")
        answer = dribble(hurried, first, then)
        assert answer.startswith("HTTP/1.1 408"), answer
        assert said in json.loads(answer.split("\r\n\r\n")[1])["error"]["message"]
        assert hurried.counted("codi_requests_total", status="408") == before + 1
    assert dribble(hurried, b"", b"") == ""  # one that says nothing at all
    again = dribble(hurried, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\nGET /hea", b"l")  # its second request
    assert again.startswith("HTTP/1.1 200")
    assert '"status":"ok"' in again.replace(" ", "")


def test_an_answer_outlasts_what_is_sent_behind_it(hurried: Running) -> None:
    """The headers of a next request, slow as they may be, do not end the answer before."""
    body = json.dumps(chat(QUESTIONS[0])).encode()
    head = HEAD.replace(b"/v1/completions", b"/v1/chat/completions")
    first = head + b"content-length: %d\r\n\r\n" % len(body) + body + b"GET /hea"
    with hurried.engine.one_at_a_time, ThreadPoolExecutor(1) as clients:
        answer = clients.submit(dribble, hurried, first, b"l")
        time.sleep(1)  # longer than headers may take
        assert not answer.done()
        hurried.engine.one_at_a_time.release()
        assert answer.result().startswith("HTTP/1.1 200")
        hurried.engine.one_at_a_time.acquire()


def test_headers_without_end_and_what_is_no_http_are_refused(hurried: Running) -> None:
    for first, then, status in (
        (HEAD, b"x-header: " + b"a" * 20_000 + b"\r\n", ("400", "431")),
        (b"\x16\x03\x01 is this TLS?\r\n\r\n", b"", ("400",)),
    ):
        answer = dribble(hurried, first, then)
        assert answer.split()[1] in status, answer
        assert json.loads(answer.split("\r\n\r\n")[1])["error"]["code"] == "bad_http_request"
    assert hurried.post(chat(QUESTIONS[1])).status_code == 200


def test_a_long_question_does_not_hold_the_others_up(
    hurried: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokenising happens beside the event loop: while it lasts, /health answers."""
    reasoner, usual = hurried.engine.reasoner, hurried.engine.reasoner.question_ids
    began, goes_on = threading.Event(), threading.Event()

    def slow(*given: Any) -> list[int]:
        began.set()
        assert goes_on.wait(20)
        return usual(*given)

    monkeypatch.setattr(reasoner, "question_ids", slow)
    with ThreadPoolExecutor(1) as clients:
        asked = clients.submit(hurried.post, chat("apples " * 1_000))
        assert began.wait(20)
        assert hurried.get("/health").status_code == 200
        goes_on.set()
        assert asked.result().status_code == 400


# --- load ---------------------------------------------------------------------------------------------------


@pytest.fixture
def narrow(reasoner: LatentReasoner) -> Iterator[Running]:
    with serving(Engine(reasoner, max_batch=1, max_waiting=2), api_key=KEY) as server:
        yield server


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
    failed, left = running.counted("codi_failed_total"), running.counted("codi_cancelled_total")
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
        assert running.counted("codi_cancelled_total") == left + 1
        left += 1
    assert running.counted("codi_failed_total") == failed
    assert running.counted("vllm:request_success_total", finished_reason="abort", model_name="tiny") == left


def test_a_broken_model_is_said_and_survived(
    running: Running, reasoner: LatentReasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, left = running.counted("codi_failed_total"), running.counted("codi_cancelled_total")
    with monkeypatch.context() as broken:
        broken.setattr(reasoner.model, "think", lambda *_, **__: 1 / 0)
        for stream in (False, True):  # what fails before the first token has a status, streamed or not
            response = running.post(chat(QUESTIONS[0], stream=stream))
            assert (response.status_code, response.json()["error"]["type"]) == (500, "server_error")
        assert running.counted("codi_failed_total") == failed + 2
        assert running.post(chat(QUESTIONS[0], n=4, temperature=1)).status_code == 500
    assert running.post(chat(QUESTIONS[0])).status_code == 200
    assert running.counted("codi_failed_total") == failed + 6  # with one choice all four are lost
    assert running.counted("codi_cancelled_total") == left  # nobody hung up
    assert running.counted("codi_requests_total", path="/v1/chat/completions", status="500") >= 2


def test_what_fails_in_the_midst_of_a_stream_is_said_in_it(
    running: Running, reasoner: LatentReasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, calls = reasoner.text.decode, iter(range(10**6))

    def decode(ids: list[int]) -> str:
        # Of the engine's calls: the response decodes too, and which of the two is ahead is chance.
        of_engine = Path(sys._getframe(1).f_code.co_filename).name == "transcript.py"
        return str(1 / 0) if of_engine and next(calls) >= 6 else usual(ids)

    monkeypatch.setattr(reasoner.text, "decode", decode)
    response = running.post(chat(QUESTIONS[0], stream=True))
    monkeypatch.undo()
    *events, error, done = [line for line in response.text.split("\n\n") if line]
    assert response.status_code == 200
    assert events
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "internal_error"
    assert done == "data: [DONE]"


def test_an_engine_that_has_failed_or_is_closing_says_so(reasoner: LatentReasoner) -> None:
    engine = Engine(reasoner)
    with serving(engine, api_key=KEY) as server:
        assert server.get("/health").json()["status"] == "ok"
        engine.close()
        response = server.post(chat(QUESTIONS[0]))
        assert (response.status_code, response.headers["retry-after"].isdigit()) == (503, True)
        assert response.json()["error"]["code"] == "unavailable"
        engine.failure = "the GPU has fallen off the bus"
        health = server.get("/health")
        assert health.status_code == 503
        assert "fallen off the bus" in health.json()["error"]["message"]


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
    for origin in ("localhost:3000", "http://localhost:3000/page", "http://"):
        result = CliRunner().invoke(app, ["serve", str(tmp_path), "--port", "0", "--allow-origin", origin])
        assert result.exit_code == 2
        assert "is no origin" in " ".join(result.output.split())
