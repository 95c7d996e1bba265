"""Clients that people have, each against a server of this package: they send and read what they always do.

OpenAI's client, LangChain and lm-evaluation-harness run here; LiteLLM and vLLM's serving benchmark are not
installed, so what they send stands here as they send it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from codi.generation.latent_reasoner import LatentReasoner
from codi.modeling.context import Tokens
from codi.serving.engine import Engine
from running_server import KEY, QUESTIONS, Running, chat, plain, serving
from tiny_checkpoints import tiny_reasoner
from tiny_models import byte_level_tokenizer

httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def reasoner() -> LatentReasoner:
    return tiny_reasoner("codi")


@pytest.fixture(scope="module")
def running(reasoner: LatentReasoner) -> Iterator[Running]:
    with serving(Engine(reasoner), api_key=KEY) as server:
        yield server


# --- OpenAI's client ----------------------------------------------------------------------------------------


def test_openai_client_gets_the_reasoners_answers(running: Running, reasoner: LatentReasoner) -> None:
    client = running.openai()
    assert [model.id for model in client.models.list()] == ["tiny"]
    for text, expected in zip(QUESTIONS, reasoner.answer(QUESTIONS, max_new_tokens=9), strict=True):
        found = client.chat.completions.create(**chat(text))
        (choice,) = found.choices
        assert choice.message.content == expected.text
        assert choice.finish_reason == ("stop" if expected.finished else "length")
        assert choice.codi["value"] == expected.value
        assert found.usage.completion_tokens_details.reasoning_tokens == expected.thoughts == 8
        assert found.usage.completion_tokens == 8 + expected.answer_tokens
        assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
        plain = client.completions.create(model="tiny", prompt=text, max_tokens=9)
        assert plain.choices[0].text == expected.text


def test_openai_client_streams_the_same(running: Running, reasoner: LatentReasoner) -> None:
    for options, asked in (({}, {}), ({"mode": "explicit"}, {"extra_body": {"reasoning": "explicit"}})):
        expected = reasoner.answer([QUESTIONS[0]], max_new_tokens=9, **options)[0]
        stream = running.openai().chat.completions.create(
            **chat(QUESTIONS[0]), stream=True, stream_options={"include_usage": True}, **asked
        )
        *chunks, last = list(stream)
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
        assert "".join(pieces) == expected.text
        assert sum(bool(piece) for piece in pieces) > 1
        assert chunks[-1].choices[0].finish_reason == ("stop" if expected.finished else "length")
        assert last.choices == []
        assert last.usage.completion_tokens_details.reasoning_tokens == expected.thoughts
        plain = running.openai().completions.create(
            model="tiny", prompt=QUESTIONS[0], max_tokens=9, stream=True, **asked
        )
        assert "".join(chunk.choices[0].text for chunk in plain) == expected.text


def test_sampling_choices_stops_and_thoughts(running: Running, reasoner: LatentReasoner) -> None:
    client = running.openai()
    expected = reasoner.answer([QUESTIONS[0]] * 3, temperature=1.0, top_p=0.9, seed=4, max_new_tokens=9)
    found = client.chat.completions.create(**chat(QUESTIONS[0], n=3, temperature=1.0, top_p=0.9, seed=4))
    assert [choice.message.content for choice in found.choices] == [answer.text for answer in expected]
    whole = reasoner.answer([QUESTIONS[0]], latents=3, max_new_tokens=9)[0].text
    asked = {"latents": 3, "decoded_thoughts": True}
    found = client.chat.completions.create(**chat(QUESTIONS[0], stop=[whole[8:11]]), extra_body=asked)
    assert found.choices[0].message.content == whole[: whole.index(whole[8:11])]
    assert found.choices[0].finish_reason == "stop"
    decoded = found.choices[0].codi["decoded_thoughts"]
    assert [len(tokens) for tokens in decoded] == [5, 5, 5]
    several = client.completions.create(model="tiny", prompt=QUESTIONS, max_tokens=2)
    wanted = reasoner.answer(QUESTIONS, max_new_tokens=2)
    assert [choice.text for choice in several.choices] == [answer.text for answer in wanted]


def test_many_at_once_get_their_own_answers(running: Running, reasoner: LatentReasoner) -> None:
    expected = [answer.text for answer in reasoner.answer(QUESTIONS, max_new_tokens=9)]

    async def ask_all() -> list[str]:
        client = openai.AsyncOpenAI(base_url=f"{running.address}/v1", api_key=KEY, max_retries=0)
        asked = [client.chat.completions.create(**chat(QUESTIONS[n % 3])) for n in range(60)]
        return [found.choices[0].message.content for found in await asyncio.gather(*asked)]

    assert asyncio.run(ask_all()) == [expected[n % 3] for n in range(60)]


def test_openais_errors_are_its_own_kinds(running: Running) -> None:
    client = running.openai()
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**chat("apples " * 300))
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(openai.NotFoundError, match="There is no model 'other'"):
        client.chat.completions.create(**chat(QUESTIONS[0]) | {"model": "other"})
    with pytest.raises(openai.AuthenticationError, match="missing or wrong"):
        running.openai(api_key="wrong").models.list()
    with pytest.raises(openai.BadRequestError, match="'frequency_penalty' is not supported"):
        client.chat.completions.create(**chat(QUESTIONS[0]), frequency_penalty=0.5)


# --- log-probabilities --------------------------------------------------------------------------------------


def written_logprobs(reasoner: LatentReasoner, question: str, tokens: int) -> list[torch.Tensor]:
    """Log-probabilities [vocabulary] in the place of each token that is written, step by step."""
    found = []
    with torch.no_grad():
        context = reasoner.start([reasoner.question_ids(question, "The question")]).context
        for _ in range(tokens):
            found.append(reasoner.model.logits(context.last_hidden)[0].log_softmax(-1))
            chosen = Tokens.repeated([int(found[-1].argmax())], 1, reasoner.model.device)
            context = reasoner.model.read(chosen, after=context).context
    return found


def test_chats_logprobs_are_the_models(running: Running, reasoner: LatentReasoner) -> None:
    asked = {"logprobs": True, "top_logprobs": 3}
    found = running.openai().chat.completions.create(**chat(QUESTIONS[0], **asked)).choices[0]
    expected = written_logprobs(reasoner, QUESTIONS[0], 9)
    content = found.logprobs.content
    assert len(content) == 9
    for token, logprobs in zip(content, expected, strict=True):
        best = logprobs.topk(3)
        assert token.logprob == pytest.approx(best.values[0].item(), abs=1e-4)
        assert [one.logprob for one in token.top_logprobs] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert token.top_logprobs[0].token == token.token
        assert bytes(token.bytes).decode() == token.token
    # The tokens are those the model chose: the answer prompt is read, not written.
    joined = "".join(token.token for token in content)
    assert found.message.content.startswith("The answer is:")
    assert found.message.content.endswith(joined)
    stream = running.openai().chat.completions.create(**chat(QUESTIONS[0], stream=True, **asked))
    streamed = [
        token for chunk in stream if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content
    ]
    assert [(one.token, one.logprob) for one in streamed] == [(one.token, one.logprob) for one in content]
    alone = running.openai().chat.completions.create(**chat(QUESTIONS[0], logprobs=True)).choices[0]
    assert [one.logprob for one in alone.logprobs.content] == [one.logprob for one in content]
    assert all(one.top_logprobs == [] for one in alone.logprobs.content)
    assert running.openai().chat.completions.create(**chat(QUESTIONS[0])).choices[0].logprobs is None


def test_completions_logprobs_stand_where_their_text_does(running: Running) -> None:
    client = running.openai()
    for asked in ({}, {"reasoning": "explicit"}):
        body = plain(QUESTIONS[0], logprobs=2)
        choice = client.completions.create(**body, extra_body=asked).choices[0]
        lists = choice.logprobs
        assert len(lists.tokens) == len(lists.token_logprobs) == len(lists.top_logprobs) == 9
        for token, offset, logprob, top in zip(
            lists.tokens, lists.text_offset, lists.token_logprobs, lists.top_logprobs, strict=True
        ):
            assert choice.text[offset : offset + len(token)] == token
            assert top[token] == logprob == max(top.values())
        stream = list(client.completions.create(**body, stream=True, extra_body=asked))
        found = [chunk.choices[0].logprobs for chunk in stream if chunk.choices[0].logprobs]
        assert [token for one in found for token in one.tokens] == lists.tokens
        assert [offset for one in found for offset in one.text_offset] == lists.text_offset


def test_echo_gives_the_question_as_plain_text(running: Running, reasoner: LatentReasoner) -> None:
    ids = reasoner.text.question(QUESTIONS[0])
    with torch.no_grad():
        read = reasoner.model.read(Tokens.repeated(ids, 1, reasoner.model.device)).final[0]
        logprobs = reasoner.model.logits(read).log_softmax(-1)
    expected = [logprobs[place, token].item() for place, token in enumerate(ids[1:])]
    for prompt in (QUESTIONS[0], ids):
        for most in (0, 1):
            found = running.openai().completions.create(
                **plain(prompt, max_tokens=most, echo=True, logprobs=1)
            )
            lists = found.choices[0].logprobs
            assert len(lists.tokens) == len(ids) + most
            assert lists.token_logprobs[0] is None
            assert lists.token_logprobs[1 : len(ids)] == pytest.approx(expected, abs=1e-4)
            assert found.usage.completion_tokens == (0 if most == 0 else 8 + 1)
            text = found.choices[0].text
            assert text.startswith(reasoner.text.decode(ids) if prompt is ids else prompt)
            if most == 0:
                assert text == reasoner.text.decode(ids) if prompt is ids else prompt
    body = plain(QUESTIONS[0], max_tokens=3, echo=True, logprobs=1)
    whole = running.openai().completions.create(**body).choices[0]
    stream = [chunk.choices[0] for chunk in running.openai().completions.create(**body, stream=True)]
    assert "".join(one.text for one in stream) == whole.text
    for name in ("tokens", "token_logprobs", "text_offset"):
        joined = [value for one in stream if one.logprobs for value in getattr(one.logprobs, name)]
        assert joined == getattr(whole.logprobs, name)
    plainly = running.openai().completions.create(**plain(QUESTIONS[0], max_tokens=3, echo=True)).choices[0]
    assert (plainly.text, plainly.logprobs) == (whole.text, None)
    stream = running.openai().completions.create(**plain(QUESTIONS[0], max_tokens=3, echo=True), stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.text


def test_bytes_of_half_characters_are_their_own() -> None:
    from codi.serving.api_logprobs import TokenBytes

    tokenizer = byte_level_tokenizer()
    bytes_of = TokenBytes(tokenizer)
    ids = tokenizer("a 🍎 é")["input_ids"]
    assert len(ids) > 4
    assert (
        bytes(byte for token in ids for byte in bytes_of.of(token, tokenizer.decode([token])))
        == "a 🍎 é".encode()
    )


# --- LangChain ----------------------------------------------------------------------------------------------


def test_langchain_invokes_streams_and_batches(running: Running, reasoner: LatentReasoner) -> None:
    langchain = pytest.importorskip("langchain_openai")
    model = langchain.ChatOpenAI(
        model="tiny", base_url=f"{running.address}/v1", api_key=KEY, max_tokens=9, max_retries=0
    )
    expected = [one.text for one in reasoner.answer(QUESTIONS, max_new_tokens=9)]
    found = model.invoke(QUESTIONS[0])
    assert found.content == expected[0]
    assert found.usage_metadata["output_token_details"]["reasoning"] == 8
    pieces = [chunk.content for chunk in model.stream(QUESTIONS[0])]
    assert "".join(pieces) == expected[0]
    assert sum(bool(piece) for piece in pieces) > 1
    assert [one.content for one in model.batch(QUESTIONS)] == expected
    with_logprobs = model.bind(logprobs=True, top_logprobs=2).invoke(QUESTIONS[0])
    assert len(with_logprobs.response_metadata["logprobs"]["content"]) == 9
    with pytest.raises(openai.BadRequestError, match="send one message"):
        model.invoke([("system", "Be kind."), ("user", QUESTIONS[0])])


# --- lm-evaluation-harness ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keyless(reasoner: LatentReasoner) -> Iterator[Running]:
    with serving(Engine(reasoner)) as server:
        yield server


def instances(kind: str, *arguments: Any) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]


@pytest.mark.parametrize("backend", ["the server's own tokenizer", "a folder"])
def test_lm_evals_local_completions_with_its_defaults(
    keyless: Running, reasoner: LatentReasoner, backend: str, tmp_path: Path
) -> None:
    """Token ids, an end-of-text stop, a seed, and log-likelihoods through `echo`."""
    completions = pytest.importorskip("lm_eval.models.openai_completions")
    options: dict[str, Any] = {}
    if backend == "a folder":
        reasoner.save_pretrained(tmp_path / "tiny")
        options = {"tokenizer": str(tmp_path / "tiny"), "tokenizer_backend": "huggingface"}
    model = completions.LocalCompletionsAPI(
        model="tiny", base_url=f"{keyless.address}/v1/completions", max_length=100, max_gen_toks=9, **options
    )
    asked = [(question, {"until": ["\n", "Question:"], "do_sample": False}) for question in QUESTIONS]
    expected = [one.text for one in reasoner.answer(QUESTIONS, max_new_tokens=9)]
    assert model.generate_until(instances("generate_until", *asked)) == expected
    pairs = [(QUESTIONS[0], " The answer is: 7"), (QUESTIONS[1], " 3")]
    found = model.loglikelihood(instances("loglikelihood", *pairs))
    for (context, continuation), (logprob, is_greedy) in zip(pairs, found, strict=True):
        before, whole = (reasoner.tokenizer(text, add_special_tokens=False)["input_ids"]
                         for text in (context, context + continuation))  # fmt: skip
        with torch.no_grad():
            read = reasoner.model.read(Tokens.repeated(whole, 1, reasoner.model.device)).final[0]
            logits = reasoner.model.logits(read).log_softmax(-1)
        places = range(len(before), len(whole))
        assert logprob == pytest.approx(sum(logits[at - 1, whole[at]].item() for at in places), abs=1e-3)
        assert is_greedy == all(logits[at - 1].argmax() == whole[at] for at in places)


def test_an_answer_that_ends_at_once_costs_no_log_likelihood(
    keyless: Running, reasoner: LatentReasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lm-eval takes the last token for the one it had to ask for, so the end of text must be one."""
    ids = reasoner.text.question(QUESTIONS[0])
    usual = reasoner.model.logits

    def ending(hidden: torch.Tensor) -> torch.Tensor:
        logits = usual(hidden)
        return logits + 1000.0 * torch.nn.functional.one_hot(
            torch.tensor(reasoner.text.eos_id), logits.shape[-1]
        )

    monkeypatch.setattr(reasoner.model, "logits", ending)
    body = plain([ids], max_tokens=1, echo=True, logprobs=1)
    found = keyless.post(body, "/v1/completions").json()["choices"][0]
    assert len(found["logprobs"]["tokens"]) == len(ids) + 1
    assert found["logprobs"]["token_logprobs"][-1] == pytest.approx(0, abs=1e-3)


