"""Nothing that a request does, and nothing that fails, ends the engine or harms another's answer."""

from __future__ import annotations

import gc
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import codi
from codi.errors import CodiError
from codi.generation.fixed_answering import FixedAnswering, Writing
from codi.generation.latent_reasoner import LatentReasoner
from codi.generation.sampling import Sampling
from codi.modeling.context import Context
from codi.serving.engine import Engine, EngineBusy, EngineDown, Finished, Piece, Question
from codi.serving.running_batch import RunningBatch
from tiny_checkpoints import tiny_reasoner

QUESTIONS = [
    "Mia has 3 apples and buys 4 more . How many apples does Mia have ?",
    "How many apples ?",
    "On Monday the price rises by 2 dollars . What does it cost now ?",
]
SOURCES = str(Path(codi.__file__).parent)
ENGINES_OWN = (
    "engine.py",
    "running_batch.py",
    "waiting_line.py",
    "failures.py",
    "job.py",
    "pace.py",
    "prompt_scoring.py",
)
"""A fault in the engine's own code may end it: then everybody is told so."""


class Injected(Exception):
    """A fault put in by a test."""


@pytest.fixture(scope="module")
def reasoner() -> LatentReasoner:
    return tiny_reasoner("codi", latents=2)


class Load:
    """Questions of every kind, submitted at once, and what came of them."""

    def __init__(self, number: int = 6, **options: Any) -> None:
        ways: list[dict[str, Any]] = [
            {"max_new_tokens": 6}, {"max_new_tokens": 3, "latents": 1},
            {"max_new_tokens": 5, "sampling": Sampling(1.0, top_p=0.9, seed=3)},
            {"max_new_tokens": 9, "mode": "explicit", "stop": ("never",)},
            {"max_new_tokens": 4, "logprobs": 2, "prompt_logprobs": True},
            {"max_new_tokens": 4, "decoded_thoughts": True, "in_pieces": False},
        ]  # fmt: skip
        self.questions = [
            Question(QUESTIONS[n % 3], **{**ways[n % len(ways)], **options}) for n in range(number)
        ]
        self.ends: queue.Queue[tuple[int, Any]] = queue.Queue()
        self.jobs: list[Any] = []

    def submit(self, engine: Engine) -> None:
        for number, question in enumerate(self.questions):
            try:
                self.jobs.append(engine.submit(question, self._deliver_to(number)))
            except EngineDown as error:
                self.ends.put((number, error))

    def _deliver_to(self, number: int) -> Callable[[Any], None]:
        def deliver(event: Any) -> None:
            if not isinstance(event, Piece):
                self.ends.put((number, event))

        return deliver

    def outcome(self, seconds: float = 60) -> dict[int, Any]:
        """The end of each; fails where one never comes."""
        ends = dict(self.ends.get(timeout=seconds) for _ in self.questions)
        assert len(ends) == len(self.questions)
        return ends

    def expected(self, reasoner: LatentReasoner) -> list[str]:
        return [
            reasoner.answer(
                [one.text],
                mode=one.mode,
                latents=one.latents,
                max_new_tokens=one.max_new_tokens,
                temperature=one.sampling.temperature,
                top_p=one.sampling.top_p,
                seed=one.sampling.seed,
            )[0].text
            for one in self.questions
        ]


def alive(engine: Engine, reasoner: LatentReasoner) -> None:
    """It answers, rightly, and holds nothing."""
    load = Load(2)
    load.submit(engine)
    ends = load.outcome()
    assert [ends[n].answer.text for n in range(2)] == load.expected(reasoner)
    assert engine.failure is None


@pytest.fixture
def engine(reasoner: LatentReasoner) -> Iterator[Engine]:
    engine = Engine(reasoner, max_batch=8, max_waiting=64)
    yield engine
    engine.close()


