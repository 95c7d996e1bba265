"""The engine gives the reasoner's answers, whatever it batches, and lets nobody wait for somebody else."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from codi.errors import UsageError
from codi.generation.decoding import Sampling
from codi.generation.fixed_answering import FixedAnswering
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.codi import Codi
from codi.modeling.context import Context
from codi.modeling.fixed_context import FixedContext
from codi.serving.engine import Engine, EngineBusy, EngineDown, Finished, Question
from tiny_checkpoints import tiny_reasoner
from tiny_models import reasoner as tiny_reasoner_of
from tiny_models import tiny_model

QUESTIONS = [
    "Mia has 3 apples and buys 4 more . How many apples does Mia have ?",
    "How many apples ?",
    "On Monday the price rises by 2 dollars . What does it cost now ?",
]


class Asked:
    """One submitted question: its pieces of text, and its end."""

    def __init__(self, engine: Engine, question: Question) -> None:
        self.events: queue.Queue[Any] = queue.Queue()
        self.job = engine.submit(question, self.events.put)

    def finished(self) -> tuple[list[str], Finished]:
        pieces = []
        while True:
            event = self.events.get(timeout=30)
            if isinstance(event, Finished):
                return pieces, event
            if isinstance(event, Exception):
                raise event
            pieces.append(event.text)


@pytest.fixture
def reasoner() -> LatentReasoner:
    return tiny_reasoner("codi")


@pytest.fixture
def engine(reasoner: LatentReasoner) -> Iterator[Engine]:
    engine = Engine(reasoner, max_batch=8, max_waiting=40)
    yield engine
    engine.close()


def test_answers_are_the_reasoners(engine: Engine, reasoner: LatentReasoner) -> None:
    """Modes, numbers of latents, sampling and limits all mixed, and asked at once."""
    settings: list[dict[str, Any]] = [
        {}, {"mode": "explicit"}, {"latents": 0}, {"latents": 3}, {"max_new_tokens": 2},
        {"temperature": 1.0, "seed": 5}, {"temperature": 0.7, "top_p": 0.8, "top_k": 9, "seed": 6},
    ]  # fmt: skip
    wanted, asked = [], []
    for kept in settings:
        for text in QUESTIONS:
            options = {"max_new_tokens": 12, **kept}
            sampled = {k: options.pop(k) for k in ("temperature", "top_p", "top_k", "seed") if k in options}
            wanted.append(reasoner.answer([text], **options, **sampled)[0])
            asked.append(Asked(engine, Question(text, sampling=Sampling(**sampled), **options)))
    for expected, one in zip(wanted, asked, strict=True):
        pieces, finished = one.finished()
        assert finished.answer == expected
        assert "".join(pieces) == expected.text
        assert finished.question_tokens == len(reasoner.text.question(expected.question))


def test_choices_are_numbered_for_their_seed(engine: Engine, reasoner: LatentReasoner) -> None:
    sampling = Sampling(temperature=1.0, seed=3)
    expected = reasoner.answer([QUESTIONS[0]] * 3, temperature=1.0, seed=3, max_new_tokens=9)
    asked = [
        Asked(engine, Question(QUESTIONS[0], sampling=sampling, number=n, max_new_tokens=9)) for n in range(3)
    ]
    assert [one.finished()[1].answer for one in asked] == expected


def test_a_stop_text_ends_the_answer_before_it(engine: Engine, reasoner: LatentReasoner) -> None:
    whole = reasoner.answer([QUESTIONS[0]], max_new_tokens=30)[0].text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    pieces, finished = Asked(
        engine, Question(QUESTIONS[0], max_new_tokens=30, stop=(stop, "never"))
    ).finished()
    assert "".join(pieces) == finished.answer.text == whole[: whole.index(stop)]
    assert finished.answer.finished
    assert finished.written_tokens < 30


def test_pieces_are_sent_only_where_they_are_wanted(engine: Engine, reasoner: LatentReasoner) -> None:
    whole = reasoner.answer([QUESTIONS[0]], max_new_tokens=9)[0].text
    pieces, finished = Asked(engine, Question(QUESTIONS[0], max_new_tokens=9, in_pieces=False)).finished()
    assert (pieces, finished.answer.text) == ([], whole)
    stopped = Question(QUESTIONS[0], max_new_tokens=9, in_pieces=False, stop=(whole[5:8],))
    assert Asked(engine, stopped).finished()[1].answer.text == whole[: whole.index(whole[5:8])]


def test_decoded_thoughts_come_on_request(engine: Engine, reasoner: LatentReasoner) -> None:
    _, finished = Asked(engine, Question(QUESTIONS[0], decoded_thoughts=True, max_new_tokens=2)).finished()
    expected = reasoner.decode_thoughts(QUESTIONS[0])
    assert finished.decoded is not None
    for found, wanted in zip(finished.decoded, expected, strict=True):
        assert [token for token, _ in found] == [token for token, _ in wanted]
    assert Asked(engine, Question(QUESTIONS[0], max_new_tokens=2)).finished()[1].decoded is None


def test_a_long_answer_holds_no_short_one_back(engine: Engine) -> None:
    ended: list[str] = []
    events = {"long": threading.Event(), "short": threading.Event()}

    def deliver(name: str) -> Any:
        def note(event: Any) -> None:
            if isinstance(event, Finished):
                ended.append(name)
                events[name].set()

        return note

    engine.submit(Question(QUESTIONS[0], mode="explicit", max_new_tokens=100), deliver("long"))
    engine.submit(Question(QUESTIONS[1], max_new_tokens=2), deliver("short"))
    assert events["short"].wait(30)
    assert events["long"].wait(30)
    assert ended == ["short", "long"]


def test_a_full_queue_refuses_and_takes_again(reasoner: LatentReasoner) -> None:
    engine = Engine(reasoner, max_batch=1, max_waiting=2)
    busy = threading.Event()
    engine.submit(Question(QUESTIONS[0], max_new_tokens=100), lambda _: busy.wait(30))  # holds the worker
    while engine.load()[0]:
        time.sleep(0.001)
    waiting = [Asked(engine, Question(QUESTIONS[1], max_new_tokens=1)) for _ in range(2)]
    with pytest.raises(
        EngineBusy, match="2 questions are waiting and 1 more were asked; at most 2"
    ) as refused:
        Asked(engine, Question(QUESTIONS[1]))
    assert refused.value.retry_after >= 1
    engine.cancel(waiting[0].job)  # a client that hangs up frees its place
    waiting[0] = Asked(engine, Question(QUESTIONS[2], max_new_tokens=1))
    busy.set()
    assert [one.finished()[1].written_tokens <= 1 for one in waiting] == [True, True]
    engine.close()


def test_a_cancelled_answer_is_no_longer_written(engine: Engine) -> None:
    first = threading.Event()
    pieces: list[Any] = []

    def deliver(event: Any) -> None:
        pieces.append(event)
        first.set()

    job = engine.submit(Question(QUESTIONS[0], mode="explicit", max_new_tokens=120), deliver)
    assert first.wait(30)
    engine.cancel(job)
    Asked(engine, Question(QUESTIONS[1], max_new_tokens=3)).finished()
    assert engine.load() == (0, 0)
    assert not any(isinstance(event, Finished) for event in pieces)


def test_closing_finishes_what_was_taken(reasoner: LatentReasoner) -> None:
    engine = Engine(reasoner, max_batch=2, max_waiting=50)
    asked = [Asked(engine, Question(QUESTIONS[n % 3], max_new_tokens=8)) for n in range(20)]
    engine.close()
    assert all(one.events.qsize() for one in asked)
    expected = reasoner.answer(QUESTIONS, max_new_tokens=8)
    assert [one.finished()[1].answer for one in asked] == [expected[n % 3] for n in range(20)]
    with pytest.raises(EngineDown, match="shutting down"):
        engine.submit(Question(QUESTIONS[0]), print)


def test_bad_questions_are_refused_before_they_wait(engine: Engine) -> None:
    for question, said in (
        (Question(" "), "The question is empty"),
        (Question("apples " * 300), "has 300 tokens"),
        (Question(QUESTIONS[0], mode="telepathy"), "telepathy"),
        (Question(QUESTIONS[0], mode="explicit", latents=3), "3 latents were asked for"),
    ):
        with pytest.raises(UsageError, match=said):
            Asked(engine, question)
    with pytest.raises(UsageError, match="all must be 1 or more"):
        Engine(engine.reasoner, max_batch=0)


@pytest.mark.parametrize("part", ["read", "think", "logits"])
def test_one_broken_batch_does_not_stop_the_rest(
    engine: Engine, reasoner: LatentReasoner, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(reasoner.model, part, lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Asked(engine, Question(QUESTIONS[0])).finished()
    (expected,) = reasoner.answer(QUESTIONS[:1], max_new_tokens=8)
    assert Asked(engine, Question(QUESTIONS[0], max_new_tokens=8)).finished()[1].answer == expected


# --- one running batch ---


@pytest.mark.parametrize(("family", "fixed"), [("gpt2", False), ("llama", False), ("gpt2", True)])
def test_whatever_comes_and_goes_a_text_is_the_one_alone(family: str, fixed: bool) -> None:
    """Four clients ask at random times, some leave: every text is that of the question asked alone.

    fixed: the engine answers in fixed shapes, as on CUDA; the question alone is answered plainly.
    """
    mind = random_answers(family)
    asking = LatentReasoner(mind.model, mind.method, mind.tokenizer, mind.text_format)
    if fixed:
        asking.fixed = FixedAnswering(mind.model)
    options: list[dict[str, Any]] = [
        {}, {"mode": "explicit"}, {"latents": 0}, {"latents": 5}, {"max_new_tokens": 2},
        {"sampling": Sampling(1.0, seed=5)}, {"mode": "explicit", "sampling": Sampling(0.7, 9, 0.8, seed=-6)},
    ]  # fmt: skip
    engine = Engine(asking, max_batch=5, max_waiting=200, max_positions=400)
    asked: list[tuple[Asked, Question]] = []

    def client(number: int) -> None:
        rng = random.Random(f"{family} {number}")
        for _ in range(14):
            chosen = {"max_new_tokens": rng.randint(1, 25), **rng.choice(options)}
            question = Question(rng.choice(LONG_AND_SHORT), number=rng.randint(0, 3), **chosen)
            one = Asked(engine, question)
            if rng.random() < 0.2:
                time.sleep(rng.random() * 0.01)
                engine.cancel(one.job)
            else:
                asked.append((one, question))
            time.sleep(rng.random() * 0.02)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    ends = [(one.finished(), question) for one, question in asked]
    engine.close()
    for (pieces, finished), question in ends:
        expected = alone(mind, question)
        assert "".join(pieces) == finished.answer.text == expected.text
        assert finished.answer == expected
    assert len(ends) > 30
    if asking.fixed is not None:
        assert asking.fixed.failure is None
        assert asking.fixed.recorded >= 4


def test_rows_that_are_done_stay_in_their_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is copied to other buffers for every answer that ends, or is no longer wanted."""
    mind = random_answers("gpt2")
    loads, load = list[int](), FixedContext.load

    def noted(self: FixedContext, context: Context) -> None:
        loads.append(context.rows)
        load(self, context)

    monkeypatch.setattr(FixedContext, "load", noted)
    limits = [2, 3, 4, 6, 12, 12, 12, 12]
    questions = [
        Question("How many?", max_new_tokens=limit, ignore_eos=True, sampling=Sampling(1.0, seed=limit))
        for limit in limits
    ]
    answers = []
    for fixed in (None, FixedAnswering(mind.model, at_once=True)):
        asking = LatentReasoner(mind.model, mind.method, mind.tokenizer, mind.text_format)
        asking.fixed = fixed
        engine, ends = Engine(asking, max_batch=8), [list[Any]() for _ in questions]
        engine.submit_all(questions, [end.append for end in ends])
        engine.close()
        answers.append([end[-1].answer for end in ends])
    assert [answer.answer_tokens for answer in answers[0]] == limits
    assert answers[0] == answers[1]
    assert loads == [8, 8]  # one of them to record


