"""Answers in fixed shapes are those of the plain path: token for token, whoever else is in the batch.

On a CPU a recording calls its function again, and spoils what another one gave, as it may be on CUDA.
So all is tested here but CUDA's own recording, which the tests marked `gpu` are for.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from codi.errors import UsageError
from codi.generation import fixed_answering
from codi.generation.answer import Answer
from codi.generation.decoding import Decoding, Row, decode
from codi.generation.fixed_answering import FixedAnswering, bucket
from codi.generation.latent_reasoner import LatentReasoner
from codi.generation.same import Differs, check_same, check_same_start
from codi.generation.sampling import Choice, Sampling
from codi.methods.codi import Codi
from codi.methods.codi_adaptive import CodiAdaptive
from codi.methods.cot_sft import CotSft
from codi.methods.method import METHODS, Method, Start
from codi.modeling.context import Context, Tokens
from codi.modeling.fixed_context import FixedContext, can_be_fixed
from codi.modeling.graphs import graphs_wanted
from codi.modeling.watching import ThoughtWatcher
from strict_recorder import StrictRecorder
from test_no_waiting import SMALL, STAGED, NothingIsCopied, without_values
from tiny_models import EXAMPLES, LORA, reasoner, tiny_model, word_encoder

QUESTIONS = [example.question for example in EXAMPLES]
"""Of four lengths."""


def answering(method: Method, family: str = "gpt2", **changes: Any) -> LatentReasoner:
    """One that answers in fixed shapes, with nothing between it and them."""
    projection = method.name not in ("coconut", "lotus", "sim-cot-coconut", "pccot")
    model = tiny_model(family, projection=projection, rows=list(method.rows), **changes)
    made = reasoner(method, model)
    made.fixed = FixedAnswering(model, at_once=True)
    return made


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if "without CUDA graphs" in message]


def plain(made: LatentReasoner) -> LatentReasoner:
    return LatentReasoner(made.model, made.method, made.tokenizer, made.text_format)


@pytest.fixture(autouse=True)
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed_answering, "Recorder", StrictRecorder)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows the buffers of each token had that was written in fixed shapes."""
    found = list[int]()
    step = fixed_answering.Writing.step

    def noted(self: Any, tokens: Tensor) -> Tensor:
        found.append(self.held.rows)
        return step(self, tokens)

    monkeypatch.setattr(fixed_answering.Writing, "step", noted)
    return found


def ways() -> list[Any]:
    made: list[Any] = []
    for kind, options in SMALL.items():
        method = kind(**options)
        if method.name in STAGED:
            method = method.at_stage(STAGED[method.name])
        if method.stops:
            method = CodiAdaptive(**{**options, "stop": "never"})
        made += [pytest.param(method, mode, id=f"{method.name}-{mode}") for mode in method.modes]
    return made


