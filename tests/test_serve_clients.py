"""Clients that people have, each against a server of this package: they send and read what they always do.

OpenAI's client, LangChain and lm-evaluation-harness run here; LiteLLM and vLLM's serving benchmark are not
installed, so what they send stands here as they send it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from codi.generation.latent_reasoner import LatentReasoner
from codi.serving.engine import Engine
from running_server import KEY, QUESTIONS, Running, chat, serving
from tiny_checkpoints import tiny_reasoner

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
        assert chunks[-1].choices[0].finish_reason in ("stop", "length")
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