def test_lm_evals_local_chat_completions_with_its_defaults(
    keyless: Running, reasoner: LatentReasoner
) -> None:
    completions = pytest.importorskip("lm_eval.models.openai_completions")
    model = completions.LocalChatCompletion(
        model="tiny", base_url=f"{keyless.address}/v1/chat/completions", max_gen_toks=9
    )
    asked = [
        (
            model.apply_chat_template([{"role": "user", "content": question}]),
            {"until": ["\n"], "do_sample": False},
        )
        for question in QUESTIONS
    ]
    expected = [one.text for one in reasoner.answer(QUESTIONS, max_new_tokens=9)]
    assert model.generate_until(instances("generate_until", *asked)) == expected


def test_the_tokenizer_answers_over_http(keyless: Running, reasoner: LatentReasoner) -> None:
    body = {"prompt": QUESTIONS[0], "add_special_tokens": False}
    found = keyless.post(body, "/tokenize").json()
    assert found["tokens"] == reasoner.tokenizer(QUESTIONS[0], add_special_tokens=False)["input_ids"]
    assert found["max_model_len"] == reasoner.model.longest_sequence
    text = keyless.post({"tokens": found["tokens"]}, "/detokenize").json()["prompt"]
    assert text == reasoner.tokenizer.decode(found["tokens"])
    assert keyless.get("/tokenizer_info").json()["eos_token"] == reasoner.tokenizer.eos_token
    for body, path in (
        ({"prompt": 5}, "/tokenize"),
        ({"tokens": [10**9]}, "/detokenize"),
        ([], "/detokenize"),
    ):
        assert keyless.post(body, path).status_code == 400