# --- the answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "mode"), ways())
def test_every_method_answers_as_on_the_plain_path(
    method: Method, mode: str, steps: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    made = answering(method, "llama")
    for options in ({}, {"temperature": 0.9, "top_p": 0.9, "seed": 3}):
        asked: dict[str, Any] = {"mode": mode, "max_new_tokens": 6, **options}
        expected = plain(made).answer(QUESTIONS, **asked)
        before = len(steps)
        assert made.answer(QUESTIONS, **asked) == expected
        assert len(steps) > before
    assert made.fixed is not None
    assert made.fixed.failure is None
    assert "without CUDA graphs" not in caplog.text


def test_every_registered_method_is_asked() -> None:
    asked = {one.values[0].name for one in ways()}
    assert asked == {kind.name for kind in METHODS.values() if kind.__module__.startswith("codi.")}


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_start_and_logits_are_those_of_the_plain_path(family: str) -> None:
    made = answering(Codi(latents=3), family, **({"lora": LORA} if family == "llama" else {}))
    assert made.fixed is not None
    encoded = [made.text.question(question) for question in QUESTIONS[:3]]
    with torch.no_grad():
        ours, theirs = made.start(encoded), plain(made).start(encoded)
        assert (ours.written, ours.thoughts, ours.passes) == (theirs.written, theirs.thoughts, theirs.passes)
        assert ours.context.width == theirs.context.width
        assert torch.equal(ours.context.mask, theirs.context.mask)
        assert torch.equal(ours.context.next_position, theirs.context.next_position)
        assert ours.context.thoughts is not None
        assert theirs.context.thoughts is not None
        torch.testing.assert_close(ours.context.thoughts, theirs.context.thoughts, rtol=1e-5, atol=1e-5)
        context, tokens = theirs.context, torch.tensor([7, 8, 9])
        writing = made.fixed.lend(ours.context, tokens, made)
        assert writing is not None
        for number in range(5):
            logits = writing.step(tokens + number).clone()
            writing.keep()
            ids = (tokens + number).unsqueeze(1)
            context = made.model.read(Tokens(ids, torch.ones_like(ids)), after=context).context
            expected = made.model.logits(context.last_hidden)
            assert (logits - expected).norm() / expected.norm() < 1e-5
        back = writing.held.copied()
        assert torch.equal(back.mask, context.mask)
        assert torch.equal(back.next_position, context.next_position)
        torch.testing.assert_close(back.last_hidden, context.last_hidden, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(1.0, seed=5), Sampling(0.8, top_k=9, seed=1), Sampling(1.2, 0, 0.8)]
)
def test_a_batch_of_one_answers_as_a_batch_of_many(family: str, sampling: Sampling, steps: list[int]) -> None:
    made = answering(Codi(latents=3), family)
    asked = QUESTIONS + [f"{question} Why?" for question in QUESTIONS]

    def answers(one: LatentReasoner, batch_size: int) -> list[Answer]:
        batches = one.answer_batches(asked, batch_size=batch_size, max_new_tokens=20, sampling=sampling)
        return [answer for batch in batches for _, answer in batch]

    expected = answers(plain(made), 8)
    assert [answers(made, size) for size in (1, 3, 8)] == [expected] * 3
    assert {1, 4, 8} <= set(steps)


def test_rows_that_are_done_wait_until_a_much_smaller_batch_holds_the_others(steps: list[int]) -> None:
    made, limits = answering(CotSft()), [1, 2, 3, 4, 9, 12, 2, 40]
    encoded = [made.text.question(question) for question in QUESTIONS * 2]

    def written(fixed: FixedAnswering | None) -> list[list[int]]:
        rows = [Row(limit, Sampling(1.0), number, goes_on=True) for number, limit in enumerate(limits)]
        decoding = Decoding(made.model, made.text.eos_id, plain(made).start(encoded), rows, fixed)
        while not all(row.done for row in rows):
            decoding.step()
        return [row.ids for row in rows]

    with torch.no_grad():
        assert written(made.fixed) == written(None)
    # After the first step 7 rows of 8 are left, later two of 8, then one in buffers for two.
    assert steps == [8] * 8 + [2] * 3 + [2] * 28


def test_full_buffers_give_way_to_longer_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    made = answering(CotSft())
    lengths = list[int]()
    load = FixedContext.load

    def noted(self: FixedContext, context: Context) -> None:
        lengths.append(self.length)
        load(self, context)

    monkeypatch.setattr(FixedContext, "load", noted)
    encoded = [made.text.question(question) for question in QUESTIONS]
    with torch.no_grad():
        found = [
            decode(made.model, made.start(encoded), -1, 90, Sampling(1.0), 0, fixed)
            for fixed in (made.fixed, None)
        ]
    assert found[0] == found[1]
    assert list(dict.fromkeys(lengths)) == [64, 128]


def test_the_last_position_and_the_limits_hold(steps: list[int]) -> None:
    made = answering(CotSft())
    made.text.eos_id = -2  # never written
    room = made.model.longest_sequence
    assert room == 128
    for most in (1, 5, 256):
        answers = made.answer(QUESTIONS, max_new_tokens=most)
        assert answers == plain_with(made, eos=-2).answer(QUESTIONS, max_new_tokens=most)
        tokens = [len(made.text.question(question)) for question in QUESTIONS]
        written = [one.thoughts + one.answer_tokens for one in answers]
        assert max(written) <= most
        if most == 256:
            assert written == [room - own + 1 for own in tokens]
    assert len(steps) > 100