LONG_AND_SHORT = ["How many?", "Ben has 4 pens.", "Tom has 7 stamps. " * 5, "She finds 5 more apples. " * 9]


def random_answers(family: str) -> LatentReasoner:
    return tiny_reasoner_of(Codi(latents=2), tiny_model(family))


def alone(mind: LatentReasoner, question: Question) -> Any:
    """As number `question.number` of a list: that is what a choice's number stands for."""
    sampling = question.sampling
    return mind.answer(
        [question.text] * (question.number + 1), mode=question.mode, latents=question.latents, batch_size=1,
        max_new_tokens=question.max_new_tokens, temperature=sampling.temperature, top_k=sampling.top_k,
        top_p=sampling.top_p, seed=sampling.seed,
    )[-1]  # fmt: skip


def test_questions_that_come_one_after_the_other_are_written_together(
    engine: Engine, reasoner: LatentReasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each joins at the next token, though they think differently; a pass serves all that are there."""
    rows: list[int] = []
    usual = reasoner.model.read

    def read(tokens: Any, after: Any = None, hidden_states: bool = False) -> Any:
        if after is not None and tokens.ids.shape[1] == 1:
            rows.append(after.rows)
            if len(rows) < 4:  # one more comes while these are written
                asked.append(Asked(engine, Question(QUESTIONS[0], max_new_tokens=30, latents=len(rows))))
        return usual(tokens, after, hidden_states)

    monkeypatch.setattr(reasoner.model, "read", read)
    asked = [Asked(engine, Question(QUESTIONS[0], max_new_tokens=30, mode="explicit"))]
    asked[0].finished()
    for one in asked[1:]:
        one.finished()
    assert len(asked) == 4
    assert max(rows) == 4
    assert len(rows) < 40  # 30 tokens, each after one pass, for all four


def test_many_long_rationales_hold_no_short_answer_back(reasoner: LatentReasoner) -> None:
    engine = Engine(reasoner, max_batch=4, max_waiting=40)
    ended: list[str] = []
    done = threading.Event()

    def deliver(name: str) -> Any:
        def note(event: Any) -> None:
            if isinstance(event, Finished):
                ended.append(name)
                if len(ended) == 11:
                    done.set()

        return note

    for _ in range(10):
        engine.submit(Question(QUESTIONS[0], mode="explicit", max_new_tokens=60), deliver("long"))
    engine.submit(Question(QUESTIONS[1], max_new_tokens=2), deliver("short"))
    assert done.wait(60)
    assert ended[0] == "short"
    engine.close()


def test_questions_may_be_submitted_from_many_threads(engine: Engine, reasoner: LatentReasoner) -> None:
    expected = {text: reasoner.answer([text], max_new_tokens=3)[0] for text in QUESTIONS}
    found: list[bool] = []

    def client(number: int) -> None:
        for n in range(5):
            text = QUESTIONS[(n + number) % 3]
            found.append(
                Asked(engine, Question(text, max_new_tokens=3)).finished()[1].answer == expected[text]
            )

    clients = [threading.Thread(target=client, args=(number,)) for number in range(6)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    assert found == [True] * 30


def test_what_can_never_fit_is_refused_as_such(reasoner: LatentReasoner) -> None:
    engine = Engine(reasoner, max_batch=2, max_waiting=4, max_positions=24)
    for call, said in (
        (lambda: engine.submit_all([Question(QUESTIONS[0])] * 5, [print] * 5), "5 answers .* at most 4"),
        (lambda: engine.submit(Question(QUESTIONS[2]), print), "at most 24"),
        (lambda: engine.submit(Question("apples " * 10_000), print), "70,000 characters"),
        (lambda: engine.submit(Question("how many \ud83d apples ?"), print), r"U\+D83D.* place 10"),
        (lambda: engine.submit(Question(QUESTIONS[0], latents=-1), print), "0 or more"),
        (lambda: engine.submit(Question(QUESTIONS[0], logprobs=-1), print), "0 or more"),
    ):
        with pytest.raises(UsageError, match=said):
            call()
    short = Asked(engine, Question(QUESTIONS[1], mode="explicit", max_new_tokens=100)).finished()[1]
    assert not short.answer.finished
    assert 4 + short.written_tokens <= 24  # written up to the bound
    engine.close()


def test_nothing_waits_for_a_model_that_hangs(
    reasoner: LatentReasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    usual = reasoner.start

    def start(*arguments: Any) -> Any:
        goes_on.wait(60)
        return usual(*arguments)

    monkeypatch.setattr(reasoner, "start", start)
    engine = Engine(reasoner)
    with pytest.raises(EngineDown, match=r"no first answer after 0\.05 seconds"):
        engine.warm_up(timeout=0.05)
    asked = [Asked(engine, Question(QUESTIONS[n])) for n in range(2)]
    engine.close(timeout=0.05)
    for one in asked:
        with pytest.raises(EngineDown, match="did not finish within"):
            one.finished()
    with pytest.raises(EngineDown):
        engine.submit(Question(QUESTIONS[0]), print)
    goes_on.set()
    engine._thread.join(30)
    assert not engine._thread.is_alive()
    assert all(one.events.empty() for one in asked)  # each was told once


def test_a_first_answer_that_fails_is_said(reasoner: LatentReasoner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reasoner, "start", lambda *_: 1 / 0)
    engine = Engine(reasoner)
    with pytest.raises(ZeroDivisionError):
        engine.warm_up()
    engine.close()


def test_timing_and_counts(engine: Engine) -> None:
    timing = Asked(engine, Question(QUESTIONS[0], max_new_tokens=5)).finished()[1].timing
    assert timing is not None
    assert 0 <= timing.queued <= timing.first_token <= timing.total
