"""Log-probabilities of what was asked and written, and questions that come as tokens."""

from __future__ import annotations

import queue
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from codi.data.encoding import TextEncoder
from codi.errors import UsageError
from codi.generation.decoding import Decoding
from codi.generation.latent_reasoner import LatentReasoner
from codi.generation.sampling import Sampling
from codi.methods.codi import Codi
from codi.modeling.configuration import ModelConfig, TextFormat
from codi.modeling.context import Tokens
from codi.modeling.model import ThoughtModel
from codi.serving.engine import Engine, Finished, Piece, Question, ScoredToken
from codi.serving.token_texts import TokenTexts
from tiny_models import (
    EXAMPLES,
    byte_level_tokenizer,
    llama3_tokenizer,
    reasoner,
    sentencepiece_tokenizer,
    tiny_config,
    tiny_model,
)

QUESTIONS = [example.question for example in EXAMPLES]


def asked(engine: Engine, question: Question) -> tuple[list[Piece], Finished]:
    events: queue.Queue[Any] = queue.Queue()
    engine.submit(question, events.put)
    pieces = []
    while isinstance(event := events.get(timeout=60), Piece):
        pieces.append(event)
    if isinstance(event, Exception):
        raise event
    return pieces, event


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = Engine(reasoner(Codi(latents=2), tiny_model(request.param)))
    yield engine
    engine.close()


def rescored(
    asked: LatentReasoner, question: str, tokens: tuple[ScoredToken, ...], mode: str
) -> torch.Tensor:
    """The model's log-probabilities at every written token, all read in one pass. [n, vocabulary]"""
    with torch.no_grad():
        start = asked.start([asked.text.question(question)], mode)
        ids = [token.id for token in tokens]
        final = asked.model.read(Tokens.repeated(ids, 1, asked.model.device), after=start.context).final
        hidden = torch.cat([start.context.last_hidden.unsqueeze(1), final[:, :-1]], 1)
        scores: torch.Tensor = asked.model.logits(hidden)[0].float().log_softmax(-1)
        return scores


@pytest.mark.parametrize("mode", ["latent", "explicit"])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(2.0, top_k=20, seed=4)])
def test_written_tokens_have_the_models_own_log_probabilities(
    engine: Engine, mode: str, sampling: Sampling
) -> None:
    """Before temperature and cuts; the likeliest beside them in order; and the same in pieces as whole."""
    question = Question(QUESTIONS[0], mode=mode, sampling=sampling, max_new_tokens=9, logprobs=3)
    pieces, finished = asked(engine, question)
    tokens = finished.tokens
    assert tokens is not None
    assert len(tokens) == finished.written_tokens > 1
    scores = rescored(engine.reasoner, question.text, tokens, mode)
    for token, row in zip(tokens, scores, strict=True):
        assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-4)
        best = row.topk(3)
        assert [id_ for id_, _, _ in token.top] == best.indices.tolist()
        assert [score for _, _, score in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)
    opening = "" if mode == "explicit" else "The answer is:"
    assert opening + "".join(token.text for token in tokens) == finished.answer.text
    assert sum((piece.tokens for piece in pieces), ()) == tokens
    assert "".join(piece.text for piece in pieces) == finished.answer.text
    whole = Question(**{**vars(question), "in_pieces": False})
    assert asked(engine, whole)[1].tokens == pytest.approx(tokens)
    assert asked(engine, Question(QUESTIONS[0], max_new_tokens=2))[1].tokens is None
    none_beside = asked(engine, Question(QUESTIONS[0], max_new_tokens=2, logprobs=0))[1].tokens
    assert none_beside is not None
    assert all(token.top == () and token.logprob is not None for token in none_beside)


def test_tokens_end_where_a_stop_ended_the_text(engine: Engine) -> None:
    whole = asked(engine, Question(QUESTIONS[0], mode="explicit", max_new_tokens=12, logprobs=0))[1]
    assert whole.tokens is not None
    stop = whole.tokens[7].text
    pieces, finished = asked(
        engine, Question(QUESTIONS[0], mode="explicit", max_new_tokens=12, logprobs=0, stop=(stop,))
    )
    assert finished.tokens is not None
    assert "".join(token.text for token in finished.tokens) == finished.answer.text
    assert stop not in finished.answer.text
    assert sum((piece.tokens for piece in pieces), ()) == finished.tokens


def test_a_questions_own_tokens_are_scored_as_plain_text(engine: Engine) -> None:
    """With or without an answer: max_new_tokens=0 reads and writes nothing."""
    ids = engine.reasoner.text.question(QUESTIONS[1])
    with torch.no_grad():
        final = engine.reasoner.model.read(Tokens.repeated(ids, 1, torch.device("cpu"))).final[0]
        scores = engine.reasoner.model.logits(final).float().log_softmax(-1)
    for most in (0, 3):
        question = Question(QUESTIONS[1], max_new_tokens=most, prompt_logprobs=True, logprobs=2)
        finished = asked(engine, question)[1]
        found = finished.prompt_tokens
        assert found is not None
        assert [token.id for token in found] == ids
        assert found[0].logprob is None
        for token, row in zip(found[1:], scores, strict=False):
            assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-4)
            assert [id_ for id_, _, _ in token.top] == row.topk(2).indices.tolist()
        shown = "".join(token.text for token in found)
        assert shown.replace("<unk>", "") == engine.reasoner.text.decode(ids)  # a special token by its name
        assert (finished.written_tokens == 0) is (most == 0)
        assert finished.question_tokens == len(ids)
    assert asked(engine, Question(QUESTIONS[1], max_new_tokens=0))[1].prompt_tokens is None