def plain_with(made: LatentReasoner, eos: int) -> LatentReasoner:
    other = plain(made)
    other.text.eos_id = eos
    return other


def test_a_row_that_breaks_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = answering(CotSft())
    encoded = [made.text.question(question) for question in QUESTIONS]
    with torch.no_grad():
        expected = decode(made.model, plain(made).start(encoded), -1, 8, Sampling())
        start = made.start(encoded)
        rows = [Row(8, goes_on=True) for _ in encoded]
        decoding = Decoding(made.model, -1, start, rows, made.fixed)
        decoding.step()
        assert decoding._context is not None
        for layer in decoding._context.cache.layers:
            layer.values[1] = torch.nan
        while not all(row.done for row in rows):
            decoding.step()
        assert made.fixed is not None
        assert made.fixed.failure is None  # what was compared were the others
        decoding.drop(rows)  # it held the buffers
        again = [Row(8, goes_on=True) for _ in encoded]
        others = Decoding(made.model, -1, made.start(encoded), again, made.fixed)
        others.step()
        others.step()
        assert others._writing is not None
        others._writing.held._kv[:, 1] = torch.nan
        while not all(row.done for row in again):
            others.step()
    for found in (rows, again):
        assert [row.error is not None for row in found] == [False, True, False, False]
        assert [row.ids for row in found if row.error is None] == [
            one.ids for number, one in enumerate(expected) if number != 1
        ]
    # What no number is does not stay in the buffers.
    assert made.answer(QUESTIONS, max_new_tokens=8) == plain(made).answer(QUESTIONS, max_new_tokens=8)


# --- buffers and forks --------------------------------------------------------------------------------------


def held_by(made: LatentReasoner) -> tuple[Context, FixedContext]:
    start = plain(made).start([made.text.question(question) for question in QUESTIONS[:3]])
    held = FixedContext(made.model, start.context, 4, 64)
    held.load(start.context)
    return start.context, held


@torch.no_grad()
def test_what_is_written_in_place_touches_no_fork() -> None:
    made = answering(Codi(latents=2))
    context, held = held_by(made)
    before = [layer.keys.clone() for layer in context.cache.layers]
    early = held.copied()
    width = context.width
    for token in (5, 6):
        held.set_tokens(torch.full((3,), token))
        held.read()
        held.width += 1
    later = held.copied()
    for layer, keys, first, last in zip(
        context.cache.layers, before, early.cache.layers, later.cache.layers, strict=True
    ):
        assert torch.equal(layer.keys, keys)
        assert torch.equal(first.keys, keys)
        assert last.keys.shape[2] == width + 2
        assert torch.equal(last.keys[:, :, :width], keys)
    # A copy is a context like any other: it goes on by itself, and the buffers stay as they are.
    ids = torch.full((3, 1), 5)
    more = Tokens(ids, torch.ones_like(ids))
    one, two = (made.model.read(more, after=each).context for each in (early, context))
    torch.testing.assert_close(one.last_hidden, two.last_hidden, rtol=1e-5, atol=1e-5)
    joined = Context.join([later, one]).select(torch.tensor([4, 0]))
    assert joined.mask.shape == (2, width + 2)
    assert held.width == width + 2


@torch.no_grad()
def test_a_step_that_was_not_kept_is_made_again() -> None:
    made = answering(Codi(latents=2))
    _, held = held_by(made)
    held.set_tokens(torch.tensor([9, 9, 9]))
    held.read()
    assert held.copied().width == held.width
    held.set_tokens(torch.tensor([4, 5, 6]))
    again = held.read().clone()
    _, fresh = held_by(made)
    fresh.set_tokens(torch.tensor([4, 5, 6]))
    assert torch.equal(again[:3], fresh.read()[:3])