class FaultAt:
    """Raises Injected in one thread, when a function of this package is entered for the n-th time there."""

    def __init__(self) -> None:
        self.called: dict[tuple[str, str], int] = {}
        self.place: tuple[str, str] | None = None
        self.at = 1
        self.error: BaseException = Injected("injected")

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or not frame.f_code.co_filename.startswith(SOURCES):
            return
        place = (Path(frame.f_code.co_filename).name, frame.f_code.co_qualname)
        if place[1].endswith(("_work", ".__init__.<locals>.<lambda>")):
            return
        self.called[place] = self.called.get(place, 0) + 1
        if place == self.place and self.called[place] == self.at:
            raise self.error


def run_with_fault(
    reasoner: LatentReasoner, fault: FaultAt, monkeypatch: pytest.MonkeyPatch
) -> tuple[Engine, Load, dict[int, Any]]:
    """A new engine whose worker has the fault in it, under load. A raised fault takes the watcher off."""
    with monkeypatch.context() as patch:
        patch.setattr(threading, "_profile_hook", fault)
        engine = Engine(reasoner, max_batch=8, max_waiting=64)
        engine.on_batch = lambda _: None
    load = Load()
    with engine.one_at_a_time:  # all are waiting when the worker begins
        load.submit(engine)
    return engine, load, load.outcome()


def places(reasoner: LatentReasoner, monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], int]:
    """Every function of this package that the worker calls, and how often, found by watching it."""
    watch = FaultAt()
    engine, _, _ = run_with_fault(reasoner, watch, monkeypatch)
    engine.close()
    return watch.called