# --- clients that are not installed here --------------------------------------------------------------------

USER = {"role": "user", "content": QUESTIONS[0]}
PARTS = [{"type": "text", "text": QUESTIONS[0]}]
LITELLM = [
    {"model": "tiny", "messages": [USER], "temperature": 0.2, "max_tokens": 9},
    {"model": "tiny", "messages": [USER], "max_tokens": 9, "n": 2, "stream": True, "user": "u",
     "metadata": {}, "stream_options": {"include_usage": True}, "parallel_tool_calls": None},
    {"model": "tiny", "messages": [{"role": "user", "content": PARTS, "name": "u"}], "logit_bias": {},
     "max_completion_tokens": 9, "top_p": 1.0, "presence_penalty": 0, "frequency_penalty": 0,
     "response_format": {"type": "text"}, "reasoning_effort": None, "seed": 7, "tools": None, "stop": None},
]  # fmt: skip
VLLM_BENCH = [
    # `vllm bench serve`, of today and of its first form (benchmark_serving.py)
    {"model": "tiny", "prompt": QUESTIONS[0], "repetition_penalty": 1.0, "max_tokens": 9, "logprobs": None,
     "stream": True, "stream_options": {"include_usage": True}},
    {"model": "tiny", "prompt": QUESTIONS[0], "temperature": 0.0, "repetition_penalty": 1.0, "max_tokens": 9,
     "logprobs": 1, "stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True},
    {"model": "tiny", "prompt": QUESTIONS[0], "temperature": 0.0, "best_of": 1, "max_tokens": 9,
     "logprobs": None, "stream": True},
]  # fmt: skip
VLLM_BENCH_CHAT = {
    "model": "tiny", "messages": [{"role": "user", "content": PARTS}],
    "temperature": 0.0, "max_completion_tokens": 9, "stream": True, "stream_options": {"include_usage": True},
}  # fmt: skip


def events(response: Any) -> list[Any]:
    """What a stream says, up to its end."""
    assert response.status_code == 200, response.text
    *said, done = [part.removeprefix("data: ") for part in response.text.split("\n\n") if part]
    assert done == "[DONE]"
    return [json.loads(one) for one in said]


def test_litellms_requests(running: Running) -> None:
    for body in LITELLM:
        response = running.post(body)
        assert response.status_code == 200, response.text
        if body.get("stream"):
            said = events(response)
            assert said[-1]["usage"]["completion_tokens_details"]["reasoning_tokens"] == 16
            assert {choice["index"] for one in said for choice in one["choices"]} == {0, 1}
        else:
            choice = response.json()["choices"][0]
            assert choice["message"]["role"] == "assistant"
            assert choice["message"]["content"].startswith("The answer is:")


def test_vllms_serving_benchmarks_requests(running: Running) -> None:
    for body in VLLM_BENCH:
        said = events(running.post(body, "/v1/completions"))
        assert any(choice["text"] for one in said for choice in one["choices"])
        if "stream_options" in body:
            assert said[-1]["choices"] == []
            assert said[-1]["usage"]["completion_tokens"] >= 8
            assert said[-1]["usage"]["prompt_tokens"] > 0
    said = events(running.post(VLLM_BENCH_CHAT))
    assert any(choice["delta"].get("content") for one in said for choice in one["choices"])
    models = running.openai().models.list().data
    assert models[0].root == "tiny"
    assert models[0].max_model_len == running.engine.reasoner.model.longest_sequence


def test_ignore_eos_writes_to_the_limit(running: Running, reasoner: LatentReasoner) -> None:
    """As load generators have it, so that every answer is as long as every other."""
    eos, usual = reasoner.text.eos_id, reasoner.model.logits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            reasoner.model, "logits", lambda hidden: usual(hidden).index_fill(-1, torch.tensor(eos), 1e4)
        )
        ended = running.post(plain(QUESTIONS[0]), "/v1/completions").json()
        going = running.post(plain(QUESTIONS[0], ignore_eos=True), "/v1/completions").json()
    assert ended["choices"][0]["finish_reason"] == "stop"
    assert going["choices"][0]["finish_reason"] == "length"
    assert going["usage"]["completion_tokens"] == 8 + 9


