"""Answering with CUDA graphs, on a GPU: `pytest -m gpu`. What holds without one: test_static_answering.py."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from codi.generation.decoding import decode
from codi.generation.fixed_answering import FixedAnswering
from codi.generation.latent_reasoner import LatentReasoner
from codi.generation.sampling import Sampling
from codi.methods.codi import Codi
from codi.methods.cot_sft import CotSft
from codi.methods.method import Method
from codi.modeling.configuration import ModelConfig
from codi.modeling.model import ThoughtModel
from test_static_answering import QUESTIONS, answering, said, ways
from tiny_models import LORA, reasoner

pytestmark = pytest.mark.gpu
GPT2 = {"model_type": "gpt2", "vocab_size": 50_257}


def on_gpu(method: Method, family: str = "gpt2", **changes: Any) -> LatentReasoner:
    made = answering(method, family, **changes)
    made.model.to("cuda")
    made.fixed = FixedAnswering(made.model, at_once=True)
    return made


def gpt2_sized(method: Method, dtype: torch.dtype) -> LatentReasoner:
    torch.manual_seed(0)
    model = ThoughtModel(ModelConfig(base_config=GPT2)).to("cuda", dtype)
    made = reasoner(method, model)
    made.fixed = FixedAnswering(model, at_once=True)
    return made


@contextmanager
def no_sync() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("method", "mode"), ways())
def test_graphs_answer_as_the_plain_path(method: Method, mode: str) -> None:
    made = on_gpu(method, "llama")
    for options in ({}, {"temperature": 0.9, "top_p": 0.9, "seed": 3}):
        asked: dict[str, Any] = {"mode": mode, "max_new_tokens": 12, **options}
        expected = plain_off(made).answer(QUESTIONS, **asked)
        for _ in range(2):  # recorded, then replayed
            assert made.answer(QUESTIONS, **asked) == expected
        assert made.answer(QUESTIONS, batch_size=1, **asked) == expected
    assert made.fixed is not None
    assert made.fixed.failure is None
    assert made.fixed.recorded >= 4


def plain_off(made: LatentReasoner) -> LatentReasoner:
    return LatentReasoner(made.model, made.method, made.tokenizer, made.text_format, graphs="off")


@pytest.mark.parametrize("autocast", [False, True])
def test_with_adapters_and_under_mixed_precision(autocast: bool) -> None:
    made = on_gpu(Codi(latents=3), "gpt2", lora=LORA)
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        found = [made.answer(QUESTIONS, max_new_tokens=12) for _ in range(3)]
    assert found[0] == found[1] == found[2]
    assert made.fixed is not None
    assert made.fixed.failure is None
    if not autocast:
        assert found[0] == plain_off(made).answer(QUESTIONS, max_new_tokens=12)


def test_weights_that_learn_on_are_seen() -> None:
    made = on_gpu(Codi(latents=3))
    before = made.answer(QUESTIONS, max_new_tokens=12)
    with torch.no_grad():
        for weight in made.model.parameters():
            weight.mul_(1.3)
    after = made.answer(QUESTIONS, max_new_tokens=12)
    assert after != before
    assert after == plain_off(made).answer(QUESTIONS, max_new_tokens=12)


@torch.no_grad()
def test_nothing_waits_in_a_start_or_a_step() -> None:
    made = on_gpu(Codi(latents=3))
    encoded = [made.text.question(question) for question in QUESTIONS]
    fixed, tokens = made.fixed, torch.tensor([7, 8, 9, 10], device="cuda")
    assert fixed is not None
    start = made.start(encoded)
    writing = fixed.lend(start.context, tokens, made)  # both are recorded now
    assert writing is not None
    with no_sync():
        again = made.start(encoded)
        writing.step(tokens)
        writing.keep()
        logits = writing.step(tokens)
        writing.keep()
    assert again.context.rows == 4
    assert logits.isfinite().all()


class Looking(Codi):
    """Looks at a value while it thinks."""

    def start(self, model: ThoughtModel, *args: Any, **options: Any) -> Any:
        begun = super().start(model, *args, **options)
        assert float(begun.context.last_hidden.sum()) != 0
        return begun


def test_a_look_at_a_value_ends_recording_and_no_answer_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    made = on_gpu(Looking(latents=3))
    before = torch.cuda.current_stream()
    found = [made.answer(QUESTIONS, max_new_tokens=8) for _ in range(2)]
    assert found == [plain_off(made).answer(QUESTIONS, max_new_tokens=8)] * 2
    assert len(said(caplog)) == 1
    assert torch.cuda.current_stream() == before
    # Another model's recordings are not touched by it.
    other = on_gpu(Codi(latents=3))
    expected = plain_off(other).answer(QUESTIONS, max_new_tokens=8)
    assert [other.answer(QUESTIONS, max_new_tokens=8) for _ in range(2)] == [expected] * 2
    assert other.fixed is not None
    assert other.fixed.failure is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_taken_for_no_fault(dtype: torch.dtype) -> None:
    made = gpt2_sized(Codi(latents=6), dtype)
    for size in (1, 4):
        made.answer(QUESTIONS, batch_size=size, max_new_tokens=5)
    assert made.fixed is not None
    assert made.fixed.failure is None
    assert made.fixed.recorded >= 4


@torch.no_grad()
def test_time_of_an_answer_at_batch_1() -> None:
    """No time is asserted; what is printed is for the reader (`-s`)."""
    for name, method in {"codi": Codi(latents=6), "cot-sft": CotSft()}.items():
        made = gpt2_sized(method, torch.bfloat16)
        encoded = [made.text.question(QUESTIONS[0])]
        written = 3 if name == "codi" else 30

        def answer(fixed: bool) -> list[list[int]]:
            one = made if fixed else plain_off(made)  # noqa: B023 (called in this turn alone)
            start = one.start(encoded)  # noqa: B023
            rows = decode(one.model, start, -1, written, Sampling(), 0, one.fixed)  # noqa: B023
            return [row.ids for row in rows]

        for fixed in (False, True):
            times = list[float]()
            for _ in range(13):
                torch.cuda.synchronize()
                began = time.perf_counter()
                ids = answer(fixed)
                times.append(1e3 * (time.perf_counter() - began))
            print(f"{name}, {written} tokens, graphs {fixed}: {statistics.median(times[3:]):.2f} ms")
            assert len(ids[0]) == written
        assert made.fixed is not None
        assert made.fixed.failure is None


def test_memory_is_given_back() -> None:
    left = list[int]()
    for _ in range(3):
        made = on_gpu(Codi(latents=3))
        made.answer(QUESTIONS, max_new_tokens=8)
        del made
        gc.collect()
        torch.cuda.empty_cache()
        left.append(torch.cuda.memory_reserved())
    assert left[2] <= left[1] <= left[0]