@torch.no_grad()
def test_buffers_belong_to_one_decoding_at_a_time(steps: list[int]) -> None:
    made = answering(CotSft())
    encoded = [made.text.question(question) for question in QUESTIONS]
    alone = [one.ids for one in decode(made.model, made.start(encoded), -1, 6, Sampling())]
    steps.clear()
    both = [
        Decoding(made.model, -1, made.start(encoded), [Row(6) for _ in encoded], made.fixed) for _ in range(2)
    ]
    for _ in range(6):
        for decoding in both:
            decoding.step()
    assert [[row.ids for row in decoding.rows] for decoding in both] == [alone, alone]
    assert len(steps) == 5  # the second found them lent
    both[0].join([both[1]])  # and 8 rows go on together
    assert both[0]._writing is None
    del decoding, both
    steps.clear()
    again = decode(made.model, made.start(encoded), -1, 6, Sampling(), 0, made.fixed)
    assert [one.ids for one in again] == alone
    assert len(steps) == 5


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, seed=5)])
def test_logits_outlive_another_recording(sampling: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread's replay, between a step and the choice of its tokens, spoils all that is shared."""
    made = answering(Codi(latents=2))
    expected = [
        one.answer(QUESTIONS, max_new_tokens=6, temperature=sampling.temperature, seed=sampling.seed)
        for one in (plain(made), made)
    ]
    encoded, of, before = [made.text.question(QUESTIONS[0])] * 4, Choice.of, StrictRecorder.replays
    made.start(encoded)

    def late(self: Choice, logits: Tensor, uniforms: Any) -> Tensor:
        made.start(encoded)
        return of(self, logits, uniforms)

    monkeypatch.setattr(Choice, "of", late)
    found = made.answer(QUESTIONS, max_new_tokens=6, temperature=sampling.temperature, seed=sampling.seed)
    assert StrictRecorder.replays > before + 10
    assert [found, found] == expected


# --- what the plain path answers, and why -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "family", "reason"),
    [
        (Codi(latents=2), "mistral", "MistralForCausalLM attends in a way of its own"),
        (CodiAdaptive(latents=3, stop="confident"), "gpt2", "thinking ends by itself"),
    ],
)
def test_what_cannot_be_recorded_is_answered_plainly_and_said_once(
    method: Method, family: str, reason: str, steps: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    made = answering(method, family)
    with caplog.at_level(logging.WARNING, "codi"):
        found = [made.answer(QUESTIONS, max_new_tokens=6) for _ in range(2)]
    assert found == [plain(made).answer(QUESTIONS, max_new_tokens=6)] * 2
    [why] = said(caplog)
    assert reason in why
    assert bool(steps) is (family == "gpt2")  # where only the thinking cannot be recorded, the writing is


def test_a_question_beyond_the_largest_bucket(
    steps: list[int], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixed_answering, "LONGEST_QUESTION", 32)
    made = answering(CotSft())
    long = " ".join(["Mia has 3 apples."] * 8)
    with caplog.at_level(logging.WARNING, "codi"):
        found = made.answer([long], max_new_tokens=4)
    assert found == plain(made).answer([long], max_new_tokens=4)
    assert said(caplog) == ["Answering without CUDA graphs where a question has more than 32 tokens."]
    assert made.fixed is not None
    assert not made.fixed._thinking


def test_who_looks_on_sees_every_thought() -> None:
    made, seen = answering(Codi(latents=3)), list[int]()

    class Watching(ThoughtWatcher):
        def feed(self, number: int, context: Context, latent: Tensor) -> Tensor:
            seen.append(number)
            return latent

    made.answer(QUESTIONS, max_new_tokens=2)
    made.model.watcher = Watching()
    made.answer(QUESTIONS, max_new_tokens=2)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_after_hidden_states_were_asked_for(family: str, steps: list[int]) -> None:
    made = answering(Codi(latents=2), family)
    ids = torch.tensor([made.text.question(QUESTIONS[0])])
    made.model.read(Tokens(ids, torch.ones_like(ids)), hidden_states=True)
    made.answer(QUESTIONS, max_new_tokens=3)
    assert steps
    with torch.no_grad():
        handle = made.model.causal.base_model.register_forward_pre_hook(lambda *_: None)
        before = len(steps)
        made.answer(QUESTIONS, max_new_tokens=3)
        handle.remove()
    assert len(steps) == before


def test_weights_that_are_multiplied_for_a_while_are_not_recorded(steps: list[int]) -> None:
    made = answering(Codi(latents=2), lora=replace(LORA, multiply_once=True))
    with made.model.whole_weights():
        inside = made.answer(QUESTIONS, max_new_tokens=3)
    assert not steps
    assert made.answer(QUESTIONS, max_new_tokens=3) == inside
    assert steps


@pytest.mark.parametrize("error", [RuntimeError("operation not permitted"), torch.OutOfMemoryError("no")])
@pytest.mark.parametrize("place", ["thinking", "writing"])
def test_a_recording_that_fails_costs_no_answer(
    error: Exception, place: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = answering(Codi(latents=2))
    record, calls = StrictRecorder.record, list[int]()

    def failing(self: StrictRecorder, function: Any) -> Any:
        calls.append(1)
        if len(calls) == (1 if place == "thinking" else 2):
            raise error
        return record(self, function)

    monkeypatch.setattr(StrictRecorder, "record", failing)
    with caplog.at_level(logging.DEBUG, "codi"):
        found = [made.answer(QUESTIONS, max_new_tokens=6) for _ in range(2)]
    assert found == [plain(made).answer(QUESTIONS, max_new_tokens=6)] * 2
    [why] = said(caplog)
    assert "in failing" in caplog.text  # where it was raised, for whoever asks
    failed = 1 if place == "thinking" else 2
    assert made.fixed is not None
    if isinstance(error, torch.OutOfMemoryError):  # that shape is not tried again, all others are
        assert "memory ran out" in why
        assert made.fixed.failure is None
        assert made.fixed.recorded
        assert bool(made.fixed._thinking) is (place == "writing")
    else:
        assert "not permitted" in why
        assert len(calls) == failed


@pytest.mark.parametrize("place", ["thinking", "writing"])
def test_a_recording_that_differs_is_not_used(
    place: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = answering(Codi(latents=2))
    record = StrictRecorder.record

    def wrong(self: StrictRecorder, function: Any) -> Any:
        replay = record(self, function)

        def replayed() -> Any:
            given = replay()
            if isinstance(given, Start) and place == "thinking":
                given.context.last_hidden[2].mul_(1.01)
            if isinstance(given, Tensor) and place == "writing":
                given[0, ::2] += 0.5
            return given

        return replayed

    monkeypatch.setattr(StrictRecorder, "record", wrong)
    with caplog.at_level(logging.WARNING, "codi"):
        found = made.answer(QUESTIONS, max_new_tokens=6)
    assert found == plain(made).answer(QUESTIONS, max_new_tokens=6)
    [why] = said(caplog)
    what = "last hidden" if place == "thinking" else "logits"
    assert why.startswith(f"Answering without CUDA graphs from now on: their {what} would differ")


def test_weights_that_are_elsewhere_are_recorded_anew() -> None:
    made = answering(Codi(latents=2))
    made.answer(QUESTIONS, max_new_tokens=3)
    assert made.fixed is not None
    first = made.fixed._recorder
    made.answer(QUESTIONS, max_new_tokens=3)
    assert made.fixed._recorder is first
    made.model.to(torch.float64).to(torch.float32)
    assert made.answer(QUESTIONS, max_new_tokens=3) == plain(made).answer(QUESTIONS, max_new_tokens=3)
    assert made.fixed._recorder is not first


def test_weights_that_take_the_place_of_others_are_recorded_anew() -> None:
    made = answering(Codi(latents=2))
    made.answer(QUESTIONS, max_new_tokens=3)
    assert made.fixed is not None
    body: Any = made.model.causal.base_model
    for change in ("parameter", "module"):
        first = made.fixed._recorder
        if change == "parameter":
            body.ln_f.weight = torch.nn.Parameter(body.ln_f.weight.detach() * 2)
        else:
            body.h[0].mlp.act = torch.nn.ReLU()  # without a weight of its own
        assert made.answer(QUESTIONS, max_new_tokens=3) == plain(made).answer(QUESTIONS, max_new_tokens=3)
        assert made.fixed._recorder is not first


def test_another_model_is_not_answered_for_by_the_first() -> None:
    made, other = answering(Codi(latents=2)), answering(Codi(latents=2), "llama")
    first = made.fixed
    made.model = other.model
    assert made.answer(QUESTIONS) == plain(other).answer(QUESTIONS)
    assert made.fixed is not first


def test_memory_for_recordings_has_a_limit() -> None:
    made = answering(Codi(latents=2))
    assert made.fixed is not None
    made.fixed.most_bytes = 150_000
    for size in (1, 2, 4):
        assert made.answer(QUESTIONS, batch_size=size, max_new_tokens=6) == plain(made).answer(
            QUESTIONS, batch_size=size, max_new_tokens=6
        )
        assert 0 < made.fixed.held_bytes <= 150_000


def test_memory_that_a_recording_itself_takes_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    made, taken = answering(Codi(latents=2)), iter(range(0, 10_000_000, 400_000))
    assert made.fixed is not None
    monkeypatch.setattr(made.fixed, "_reserved", lambda: next(taken))
    made.fixed.most_bytes = 700_000
    expected = plain(made).answer(QUESTIONS, max_new_tokens=6)
    for size in (1, 2, 4, 1):
        assert made.answer(QUESTIONS, batch_size=size, max_new_tokens=6) == expected
        assert 400_000 < made.fixed.held_bytes < 700_000 + 600_000  # too many by one at most
        assert made.fixed.recorded <= 2
    made.fixed.most_bytes = 300_000
    made.fixed.let_go()
    assert made.answer(QUESTIONS, max_new_tokens=6) == expected
    assert made.fixed.held_bytes == 0


@torch.no_grad()
def test_buffers_that_are_lent_are_counted_until_they_are_given_back() -> None:
    made = answering(CotSft())
    assert made.fixed is not None
    decoding = Decoding(made.model, -1, made.start([[5, 6]]), [Row(9)], made.fixed)
    for _ in range(2):
        decoding.step()
    before = made.fixed.held_bytes
    made.fixed.let_go()
    assert made.fixed.recorded == 0
    assert 0 < made.fixed.held_bytes < before
    decoding.step()
    decoding.drop(decoding.rows)
    assert made.fixed.held_bytes == 0


def test_a_batch_that_is_too_large_is_answered_plainly(
    caplog: pytest.LogCaptureFixture, steps: list[int]
) -> None:
    made = answering(Codi(latents=2))
    assert made.fixed is not None
    made.fixed.most_bytes = 10_000
    for _ in range(2):
        assert made.answer(QUESTIONS, max_new_tokens=6) == plain(made).answer(QUESTIONS, max_new_tokens=6)
    assert made.fixed.recorded == len(steps) == 0
    assert len(said(caplog)) == 1


def test_from_a_checkpoint_masks_are_our_own(tmp_path: Path) -> None:
    """Without them nothing would be recorded."""
    answering(Codi(latents=2)).save_pretrained(tmp_path / "made")
    assert LatentReasoner.from_pretrained(tmp_path / "made", device="cpu").model.own_masks
    with pytest.raises(UsageError, match="graphs=on was asked for"):
        LatentReasoner.from_pretrained(tmp_path / "made", device="cpu", graphs="on")


def test_a_shape_is_recorded_when_it_comes_again(steps: list[int]) -> None:
    made = answering(Codi(latents=2))
    made.fixed = FixedAnswering(made.model)
    made.answer(QUESTIONS, max_new_tokens=1)
    assert not made.fixed._thinking
    made.answer(QUESTIONS, max_new_tokens=1)
    assert len(made.fixed._thinking) == 1
    made.answer(QUESTIONS[:1], max_new_tokens=5)
    assert not steps  # the tokens of one question are no other question
    made.answer(QUESTIONS[1:2], max_new_tokens=5)
    assert len(steps) == 4


def test_the_setting(caplog: pytest.LogCaptureFixture) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert not graphs_wanted("auto", cpu)
    assert [graphs_wanted(setting, cuda) for setting in ("auto", "on", "off")] == [True, True, False]
    with pytest.raises(UsageError, match=r"graphs=on was asked for, but the model is on 'cpu'"):
        graphs_wanted("on", cpu)
    with pytest.raises(UsageError, match=r"graphs is 'of'\. Did you mean 'off'"):
        graphs_wanted("of", cpu)
    made = reasoner(Codi(latents=1), tiny_model())
    assert made.fixed_answering() is None
    insists = LatentReasoner(made.model, made.method, made.tokenizer, made.text_format, graphs="on")
    with pytest.raises(UsageError, match="the model is on 'cpu'"):
        insists.answer(QUESTIONS)


def test_buckets() -> None:
    assert [bucket(number) for number in (1, 2, 3, 4, 5, 64, 65)] == [1, 2, 4, 4, 8, 64, 128]


def test_what_is_compared_is_relative_to_its_size() -> None:
    torch.manual_seed(0)
    plain_one, single, half = torch.randn(4, 300) * 1e3, torch.float32, torch.bfloat16
    check_same("logits", plain_one * (1 + 5e-5), plain_one, single)
    for other in (plain_one * (1 + 3e-4), torch.full_like(plain_one, torch.nan)):
        with pytest.raises(Differs, match="their logits would differ"):
            check_same("logits", other, plain_one, single)
    check_same("logits", plain_one * (1 + 1e-2), plain_one, half)
    check_same("logits", plain_one * (1 + 4e-2), plain_one, half, other_kernels=True)
    with pytest.raises(Differs):
        check_same("logits", plain_one * (1 + 3e-2), plain_one, half)
    broken = plain_one.clone()
    broken[1] = torch.nan
    check_same("logits", broken, broken, single)


@pytest.mark.parametrize("rows", [1, 512])
def test_one_wrong_row_is_seen_among_many_and_beside_what_all_logits_share(rows: int) -> None:
    torch.manual_seed(0)
    own = torch.randn(rows, 2_000) * 3
    plain_one = own - 90  # as GPT-2's, which are all far from 0
    found = plain_one.bfloat16().float()
    check_same("logits", found, plain_one, torch.bfloat16, other_kernels=True, centred=True)
    found[-1] += 2 * torch.randn(2_000)
    assert (found[-1] - plain_one[-1]).norm() < 5e-2 * plain_one[-1].norm()  # little of the whole
    with pytest.raises(Differs, match="their logits would differ"):
        check_same("logits", found, plain_one, torch.bfloat16, other_kernels=True, centred=True)


@torch.no_grad()
@pytest.mark.parametrize("name", ["mask", "next_position", "thoughts", "latents", "last_hidden", "cache"])
def test_every_part_of_a_start_is_compared(name: str) -> None:
    made = plain(answering(Codi(latents=2)))
    encoded = [made.text.question(question) for question in QUESTIONS]
    one, other = made.start(encoded), made.start(encoded)
    check_same_start(one, other, made.model, torch.float32)
    layer: Any = one.context.cache.layers[-1]
    part = layer.values[1, :, -1] if name == "cache" else getattr(one.context, name)[1]
    part += torch.ones((), dtype=part.dtype)
    with pytest.raises(Differs, match="values" if name == "cache" else name.replace("_", " ")):
        check_same_start(one, other, made.model, torch.float32)


# --- nothing waits for the device ---------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "mode"), ways())
def test_no_start_looks_at_a_value(method: Method, mode: str) -> None:
    model, text = answering(method, "llama").model, word_encoder()
    ids = torch.randint(5, 200, (4, 32))
    with without_values("meta", model) as moved, torch.no_grad():
        there = moved({"ids": ids})["ids"]
        start = method.start(model, text, Tokens(there, torch.ones_like(there)), mode)
    assert start.context.rows == 4


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_no_step_looks_at_a_value(family: str) -> None:
    model, text = tiny_model(family).eval(), word_encoder()
    with without_values("meta", model) as moved, torch.no_grad():
        there = moved({"ids": torch.randint(5, 200, (3, 32))})["ids"]
        start = Codi(latents=2).start(model, text, Tokens(there, torch.ones_like(there)), "latent")
        assert can_be_fixed(start.context)
        held = FixedContext(model, start.context, 4, 64)
        held.load(start.context)
        held.set_tokens(there[:, 0])
        with NothingIsCopied():
            assert held.read().shape == (4, model.bot_id)
