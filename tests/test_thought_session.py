"""What the page asks of a model: thoughts, attention, answers, and what changed latents do to them."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from codi.cli import app
from codi.data.word_problems import generate
from codi.errors import UsageError
from codi.generation.decoded_thoughts import DecodedToken
from codi.interpretability.thinking import LONGEST_ANSWER
from codi.serving.thought_session import MEAN, SILENCE, Thoughts, ThoughtSession
from tiny_checkpoints import QUESTION, tiny_reasoner


@pytest.fixture(scope="module")
def session() -> ThoughtSession:
    return ThoughtSession(tiny_reasoner("codi"))


def assert_same(one: Thoughts, other: Thoughts) -> None:
    assert one.tokens == other.tokens
    assert (one.text, one.value) == (other.text, other.value)
    assert torch.equal(one.latents, other.latents)
    for weights, others in zip(one.attention.weights, other.attention.weights, strict=True):
        assert torch.equal(weights, others)


def test_a_question_is_answered_as_the_reasoner_answers_it(session: ThoughtSession) -> None:
    asked = session.ask(QUESTION)
    expected = session.reasoner.answer([QUESTION], max_new_tokens=LONGEST_ANSWER)[0]
    assert asked.latent.answer == expected
    assert (asked.thoughts.text, asked.thoughts.value) == (expected.text, expected.value)
    assert asked.explicit is not None
    assert asked.explicit.answer == session.reasoner.answer([QUESTION], mode="explicit")[0]
    assert asked.latent.milliseconds > 0
    expected_tokens = session.reasoner.decode_thoughts(QUESTION)
    for found, tokens in zip(asked.thoughts.tokens, expected_tokens, strict=True):
        assert [t.token for t in found] == [token for token, _ in tokens]
        assert [token.share for token in found] == pytest.approx([share for _, share in tokens], abs=1e-5)


def test_thoughts_arrive_one_by_one_before_the_answer(session: ThoughtSession) -> None:
    arrived: list[tuple[int, list[DecodedToken]]] = []
    asked = session.ask(QUESTION, lambda number, tokens: arrived.append((number, tokens)))
    assert [number for number, _ in arrived] == list(range(6))
    for (_, early), late in zip(arrived, asked.thoughts.tokens, strict=True):
        assert [t.token for t in early] == [t.token for t in late]
        assert [t.share for t in early] == pytest.approx([t.share for t in late], abs=1e-6)


def test_watching_changes_nothing(session: ThoughtSession) -> None:
    watched = session.ask(QUESTION, lambda _number, _tokens: None)
    assert_same(watched.thoughts, session.ask(QUESTION).thoughts)


@pytest.mark.parametrize("number", range(6))
def test_a_latent_replaced_by_itself_changes_nothing(session: ThoughtSession, number: int) -> None:
    asked = session.ask(QUESTION)
    assert_same(session.change(asked, {number: f"z{number + 1}"}), asked.thoughts)


def test_nothing_changed_changes_nothing(session: ThoughtSession) -> None:
    asked = session.ask(QUESTION)
    assert_same(session.change(asked, {}), asked.thoughts)
    assert_same(session.change(asked, {2: "keep"}), asked.thoughts)


@pytest.mark.parametrize("change", [SILENCE, MEAN, "z6"])
def test_a_change_is_fed_and_reaches_later_thoughts_only(session: ThoughtSession, change: str) -> None:
    asked = session.ask(QUESTION)
    usual = asked.thoughts
    changed = session.change(asked, {2: change})
    fed = {SILENCE: torch.zeros_like(usual.latents[0]), MEAN: usual.latents.mean(0), "z6": usual.latents[5]}
    assert torch.equal(changed.latents[2], fed[change])
    assert torch.equal(changed.latents[:2], usual.latents[:2])
    assert changed.tokens[:3] == usual.tokens[:3]
    assert not torch.equal(changed.latents[3], usual.latents[3])


def test_a_change_leaves_the_session_as_it_was(session: ThoughtSession) -> None:
    asked = session.ask(QUESTION)
    session.change(asked, {0: SILENCE, 3: MEAN})
    assert session.reasoner.model.watcher is None
    assert_same(session.ask(QUESTION).thoughts, asked.thoughts)


def test_the_words_are_the_question_and_have_a_weight_each(session: ThoughtSession) -> None:
    question = "Mia has 3 apples, and buys 4 more."
    asked = session.ask(question)
    shown = "".join((" " if word.spaced else "") + word.text for word in asked.words)
    assert shown.strip() == question
    for number in range(6):
        weights = asked.thoughts.attention.mean(number)
        assert len(weights) == len(asked.words) + 1 + number  # <bot> and the earlier latents
        assert float(weights.sum()) == pytest.approx(1, abs=1e-5)


def test_unknown_words_are_named_once(session: ThoughtSession) -> None:
    asked = session.ask("Mia has 987 zebras . On Monday she finds 987 more .")
    assert asked.unknown_words == ["987", "zebras"]


def test_examples_are_known_and_have_their_answer(session: ThoughtSession) -> None:
    example = session.examples[0]
    assert example == generate("test", 1)[0]
    asked = session.ask(example.question)
    assert (asked.gold, asked.unknown_words) == (example.answer, [])
    assert session.ask(QUESTION).gold is None


@pytest.mark.parametrize(
    ("question", "message"),
    [("", "The question is empty"), ("  \n", "The question is empty"), ("apples " * 200, "at most 160")],
)
def test_bad_questions_are_refused(session: ThoughtSession, question: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        session.ask(question)
    session.ask(QUESTION)  # and the next one is answered


@pytest.mark.parametrize(
    ("changes", "message"),
    [({6: SILENCE}, "no thought 6"), ({-1: SILENCE}, "no thought -1"), ({0: "silense"}, "mean 'silence'"),
     ({0: "z7"}, "cannot be changed by 'z7'")],
)  # fmt: skip
def test_bad_changes_are_refused(session: ThoughtSession, changes: dict[int, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        session.change(session.ask(QUESTION), changes)


def test_several_tabs_get_the_answers_of_one(session: ThoughtSession) -> None:
    questions = [example.question for example in generate("test", 4)]
    alone = [session.ask(question).thoughts for question in questions]
    found: dict[int, Thoughts] = {}

    def ask(number: int) -> None:
        found[number] = session.ask(questions[number]).thoughts

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, thoughts in enumerate(alone):
        assert_same(found[number], thoughts)


def test_a_model_without_a_written_mode_has_no_written_answer() -> None:
    asked = ThoughtSession(tiny_reasoner("coconut")).ask(QUESTION)
    assert asked.explicit is None
    assert len(asked.thoughts.tokens) == len(asked.thoughts.latents)


def test_a_model_without_thoughts_is_refused_before_anything_is_served(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no continuous thoughts"):
        ThoughtSession(tiny_reasoner("cot-sft"))
    pytest.importorskip("nicegui")
    tiny_reasoner("cot-sft").save_pretrained(tmp_path / "m")
    result = CliRunner().invoke(app, ["ui", str(tmp_path / "m"), "--port", "0", "--device", "cpu"])
    assert result.exit_code == 2
    assert "no continuous thoughts" in result.output


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    pytest.importorskip("nicegui")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["ui", str(tmp_path), "--port", str(port)])
    assert result.exit_code == 2
    assert f"Port {port} on 127.0.0.1 is in use" in result.output
    assert "--port" in result.output
    result = CliRunner().invoke(app, ["ui", str(tmp_path), "--port", "0", "--host", "no.such.host.invalid"])
    assert "The host 'no.such.host.invalid' is not known" in result.output
