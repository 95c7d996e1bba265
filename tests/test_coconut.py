"""Coconut against a step written from its paper: loss, gradients, stages, generation."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from codi.bench.coconut_literal import literal_coconut_step
from codi.data.collation import collate
from codi.errors import RecipeError
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.coconut import Coconut
from codi.methods.cot_sft import CotSft
from codi.methods.method import build_method
from codi.modeling.configuration import ModelConfig
from codi.modeling.model import ThoughtModel
from tiny_models import EXAMPLES, LORA, assert_same_gradients, gradients, reasoner, tiny_model, word_encoder

QUESTIONS = [example.question for example in EXAMPLES]


def staged_batch(method: Coconut, stage: int, rows: tuple[int, ...] = (0, 1, 2, 3)) -> dict[str, Tensor]:
    text = word_encoder()
    encoded = [method.encode(EXAMPLES[row], text) for row in rows]
    return collate([method.staged(row, stage, random.Random(0)) for row in encoded], text.pad_id)


def model_of(family: str = "llama", **settings: Any) -> ThoughtModel:
    return tiny_model(family, projection=False, **settings)


@pytest.mark.parametrize("stage", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral"])
def test_loss_and_gradients_equal_the_literal_step(family: str, stage: int) -> None:
    method, model = Coconut(), model_of(family)
    batch = staged_batch(method, stage)
    ours, literal = method.loss(model, batch), literal_coconut_step(model, batch)
    torch.testing.assert_close(ours["loss"], literal["loss"], rtol=1e-5, atol=0)
    assert_same_gradients(gradients(model, ours["loss"]), gradients(model, literal["loss"]))


def test_rows_with_fewer_thoughts_equal_each_row_alone() -> None:
    """Without padding to the maximum, rows of one batch think different numbers."""
    method, model = Coconut(pad_latent_to_max=False), model_of(lora=LORA)
    batch = staged_batch(method, 3)
    assert batch["thoughts"].tolist() == [6, 2, 4, 4]
    alone = [staged_batch(method, 3, (row,)) for row in range(4)]
    tokens = [int(one["student_mask"].sum()) for one in alone]
    together = sum(
        literal_coconut_step(model, one)["loss"] * count for one, count in zip(alone, tokens, strict=True)
    ) / sum(tokens)
    ours = method.loss(model, batch)["loss"]
    torch.testing.assert_close(ours, together, rtol=1e-5, atol=0)
    assert_same_gradients(gradients(model, ours), gradients(model, together))


def test_stage_zero_is_cot_sft_after_bot_and_eot() -> None:
    method, model, text = Coconut(), model_of(), word_encoder()
    example = EXAMPLES[0]
    batch = staged_batch(method, 0, (0,))
    ids = [*text.question(example.question), model.bot_id, model.eot_id]
    written = CotSft().encode(example, text)["teacher"]
    embedded = model.embed(torch.tensor([ids + written]))
    logits = model.causal(inputs_embeds=embedded).logits[0, len(ids) - 1 : -1]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(written))
    torch.testing.assert_close(method.loss(model, batch)["loss"], expected, rtol=1e-5, atol=0)


# --- the curriculum -----------------------------------------------------------------------------------------


def test_schedule_of_the_published_run() -> None:
    """c_thought 2, 3 epochs a stage, 3 stages, then the last: from a CoT checkpoint, 10 batches an epoch."""
    method = Coconut()
    stages = [method.stage_at(10 * epoch, 10) for epoch in range(15)]
    assert stages == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 6
    assert method.stage_at(29, 10) == 1
    assert method.stage_at(30, 10) == 2


def test_own_stage_zero_is_as_long_as_asked() -> None:
    method = Coconut(explicit_epochs=25, epochs_per_stage=1)
    assert [method.stage_at(epoch, 1) for epoch in (0, 24, 25, 26, 27, 28, 50)] == [0, 0, 1, 2, 3, 4, 4]


@pytest.mark.parametrize(
    ("stage", "pad", "left", "thoughts"),
    [(0, True, 3, 0), (1, True, 2, 2), (3, True, 0, 6), (4, True, 0, 6), (2, False, 1, 4)],
)
def test_what_a_stage_replaces(stage: int, pad: bool, left: int, thoughts: int) -> None:
    text, method = word_encoder(), Coconut(pad_latent_to_max=pad)
    row = method.staged(method.encode(EXAMPLES[0], text), stage, random.Random(0))
    steps = EXAMPLES[0].steps
    assert row["thoughts"] == thoughts
    assert row["student"] == text.rationale(steps[len(steps) - left :]) + text.answer("12").ids
    assert "step_ends" not in row


def test_last_stage_leaves_no_step_of_a_longer_problem() -> None:
    example = replace(EXAMPLES[0], steps=tuple(f"<<{n}+1={n + 1}>>" for n in range(3, 9)), answer="9")
    text, method = word_encoder(), Coconut()
    row = method.encode(example, text)
    assert len(method.staged(row, 3, random.Random(0))["student"]) > len(text.answer("9").ids)
    last = method.staged(row, 4, random.Random(0))
    assert last["student"] == text.answer("9").ids
    assert last["thoughts"] == 6


def test_mixing_draws_stages_as_it_says() -> None:
    text = word_encoder()
    proportional, uniform = Coconut(mix="proportional"), Coconut(mix="uniform", mix_share=0.4)
    row = proportional.encode(EXAMPLES[0], text)
    rng = random.Random(1)
    drawn = Counter(proportional.staged(row, 2, rng)["thoughts"] // 2 for _ in range(6000))
    assert {stage: round(count / 6000, 1) for stage, count in drawn.items()} == {0: 0.2, 1: 0.3, 2: 0.5}
    mixed = Counter(uniform.staged(row, 4, rng)["thoughts"] // 2 for _ in range(6000))
    assert mixed[3] / 6000 == pytest.approx(0.6 + 0.4 / 4, abs=0.03)  # 3 and 4 think the same number
    assert mixed[0] / 6000 == pytest.approx(0.1, abs=0.03)


# --- answering ----------------------------------------------------------------------------------------------


def uncached(asked: LatentReasoner, question: str, latents: int, tokens: int, prompt: list[int]) -> list[int]:
    """Greedy answer with the whole sequence run anew in every pass. Returns its ids."""
    model, text = asked.model, asked.text
    ids = torch.tensor([[*text.question(question), model.bot_id]])
    inputs = model.embed(ids)
    for _ in range(latents):
        states = model.causal(inputs_embeds=inputs, output_hidden_states=True).hidden_states[-1]
        inputs = torch.cat([inputs, states[:, -1:]], 1)
    inputs = torch.cat([inputs, model.embed(torch.tensor([[model.eot_id, *prompt]]))], 1)
    written: list[int] = []
    for _ in range(tokens):
        token = int(model.causal(inputs_embeds=inputs).logits[0, -1].argmax())
        if token == text.eos_id:
            break
        written.append(token)
        inputs = torch.cat([inputs, model.embed(torch.tensor([[token]]))], 1)
    return written


@pytest.mark.parametrize("stage", [None, 2])
def test_batched_cached_answers_equal_uncached_ones(stage: int | None) -> None:
    asked = reasoner(Coconut(stage=stage), model_of())
    answers = asked.answer(QUESTIONS, batch_size=4, max_new_tokens=8)
    prompt = asked.text.prompt_ids if stage is None else []
    with torch.no_grad():
        for question, answer in zip(QUESTIONS, answers, strict=True):
            ids = uncached(asked, question, 6 if stage is None else 4, 8, prompt)
            assert answer.text == asked.text.decode(prompt + ids)
    assert [a.text for a in asked.answer(QUESTIONS, batch_size=1, max_new_tokens=8)] == [
        a.text for a in answers
    ]
    if stage is None:
        assert answers[0].thoughts == 8
        assert answers[0].passes <= 8 + answers[0].answer_tokens + 1


def test_checkpoint_of_a_stage_answers_as_in_it(tmp_path: Any) -> None:
    asked = reasoner(Coconut(stage=1), model_of())
    asked.save_pretrained(tmp_path / "c")
    again = LatentReasoner.from_pretrained(tmp_path / "c", device="cpu")
    assert again.method == Coconut(stage=1)
    assert again.answer(QUESTIONS[:1], max_new_tokens=6) == asked.answer(QUESTIONS[:1], max_new_tokens=6)


# --- what it cannot do --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "started", "epochs", "options", "message"),
    [
        (ModelConfig(base="gpt2"), True, 50, {}, "model.projection=false"),
        (ModelConfig(base_config={}, projection=False), False, 50, {}, "start=FOLDER"),
        (
            ModelConfig(base="gpt2", projection=False),
            True,
            9,
            {},
            "begins after 9 epochs, but the run has 9",
        ),
    ],
)
def test_runs_that_cannot_work_are_refused(
    config: ModelConfig, started: bool, epochs: float, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        Coconut(**options).check_run(config, started, epochs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"c_thought": 0}, "c_thought is 0"),
        ({"mix": "some"}, "none, uniform, proportional"),
        ({"mix": "uniform"}, "needs a share above 0"),
        ({"mix_share": 0.5}, "needs a share above 0"),
        ({"epochs_per_stage": 0}, "epochs_per_stage is 0"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_method({"name": "coconut", **options})