def test_a_requests_question_is_scored_once_and_holds_nobody_up(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For all its choices; between its parts those who are written go on."""
    monkeypatch.setattr("codi.serving.prompt_scoring.POSITIONS_SCORED", 4)
    order: list[str] = []
    ended: queue.Queue[Any] = queue.Queue()
    scores, step = engine.reasoner.model.logits, Decoding.step
    parts: list[int] = []

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        if hidden.shape[0] == 4 and hidden.ndim == 2 and not stepping:
            order.append("part")
            parts.append(1)
        return scores(hidden)

    stepping: list[int] = []

    def stepped(decoding: Decoding) -> None:
        order.append("token")
        stepping.append(1)
        step(decoding)
        stepping.pop()

    monkeypatch.setattr(engine.reasoner.model, "logits", logits)
    monkeypatch.setattr(Decoding, "step", stepped)
    ids = engine.reasoner.text.question(QUESTIONS[1])
    with engine.one_at_a_time:
        engine.submit(Question(QUESTIONS[0], max_new_tokens=60, ignore_eos=True), ended.put)
        asked = [
            Question(QUESTIONS[1], max_new_tokens=most, prompt_logprobs=True, logprobs=2, in_pieces=False)
            for most in (3, 3, 0)
        ]
        engine.submit_all(asked, [ended.put] * 3)
    ends: list[Finished] = []
    while len(ends) < 4:
        event = ended.get(timeout=60)
        assert not isinstance(event, Exception)
        if isinstance(event, Finished):
            ends.append(event)
    told = [end.prompt_tokens for end in ends if end.prompt_tokens is not None]
    assert len(told) == 3
    assert told[0] == told[1] == told[2]
    assert [token.id for token in told[0]] == ids
    assert (len(ids) - 1) // 4 - 1 <= len(parts) <= len(ids) // 4 + 1  # once
    first, last = order.index("part"), len(order) - 1 - order[::-1].index("part")
    between = order[first:last]
    assert between.count("token") >= between.count("part") - 1


def test_a_long_answers_text_takes_a_time_that_grows_with_what_is_new(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is far behind is not decoded again, whatever is told of it."""
    monkeypatch.setattr("codi.serving.transcript.DECODED_ANEW", 4)
    decoded, usual = [0], engine.reasoner.text.decode

    def decode(ids: list[int]) -> str:
        decoded[0] += len(ids)
        return usual(ids)

    monkeypatch.setattr(engine.reasoner.text, "decode", decode)
    asked(engine, Question(QUESTIONS[0], max_new_tokens=80, ignore_eos=True, stop=("never",)))
    assert decoded[0] < 80 * 25 + 300  # 8 tokens and at most 12 for each, and the whole at the end


def test_a_question_of_tokens_is_the_question(engine: Engine) -> None:
    text = engine.reasoner.text
    expected = engine.reasoner.answer([QUESTIONS[0]], max_new_tokens=8)[0]
    ids = tuple(text.question(QUESTIONS[0]))
    finished = asked(engine, Question("", ids=ids, max_new_tokens=8))[1]
    assert finished.answer.text == expected.text
    assert finished.answer.question == text.decode(list(ids))
    known = len(engine.reasoner.tokenizer)
    for wrong, said in (
        ((), "empty"), ((5, known), f"the token id {known} at place 2; ids are 0 to {known - 1}"),
        ((-1,), "the token id -1"), ((5,) * 300, "has 300 tokens"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            engine.submit(Question("", ids=wrong), print)


@pytest.mark.parametrize("suffix", ["", "\n"])
@pytest.mark.parametrize("tokenizer", [byte_level_tokenizer, llama3_tokenizer, sentencepiece_tokenizer])
def test_tokens_get_what_a_question_begins_and_ends_with(tokenizer: Any, suffix: str) -> None:
    """With or without bos, as clients send them: what is read is what was trained."""
    made = tokenizer()
    settings = {**(tiny_config("llama").base_config or {}), "vocab_size": 512}
    model = ThoughtModel(ModelConfig(base_config=settings)).eval()
    mind = LatentReasoner(model, Codi(latents=1), made, TextFormat(question_suffix=suffix))
    trained = mind.text.question("Tom has 7 apples")
    bare = made("Tom has 7 apples", add_special_tokens=False)["input_ids"]
    for ids in (trained, bare, made("Tom has 7 apples")["input_ids"]):
        assert mind.framed_ids(ids, "It") == trained


@pytest.mark.parametrize("tokenizer", [byte_level_tokenizer, llama3_tokenizer, sentencepiece_tokenizer])
def test_texts_of_tokens_joined_are_the_text(tokenizer: Any) -> None:
    """Characters of several tokens, spaces that belong to tokens, special tokens by name."""
    made = tokenizer()
    encoder = TextEncoder(made, TextFormat())
    texts = TokenTexts(encoder)
    for text in ("Tom has 7 apples: <<7+15=22>>", "a  b\n c", "été € 😀 end", "😀"):
        ids = made(text, add_special_tokens=False)["input_ids"]
        if made.unk_token_id in ids:
            continue
        parts = [texts.after(ids[:place])(token) for place, token in enumerate(ids)]
        assert "".join(parts) == encoder.decode(ids)
        assert not any("�" in part for part in parts)
    assert texts.after(ids)(made.eos_token_id) == "</s>"
    rng, size = random.Random(0), len(made)
    for _ in range(300):  # what is remembered is what a tokenizer that remembers nothing says
        ids = [rng.randrange(size) for _ in range(rng.randrange(12))]
        token = rng.randrange(size)
        assert texts.after(ids)(token) == TokenTexts(encoder).after(ids)(token)