def test_a_fault_in_any_function_that_the_worker_calls(
    reasoner: LatentReasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in turn, at its first call or one in the middle: nobody hangs, the others' answers are right."""
    called = places(reasoner, monkeypatch)
    names = {name for _, name in called}
    for known in (
        "LatentReasoner.start", "Decoding.step", "Decoding.join", "Decoding.take", "Context.select",
        "Context.join", "ThoughtModel.read", "ThoughtModel.think", "ThoughtModel.logits", "Choice.of",
        "token_scores", "TextEncoder.decode", "LatentReasoner.answer_of", "top_tokens", "Transcript.read",
        "cut_at_stop", "Engine._send", "RunningBatch.keep", "WaitingLine.next_group", "Pace.worked",
    ):  # fmt: skip
        assert any(name.endswith(known) for name in names), f"{known} is no longer called: look again"
    expected = Load().expected(reasoner)
    hurt = 0
    for number, ((file, name), times) in enumerate(sorted(called.items())):
        at = (times + 1) // 2 if number % 2 else 1
        fault = FaultAt()
        fault.place, fault.at = (file, name), at
        engine, _, ends = run_with_fault(reasoner, fault, monkeypatch)
        if file in ENGINES_OWN:
            engine.close()  # it may fail after everybody was told
        wrong = {n: end for n, end in ends.items() if not isinstance(end, Finished)}
        for n, end in ends.items():
            if n not in wrong:
                assert end.answer.text == expected[n], f"{name}, call {at}: another's answer changed"
        if engine.failure is not None:
            assert file in ENGINES_OWN, f"a fault in {file}: {name} ended the engine"
            assert all(isinstance(end, (EngineDown, Injected)) for end in wrong.values())
            with pytest.raises(EngineDown, match="injected"):
                engine.submit(Question(QUESTIONS[0]), print)
        else:
            assert all(isinstance(end, (Injected, CodiError)) for end in wrong.values()), wrong
            assert len(wrong) <= 2, f"{name}, call {at}: a fault in one place failed {len(wrong)}"
            hurt += len(wrong)
            if file not in ENGINES_OWN:
                alive(engine, reasoner)
        engine.close()
        assert engine.load() == (0, 0)
    assert hurt > 10


def test_a_fault_in_what_answers_in_fixed_shapes(
    reasoner: LatentReasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CUDA: the plain path takes over, or a question fails alone."""
    files = ("fixed_answering.py", "fixed_context.py", "graphs.py")

    def asking() -> LatentReasoner:
        made = LatentReasoner(reasoner.model, reasoner.method, reasoner.tokenizer, reasoner.text_format)
        made.fixed = FixedAnswering(made.model, at_once=True)
        return made

    watch = FaultAt()
    run_with_fault(asking(), watch, monkeypatch)[0].close()
    expected = Load().expected(reasoner)
    called = {place: times for place, times in watch.called.items() if place[0] in files}
    for known in ("FixedAnswering.start", "FixedAnswering.lend", "Writing.step", "FixedContext.copied"):
        assert any(name == known for _, name in called), f"{known} is no longer called: look again"
    for place, times in sorted(called.items()):
        fault = FaultAt()
        fault.place, fault.at = place, (times + 1) // 2
        engine, _, ends = run_with_fault(asking(), fault, monkeypatch)
        wrong = {n: end for n, end in ends.items() if not isinstance(end, Finished)}
        assert engine.failure is None
        assert all(isinstance(end, Injected) for end in wrong.values()), wrong
        assert len(wrong) <= 2, f"{place}: a fault in one place failed {len(wrong)}"
        for n, end in ends.items():
            assert n in wrong or end.answer.text == expected[n], f"{place}: another's answer changed"
        engine.close()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), MemoryError("in the engine's own")])
def test_a_worker_that_ends_fails_everybody_at_once(
    reasoner: LatentReasoner, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    fault = FaultAt()
    fault.place, fault.at, fault.error = ("engine.py", "Engine._make_room"), 2, error
    engine, _, ends = run_with_fault(reasoner, fault, monkeypatch)
    down = [end for end in ends.values() if isinstance(end, EngineDown)]
    assert down
    assert type(error).__name__ in str(down[0])
    assert engine.failure == str(down[0])
    assert engine.load() == (0, 0)
    for call in (lambda: engine.submit(Question(QUESTIONS[0]), print), engine.warm_up):
        with pytest.raises(EngineDown, match="must be started again"):
            call()
    engine.close()
    engine.close()


# --- faults that stay with one row ---


def test_a_question_that_cannot_be_thought_about_fails_alone(
    engine: Engine, reasoner: LatentReasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, bad = reasoner.start, reasoner.text.question(QUESTIONS[1])

    def start(encoded: Any, *options: Any) -> Any:
        if bad in list(encoded):
            raise Injected("this question")
        return usual(encoded, *options)

    load = Load(9, max_new_tokens=4)
    expected = load.expected(reasoner)
    monkeypatch.setattr(reasoner, "start", start)
    with engine.one_at_a_time:
        load.submit(engine)
    for n, end in load.outcome().items():
        assert isinstance(end, Injected) if n % 3 == 1 else end.answer.text == expected[n]
    monkeypatch.undo()
    alive(engine, reasoner)


class BadSampling(Sampling):
    """Good for one token; then choosing the next one fails."""

    asked = 0

    @property
    def is_greedy(self) -> bool:
        object.__setattr__(self, "asked", self.asked + 1)
        if self.asked > 4:
            raise Injected("sampling")
        return False


def test_a_row_that_cannot_be_sampled_fails_alone(engine: Engine, reasoner: LatentReasoner) -> None:
    load = Load(9, max_new_tokens=8, mode="latent")
    expected = load.expected(reasoner)
    load.questions[4] = Question(QUESTIONS[0], max_new_tokens=60, sampling=BadSampling(1.0))
    with engine.one_at_a_time:
        load.submit(engine)
    for n, end in load.outcome().items():
        assert isinstance(end, Injected) if n == 4 else end.answer.text == expected[n]
    alive(engine, reasoner)


def test_a_row_whose_numbers_break_fails_alone(
    engine: Engine, reasoner: LatentReasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, bad = reasoner.start, reasoner.text.question(QUESTIONS[1])

    def start(encoded: Any, *options: Any) -> Any:
        begun = usual(encoded, *options)
        for row, ids in enumerate(encoded):
            if ids == bad:
                begun.context.last_hidden[row] = torch.nan
        return begun

    load = Load(9, max_new_tokens=4)
    expected = load.expected(reasoner)
    monkeypatch.setattr(reasoner, "start", start)
    load.submit(engine)
    for n, end in load.outcome().items():
        if n % 3 == 1:
            assert "not finite" in str(end)
        else:
            assert end.answer.text == expected[n]


def test_a_deliver_that_raises_ends_its_job_alone(engine: Engine, reasoner: LatentReasoner) -> None:
    told: list[Any] = []

    def broken(event: Any) -> None:
        told.append(event)
        raise Injected("the client's own")

    load = Load(6)
    for options in ({}, {"in_pieces": False}, {"max_new_tokens": 1}):
        engine.submit(Question(QUESTIONS[0], **{"mode": "explicit", "max_new_tokens": 50, **options}), broken)
    load.submit(engine)
    ends = load.outcome()
    assert [ends[n].answer.text for n in range(6)] == load.expected(reasoner)
    alive(engine, reasoner)
    assert len(told) == 3  # and it was told nothing more
    assert engine.load() == (0, 0)


def test_a_broken_metric_harms_nobody(engine: Engine, reasoner: LatentReasoner) -> None:
    def broken(_: int) -> None:
        raise Injected("metrics")

    engine.on_batch = broken
    alive(engine, reasoner)


# --- memory ---


def out_of_memory(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_where_memory_runs_out_rows_begin_anew_and_none_is_lost(
    engine: Engine, reasoner: LatentReasoner, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """More than four rows at a time do not fit: all are answered all the same, each as it would be alone."""
    usual = reasoner.model.read

    def read(tokens: Any, after: Any = None, hidden_states: bool = False) -> Any:
        if after is not None and after.rows > 4 and tokens.ids.shape[1] == 1:
            raise error
        return usual(tokens, after, hidden_states)

    load = Load(8, max_new_tokens=12, mode="latent", latents=None, stop=(), sampling=Sampling(1.0, seed=9))
    expected = load.expected(reasoner)
    monkeypatch.setattr(reasoner.model, "read", read)
    with engine.one_at_a_time:
        load.submit(engine)
    ends = load.outcome()
    answered = [n for n, end in ends.items() if isinstance(end, Finished)]
    assert [ends[n].answer.text for n in answered] == [expected[n] for n in answered]
    assert len(answered) >= 4
    for n, end in ends.items():
        if n not in answered:
            assert isinstance(end, EngineBusy)
            assert end.retry_after >= 1
    monkeypatch.undo()
    alive(engine, reasoner)


def test_where_memory_runs_out_what_is_recorded_is_let_go(
    reasoner: LatentReasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = LatentReasoner(reasoner.model, reasoner.method, reasoner.tokenizer, reasoner.text_format)
    made.fixed = fixed = FixedAnswering(made.model, at_once=True)
    step, recorded = Writing.step, list[int]()

    def without_memory(self: Writing, tokens: Any) -> Any:
        recorded.append(fixed.recorded)
        if len(recorded) == 3:
            out_of_memory()
        return step(self, tokens)

    monkeypatch.setattr(Writing, "step", without_memory)
    engine = Engine(made)
    load = Load(4, max_new_tokens=12, mode="latent", latents=None, stop=(), sampling=Sampling(1.0, seed=9))
    with engine.one_at_a_time:
        load.submit(engine)
    ends, expected = load.outcome(), load.expected(reasoner)
    engine.close()
    assert [ends[n].answer.text for n in sorted(ends)] == expected
    assert recorded[2] == 2  # the thinking and the writing
    assert recorded[3] == 1  # the writing of those who were kept


def test_a_question_for_which_there_is_never_memory_is_refused(
    engine: Engine, reasoner: LatentReasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("read", "think", "logits"):
        with monkeypatch.context() as patch:
            patch.setattr(reasoner.model, name, out_of_memory)
            load = Load(2, mode="latent", latents=1)
            load.submit(engine)
            for end in load.outcome().values():
                assert isinstance(end, EngineBusy)
                assert "out of memory" in str(end)
        alive(engine, reasoner)


def test_a_broken_device_ends_the_engine_and_says_so(
    reasoner: LatentReasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    engine = Engine(reasoner)
    monkeypatch.setattr(reasoner.model, "logits", broken)
    load = Load(3)
    load.submit(engine)
    assert all(isinstance(end, EngineDown) for end in load.outcome().values())
    assert engine.failure is not None
    assert "device-side assert" in engine.failure
    engine.close()


def test_rows_are_bounded_by_positions_and_write_what_they_write_alone(reasoner: LatentReasoner) -> None:
    """A server that holds two or three rows: the newest begin anew, and nobody is told a word twice."""
    engine = Engine(reasoner, max_batch=8, max_waiting=64, max_positions=160)
    widths: list[int] = []
    usual = engine._batch.write

    def write() -> None:
        widths.append(len(engine._batch.answering) * engine._batch.width)
        usual()

    engine._batch.write = write  # type: ignore[method-assign]
    load = Load(
        8, max_new_tokens=40, mode="explicit", latents=None, stop=(), in_pieces=True, sampling=Sampling()
    )
    texts: dict[int, str] = dict.fromkeys(range(8), "")
    ends: queue.Queue[tuple[int, Any]] = queue.Queue()

    def deliver_to(n: int) -> Callable[[Any], None]:
        def deliver(event: Any) -> None:
            if isinstance(event, Piece):
                texts[n] += event.text
            else:
                ends.put((n, event))

        return deliver

    for n, question in enumerate(load.questions):
        engine.submit(question, deliver_to(n))
    found = dict(ends.get(timeout=60) for _ in range(8))
    expected = load.expected(reasoner)
    assert [found[n].answer.text for n in range(8)] == expected
    assert [texts[n] for n in range(8)] == expected
    assert 120 < max(widths) <= 160  # several at a time, all the same
    engine.close()


# --- many faults, and nothing is left behind ---


def held() -> int:
    """Contexts that are still alive."""
    gc.collect()
    return sum(isinstance(thing, Context) for thing in gc.get_objects())


def test_faults_everywhere_under_load_leave_nothing_behind(
    engine: Engine, reasoner: LatentReasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every few calls one fails, in one way or another: nobody hangs, the rest is right."""
    rng, calls = random.Random(5), 0
    before, threads = held(), threading.active_count()

    def sometimes(usual: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls % 23 == 0:
                raise rng.choice(
                    [Injected("now"), torch.OutOfMemoryError("out of memory"), ValueError("now")]
                )
            return usual(*arguments, **options)

        return call

    loads = [Load(12) for _ in range(8)]
    expected = loads[0].expected(reasoner)
    for owner, name in (
        (reasoner, "start"), (reasoner, "answer_of"), (reasoner.model, "read"), (reasoner.model, "logits"),
        (reasoner.text, "decode"), (Context, "select"), (Context, "narrowed"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, sometimes(getattr(owner, name)))
    right = failed = 0
    for load in loads:
        while True:
            try:
                load.submit(engine)
                break
            except EngineBusy:
                time.sleep(0.01)
        ends = load.outcome()
        for n, end in ends.items():
            if isinstance(end, Finished):
                assert end.answer.text == expected[n]
                right += 1
            else:
                assert isinstance(end, (Injected, ValueError, EngineBusy))
                failed += 1
        del ends
    assert right > 30
    assert failed > 5
    monkeypatch.undo()
    alive(engine, reasoner)
    loads.clear()
    del load, end
    assert held() == before
    assert threading.active_count() == threads
    assert engine.load() == (0, 0)
    assert isinstance(engine._batch, RunningBatch)
    assert engine._batch.answering == []
