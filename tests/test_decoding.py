"""Tokens are chosen as they are meant to be; rows that come, go and break leave the others alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from codi.errors import UsageError
from codi.generation import sampling as sampling_module
from codi.generation.decoding import BrokenLogits, Decoding, Row, Written, decode, token_scores
from codi.generation.latent_reasoner import LatentReasoner
from codi.generation.sampling import Sampling, choose
from codi.methods.codi import Codi
from codi.modeling.context import Context
from tiny_models import EXAMPLES, reasoner, tiny_model

QUESTIONS = [example.question for example in EXAMPLES]
LOGITS = torch.tensor([0.5, 2.0, -1.0, 1.0, 0.0, 3.0, -4.0])


def drawn(sampling: Sampling, uniforms: Tensor, logits: Tensor = LOGITS) -> Tensor:
    rows = logits.expand(len(uniforms), -1)
    return choose(rows, [sampling] * len(uniforms), uniforms.tolist())


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(1.0), [0, 1, 2, 3, 4, 5, 6]),
        (Sampling(2.5), [0, 1, 2, 3, 4, 5, 6]),
        (Sampling(1.0, top_k=3), [1, 3, 5]),
        (Sampling(1.0, top_k=100), [0, 1, 2, 3, 4, 5, 6]),
        (Sampling(1.0, top_p=0.9), [1, 3, 5]),  # 0.61, 0.83, 0.91
        (Sampling(1.0, top_k=3, top_p=0.9), [1, 5]),  # of the three that are left, two have 0.91
        (Sampling(0.5, top_p=0.95), [1, 5]),
    ],
)
def test_tokens_come_as_often_as_they_are_likely(sampling: Sampling, kept: list[int]) -> None:
    """Uniform numbers in equal steps through the whole of [0, 1): the shares come out exactly."""
    n = 20_000
    found = torch.bincount(drawn(sampling, (torch.arange(n) + 0.5) / n), minlength=len(LOGITS))
    expected = torch.full_like(LOGITS, -torch.inf)
    expected[kept] = LOGITS[kept]
    expected = n * (expected / sampling.temperature).softmax(-1)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=2.5)


def test_rows_are_chosen_each_in_its_own_way() -> None:
    ways = [
        Sampling(), Sampling(1.0), Sampling(0.7, top_p=0.6), Sampling(1.3, top_k=2), Sampling(1e-40),
        Sampling(9.0),
    ]  # fmt: skip
    torch.manual_seed(0)
    logits, uniforms = torch.randn(len(ways), 5000) * 3, torch.rand(len(ways)).tolist()
    together = choose(logits, ways, uniforms).tolist()
    alone = [int(choose(logits[i : i + 1], [way], [uniforms[i]])) for i, way in enumerate(ways)]
    assert together == alone
    assert [together[0], together[4]] == logits.argmax(-1)[[0, 4]].tolist()


def test_a_large_nucleus_is_not_cut_at_the_first_look() -> None:
    """A flat distribution: top_p reaches beyond the likeliest tokens that are looked at first."""
    logits = torch.zeros(5000)
    n = 1000
    found = drawn(Sampling(1.0, top_p=0.9), (torch.arange(n) + 0.5) / n, logits)
    assert len(found.unique()) == n  # every one another of 4,500
    assert chisquare(torch.histc(found.float(), 2, 0, 5000).numpy()).statistic < n  # and not the first 1,024


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e-40, 1e-12, 9e-6])
def test_tiny_temperatures_are_greedy(temperature: float) -> None:
    assert drawn(Sampling(temperature), torch.tensor([0.0, 0.3, 0.999999999])).unique().tolist() == [5]


@pytest.mark.parametrize("top_p", [1e-300, 1e-45, 1e-8, 0.5])
def test_the_likeliest_token_always_stays(top_p: float) -> None:
    assert drawn(Sampling(1.0, top_p=top_p), torch.tensor([0.0, 0.3, 0.999999999])).unique().tolist() == [5]


@pytest.mark.parametrize("sampling", [Sampling(1e-5), Sampling(1e30), Sampling(1.0), Sampling(1.0, top_k=2)])
def test_extremes_draw_a_token_that_has_a_share(sampling: Sampling) -> None:
    logits = torch.tensor([-torch.inf, 1e30, 5.0, -torch.inf])
    found = drawn(sampling, torch.tensor([0.0, 0.5, math.nextafter(1.0, 0.0)]), logits)
    assert set(found.tolist()) <= {1, 2}


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0), Sampling(1.0, top_p=0.5), Sampling(1.0, 3)])
def test_a_row_that_is_not_finite_breaks_alone(broken: float, sampling: Sampling) -> None:
    logits = LOGITS.repeat(3, 1)
    logits[1] = broken
    expected = choose(LOGITS[None], [sampling], [0.4])
    assert choose(logits, [sampling] * 3, [0.4] * 3).tolist() == [int(expected), -1, int(expected)]


def test_sampling_refuses_what_is_no_number() -> None:
    for wrong in (
        {"temperature": math.nan}, {"temperature": math.inf}, {"temperature": -1e-9}, {"top_p": math.nan},
        {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            Sampling(**wrong)


@pytest.mark.parametrize("seed", [0, -1, -(2**40), 2**31, 2**63 - 1, -(2**63), 2**64 + 5])
def test_any_seed_draws(seed: int) -> None:
    first, again = (torch.rand(3, generator=Sampling(1.0, seed=seed).generator(2)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, torch.rand(3, generator=Sampling(1.0, seed=seed).generator(3)))


def test_scores_are_those_of_the_model_before_temperature() -> None:
    [first, second] = token_scores(torch.stack([LOGITS, LOGITS * 2]), torch.tensor([1, 6]), [2, 0])
    assert first.logprob == pytest.approx(float(LOGITS.log_softmax(-1)[1]))
    assert [token for token, _ in first.top] == [5, 1]
    assert first.top[1][1] == pytest.approx(first.logprob)
    assert second.logprob == pytest.approx(float((LOGITS * 2).log_softmax(-1)[6]))
    assert second.top == ()


# --- batches that change ---


def starts(asked: LatentReasoner, questions: list[str]) -> Any:
    with torch.no_grad():
        return asked.start([asked.text.question(question) for question in questions])


def rows_of(number: int) -> list[Row]:
    ways = [
        Sampling(),
        Sampling(1.0, seed=4),
        Sampling(0.8, top_p=0.9, seed=5),
        Sampling(1.5, top_k=9, seed=6),
    ]
    return [Row(8 + 5 * n, ways[n % 4], number=n, logprobs=n % 3 or None) for n in range(number)]


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral"])
def test_rows_that_come_and_go_write_what_they_write_alone(family: str) -> None:
    """Joined at every step, taken apart and put together again: the same tokens, passes and scores."""
    asked = reasoner(Codi(latents=3), tiny_model(family))
    model, eos = asked.model, asked.text.eos_id
    alone, expected = rows_of(8), []
    questions = (QUESTIONS * 2)[:8]
    for row, question in zip(alone, questions, strict=True):
        single = Decoding(model, eos, starts(asked, [question]), [row])
        while not row.done:
            single.step()
        expected.append((row.written, row.scores))
    rows, running = rows_of(8), Decoding(model, eos)
    waiting = list(zip(rows, questions, strict=True))
    while waiting or running.rows:
        if waiting:
            row, question = waiting.pop(0)
            newcomer = Decoding(model, eos, starts(asked, [question]), [row])
            newcomer.step()
            running.join([newcomer])
        halves = [running.take(running.rows[::2]), running.take(running.rows[1::2])]
        running = Decoding(model, eos)
        running.join(halves)
        running.step()
        running.drop([row for row in running.rows if row.done])
        assert running.width == max((row.width for row in running.rows), default=0)
    for row, (written, scores) in zip(rows, expected, strict=True):
        assert row.written == written
        assert [[token for token, _ in score.top] for score in row.scores] == [
            [token for token, _ in score.top] for score in scores
        ]
        found, wanted = ([score.logprob for score in many] for many in (row.scores, scores))
        assert found == pytest.approx(wanted, abs=1e-4)


def test_what_fails_in_a_step_has_changed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it fails, trying again goes on as if it had not: no uniform number is lost."""
    asked = reasoner(Codi(latents=2), tiny_model())
    model, eos = asked.model, asked.text.eos_id
    expected = decode(model, starts(asked, QUESTIONS), eos, 9, Sampling(1.2, seed=8))
    rows = [Row(9, Sampling(1.2, seed=8), number=n, logprobs=1) for n in range(len(QUESTIONS))]
    decoding = Decoding(model, eos, starts(asked, QUESTIONS), rows)

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("injected")

    places: list[tuple[Any, str]] = [
        (model, "read"), (model, "logits"), (Context, "select"),
        (torch.Tensor, "tolist"), (torch.Tensor, "log_softmax"), (torch, "searchsorted"),
    ]  # fmt: skip
    while not all(row.done for row in rows):
        for place, name in places:
            with monkeypatch.context() as patch:
                patch.setattr(place, name, broken)
                if name in ("logits", "tolist"):
                    with pytest.raises(RuntimeError, match="injected"):
                        decoding.step()
                elif name == "select" and any(row.done for row in rows):
                    with pytest.raises(RuntimeError, match="injected"):
                        decoding.drop([row for row in rows if row.done])
        decoding.step()
    assert [row.written for row in rows] == expected


