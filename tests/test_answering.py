"""Answers do not depend on the batch they are in; counts of thoughts and passes are what the paper counts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from codi.errors import CheckpointError, UsageError
from codi.generation.answer import Answer
from codi.generation.decoding import Sampling
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.codi import Codi
from codi.methods.cot_sft import CotSft
from codi.methods.method import Method
from codi.methods.no_cot_sft import NoCotSft
from codi.methods.pause_tokens import PauseTokens
from codi.modeling.configuration import TextFormat
from codi.modeling.context import Tokens
from tiny_models import EXAMPLES, LORA, byte_level_tokenizer, reasoner, tiny_model

QUESTIONS = [example.question for example in EXAMPLES] + ["She has 12 pens.", "The answer is: 3"]
METHODS_AND_MODES = [
    (Codi(latents=3), "latent"),
    (Codi(latents=0), "latent"),
    (Codi(latents=3), "explicit"),
    (CotSft(), "explicit"),
    (NoCotSft(), "direct"),
    (PauseTokens(pauses=1), "direct"),
]
SAMPLED = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "seed": 3}


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral"])
@pytest.mark.parametrize(
    ("method", "mode"), METHODS_AND_MODES, ids=lambda v: v if isinstance(v, str) else v.name
)
def test_batch_of_one_equals_batch_of_64(method: Method, mode: str, family: str) -> None:
    asked = reasoner(method, tiny_model(family))
    for sampling in ({}, SAMPLED):
        one, many, two = (
            asked.answer(QUESTIONS, mode=mode, batch_size=n, max_new_tokens=10, **sampling)
            for n in (1, 64, 2)
        )
        assert one == many == two
        assert [answer.question for answer in one] == QUESTIONS


def rows_that_end_apart(
    method: Method, mode: str, family: str
) -> Iterator[tuple[LatentReasoner, list[Answer]]]:
    """A token that is often written first plays the end-of-sequence token: some rows end and others do not.

    Some random weights write the same to every question, so several are tried.
    """
    for seed in range(1, 9):
        asked = reasoner(method, tiny_model(family, seed=seed))
        texts = [answer.text for answer in asked.answer(QUESTIONS, mode=mode, max_new_tokens=10)]
        for token in dict.fromkeys(token for text in texts for token in asked.text.rationale([text])[4:]):
            asked.text.eos_id = token
            answers = asked.answer(QUESTIONS, mode=mode, batch_size=64, max_new_tokens=10)
            if len({answer.thoughts + answer.answer_tokens for answer in answers}) > 1:
                yield asked, answers


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral"])
@pytest.mark.parametrize(
    ("method", "mode"), METHODS_AND_MODES, ids=lambda v: v if isinstance(v, str) else v.name
)
def test_rows_that_finish_early_leave_the_batch(method: Method, mode: str, family: str) -> None:
    """The others write on as before."""
    found = next(rows_that_end_apart(method, mode, family), None)
    assert found is not None, "no row finished before another"
    asked, answers = found
    assert asked.answer(QUESTIONS, mode=mode, batch_size=1, max_new_tokens=10) == answers


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(("method", "mode"), METHODS_AND_MODES[:3])
def test_greedy_answer_is_the_argmax_of_one_long_pass(method: Codi, mode: str, family: str) -> None:
    """Without any cache: the whole sequence, thoughts included, through the causal LM at every token."""
    model = tiny_model(family)
    asked = reasoner(method, model)
    answer = asked.answer(QUESTIONS[:1], mode=mode, max_new_tokens=6)[0]
    ids = torch.tensor([asked.text.question(QUESTIONS[0])])
    with torch.no_grad():
        inputs = model.embed(ids)
        if mode == "latent":
            inputs = torch.cat([inputs, model.embed(torch.tensor([[model.bot_id]]))], 1)
            for _ in range(method.latents):
                last = model.causal(inputs_embeds=inputs, output_hidden_states=True).hidden_states[-1][:, -1:]
                inputs = torch.cat([inputs, model.projection(last)], 1)
            inputs = torch.cat(
                [inputs, model.embed(torch.tensor([[model.eot_id, *asked.text.prompt_ids]]))], 1
            )
        written = list(asked.text.prompt_ids) if mode == "latent" else []
        for _ in range(6):
            token = int(model.causal(inputs_embeds=inputs).logits[0, -1].argmax())
            if token == asked.text.eos_id:
                break
            written.append(token)
            inputs = torch.cat([inputs, model.embed(torch.tensor([[token]]))], 1)
    assert answer.text == asked.text.decode(written)


def test_thoughts_and_passes() -> None:
    model = tiny_model()
    latent = reasoner(Codi(latents=6), model).answer(QUESTIONS, max_new_tokens=5)
    for answer in latent:
        assert answer.thoughts == 8  # <bot>, six thoughts, <eot>
        assert answer.passes <= 6 + 2 + answer.answer_tokens
        assert answer.text.startswith("The answer is:")
    three = reasoner(Codi(latents=6), model).answer(QUESTIONS, latents=3, max_new_tokens=5)
    assert {answer.thoughts for answer in three} == {5}
    direct = reasoner(NoCotSft(), model).answer(QUESTIONS, max_new_tokens=5)
    assert all(answer.thoughts == 0 and answer.passes <= 1 + answer.answer_tokens for answer in direct)
    written = reasoner(CotSft(), model).answer(QUESTIONS, max_new_tokens=5)
    assert all(answer.thoughts + answer.answer_tokens <= 5 for answer in written)
    assert any(answer.thoughts > 0 for answer in written)


def test_prompt_in_one_pass_and_nothing_for_finished_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = reasoner(Codi(latents=4), tiny_model())
    shapes: list[tuple[int, int]] = []
    feed = type(asked.model).feed

    def recorded(self, inputs, *others):  # type: ignore[no-untyped-def]
        shapes.append(tuple(inputs.shape[:2]))
        return feed(self, inputs, *others)

    monkeypatch.setattr(type(asked.model), "feed", recorded)
    answers = asked.answer(QUESTIONS, max_new_tokens=6)
    thinking = 1 + 4
    assert [length for _, length in shapes[1:thinking]] == [1] * 4
    assert shapes[thinking] == (len(QUESTIONS), 1 + len(asked.text.prompt_ids))
    assert sum(rows for rows, _ in shapes) == sum(answer.passes for answer in answers)


def test_sampling_is_seeded_and_cut() -> None:
    asked = reasoner(NoCotSft(), tiny_model())
    greedy = asked.answer(QUESTIONS, max_new_tokens=6)
    assert asked.answer(QUESTIONS, max_new_tokens=6, temperature=1.0, top_k=1) == greedy
    assert asked.answer(QUESTIONS, max_new_tokens=6, temperature=1.0, top_p=1e-6) == greedy
    warm = {"temperature": 2.0, "max_new_tokens": 6}
    assert asked.answer(QUESTIONS, seed=1, **warm) == asked.answer(QUESTIONS, seed=1, **warm)
    assert asked.answer(QUESTIONS, seed=1, **warm) != asked.answer(QUESTIONS, seed=2, **warm)
    twice = asked.answer([QUESTIONS[0]] * 2, seed=1, **warm)
    assert twice[0].text != twice[1].text  # the same question asked twice draws anew


def test_the_model_stays_in_the_mode_it_was_in() -> None:
    asked = reasoner(Codi(latents=1), tiny_model())
    asked.model.train()
    asked.answer(QUESTIONS[:1], max_new_tokens=2)
    assert asked.model.training


def test_decoding_stops_where_the_model_is_full() -> None:
    asked = reasoner(NoCotSft(), tiny_model())
    answer = asked.answer([" ".join(["pens"] * 100)], max_new_tokens=256)[0]
    assert 10 < answer.answer_tokens <= 128 - 100


def test_bad_arguments() -> None:
    asked = reasoner(Codi(latents=2), tiny_model())
    direct = reasoner(NoCotSft(), tiny_model())
    for call, said in (
        (lambda: asked.answer(["fine", "  "]), "Question 2 is empty"),
        (lambda: asked.answer(QUESTIONS, batch_size=0), "1 or more"),
        (lambda: asked.answer(QUESTIONS, latents=-1), "0 or more"),
        (lambda: asked.answer(QUESTIONS, mode="explicit", latents=2), "has none"),
        (lambda: asked.answer(QUESTIONS, mode="direct"), "It can: latent, explicit"),
        (lambda: direct.answer(QUESTIONS, mode="latent"), "It has no latents"),
        (lambda: direct.answer(QUESTIONS, latents=3), "has none"),
        (lambda: asked.answer([" ".join(["pens"] * 120)]), "at most 128"),
        (lambda: asked.answer(QUESTIONS, temperature=-1), "temperature is -1"),
        (lambda: asked.answer(QUESTIONS, top_p=0), "top_p is 0"),
        (lambda: Sampling(top_k=-1), "top_k is -1"),
    ):
        with pytest.raises(UsageError, match=said):
            call()
    assert asked.answer([]) == []


def test_a_tokenizer_of_another_base() -> None:
    with pytest.raises(CheckpointError, match="belongs to the base"):
        LatentReasoner(tiny_model(), Codi(), byte_level_tokenizer(), TextFormat())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_answers_under_lora(family: str) -> None:
    asked = reasoner(Codi(latents=2), tiny_model(family, lora=LORA))
    one = asked.answer(QUESTIONS, batch_size=1, max_new_tokens=8)
    assert one == asked.answer(QUESTIONS, batch_size=64, max_new_tokens=8)
    with asked.model.backbone.disable_adapter():
        assert one != asked.answer(QUESTIONS, max_new_tokens=8)


def test_serving_ends_where_training_left_off() -> None:
    """The state that `start` hands to decoding is the one that training predicts the answer from."""
    method, model = Codi(latents=2), tiny_model("llama").eval()
    asked = reasoner(method, model)
    encoded = method.encode(EXAMPLES[0], asked.text)
    question = Tokens.repeated(encoded["question"], 1, model.device)
    start = method.start(model, asked.text, question, "latent")
    begun = model.read_two(question, Tokens.repeated([model.bot_id], 1, model.device))[1]
    y = Tokens.repeated([model.eot_id, *encoded["student"]], 1, model.device)
    trained = model.read(y, after=model.think(begun, 2)).final[0, encoded["student_distillation"]]
    torch.testing.assert_close(start.context.last_hidden[0], trained, rtol=1e-4, atol=1e-5)
    assert start.passes == 4