# --- pages of other origins ---------------------------------------------------------------------------------

PAGE = "http://localhost:3000"


@pytest.fixture(scope="module")
def open_to_a_page(reasoner: LatentReasoner) -> Iterator[Running]:
    with serving(Engine(reasoner, max_batch=1, max_waiting=1), api_key=KEY, allow_origins=[PAGE]) as server:
        yield server


def preflight(server: Running, origin: str) -> Any:
    asked = {"origin": origin, "access-control-request-method": "POST",
             "access-control-request-headers": "authorization,content-type,x-stainless-os"}  # fmt: skip
    return httpx.options(f"{server.address}/v1/chat/completions", headers=asked)


def test_a_page_may_read_what_went_wrong_in_the_server(
    open_to_a_page: Running, reasoner: LatentReasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(reasoner.model, "think", lambda *_, **__: 1 / 0)
        answer = open_to_a_page.post(chat(QUESTIONS[0]), origin=PAGE)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert answer.headers["access-control-allow-origin"] == PAGE
    counted = {"path": "/v1/chat/completions", "status": "500"}
    assert open_to_a_page.counted("codi_requests_total", **counted) == 1


def test_a_page_of_an_allowed_origin_may_ask(open_to_a_page: Running, running: Running) -> None:
    allowed = preflight(open_to_a_page, PAGE)  # before the key is asked for: browsers send none
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == PAGE
    assert "x-stainless-os" in allowed.headers["access-control-allow-headers"]
    for status, answer in (
        (200, open_to_a_page.post(chat(QUESTIONS[0]), origin=PAGE)),
        (400, open_to_a_page.post(b"{", origin=PAGE)),
        (401, open_to_a_page.post(chat(QUESTIONS[0]), origin=PAGE, authorization="Bearer wrong")),
    ):
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == PAGE  # or the page could not read the error
        assert "Retry-After" in answer.headers["access-control-expose-headers"]
    assert preflight(open_to_a_page, "http://evil.example").status_code == 400
    other = open_to_a_page.post(chat(QUESTIONS[0]), origin="http://evil.example")
    assert "access-control-allow-origin" not in other.headers
    # Off by default, and the answer says what would turn it on.
    refused = preflight(running, PAGE)
    assert refused.status_code == 405
    assert "--allow-origin" in refused.json()["error"]["message"]
    assert "access-control-allow-origin" not in running.post(chat(QUESTIONS[0]), origin=PAGE).headers


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed (apt-get install chromium)")
def test_a_browser_page_on_another_port_asks(reasoner: LatentReasoner) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    page_server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=page_server.serve_forever, daemon=True).start()
    origin = f"http://127.0.0.1:{page_server.server_port}"
    ask = """([url, key, body]) => fetch(url, {
        method: "POST", body: JSON.stringify(body),
        headers: {"content-type": "application/json", authorization: "Bearer " + key}
    }).then(answer => answer.json(), error => "blocked")"""
    expected = reasoner.answer([QUESTIONS[0]], max_new_tokens=9)[0].text
    with (
        serving(Engine(reasoner), api_key=KEY, allow_origins=[origin]) as allowing,
        serving(Engine(reasoner), api_key=KEY) as silent,
        playwright.sync_playwright() as driver,
    ):
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(origin)
        told = [
            page.evaluate(ask, [f"{server.address}/v1/chat/completions", KEY, chat(QUESTIONS[0])])
            for server in (allowing, silent)
        ]
        browser.close()
    page_server.shutdown()
    assert told[0]["choices"][0]["message"]["content"] == expected
    assert told[1] == "blocked"


class Page(BaseHTTPRequestHandler):
    """An empty page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>a page</title>")

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""