def test_a_broken_row_ends_with_its_error_and_the_others_go_on() -> None:
    asked = reasoner(Codi(latents=2), tiny_model())
    start = starts(asked, QUESTIONS)
    expected = decode(asked.model, start, asked.text.eos_id, 6, Sampling())
    rows = [Row(6) for _ in QUESTIONS]
    decoding = Decoding(asked.model, asked.text.eos_id, start, rows)
    start.context.last_hidden[1] = torch.nan
    while not all(row.done for row in rows):
        decoding.step()
    assert isinstance(rows[1].error, BrokenLogits)
    assert rows[1].written == Written([], 4, False)
    assert [row.written for row in rows if row.error is None] == [expected[0], *expected[2:]]
    with pytest.raises(BrokenLogits, match="After 0 tokens the model's numbers were not finite"):
        decode(asked.model, start, asked.text.eos_id, 6, Sampling())


def test_an_empty_batch_does_nothing() -> None:
    model = tiny_model()
    empty = Decoding(model, 1)
    empty.step()
    empty.join([])
    empty.join([Decoding(model, 1)])
    empty.drop([])
    assert (empty.rows, empty.width, empty.take([]).rows) == ([], 0, [])
    assert empty.can_join


def test_a_step_of_greedy_rows_asks_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = reasoner(Codi(latents=2), tiny_model("llama"))
    rows = [Row(9) for _ in QUESTIONS]
    decoding = Decoding(asked.model, asked.text.eos_id, starts(asked, QUESTIONS), rows)
    decoding.step()
    asks: list[str] = []
    for name in ("tolist", "item", "__bool__", "__int__", "__float__", "cpu", "nonzero"):
        usual = getattr(torch.Tensor, name)

        def counted(self: Tensor, *args: Any, usual: Any = usual, name: str = name, **options: Any) -> Any:
            asks.append(name)
            return usual(self, *args, **options)

        monkeypatch.setattr(torch.Tensor, name, counted)
    decoding.step()
    assert [name for name in asks if name != "__bool__"] == ["tolist"]
    assert len(asks) <= 2  # transformers itself looks at whether there is any padding


def test_no_rounding_finds_a_token_that_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA adds shares up in parallel: sums may fall by a rounding, and one be found beyond the end."""
    logits = torch.tensor([[0.0, 3.0, 2.0, 1.0], [0.0, 3.0, 2.9, -9.0]])
    cut = [Sampling(1.0, top_k=3), Sampling(1.0, top_p=0.6)]

    def last(shares: Tensor, where: Tensor) -> Tensor:
        return torch.full((len(shares),), shares.shape[-1] - 1)

    monkeypatch.setattr(sampling_module, "_at", last)
    assert choose(logits, cut, [0.5, 0.5]).tolist() == [3, 2]
