"""PCCoT against its paper, row by row without padding or cache; and what it is at the ends of its range."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from codi.errors import CheckpointError, RecipeError, UsageError
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.attention import attended
from codi.interpretability.cot_shift import cot_shift
from codi.interpretability.disturbed_answers import Replace
from codi.interpretability.layer_states import layer_states
from codi.interpretability.patching import PatchKeysValues
from codi.interpretability.thinking import finish, think_through
from codi.methods.codi import Codi
from codi.methods.method import build_method
from codi.methods.pause_tokens import PauseTokens
from codi.methods.pccot import LATENT, Pccot
from codi.modeling.context import Tokens
from codi.modeling.model import ThoughtModel
from codi.publishing.prompt_embeddings import prompt_embeddings
from codi.training.recipes import load_recipe
from family_literal import embedded, pccot_latents, summed_ce, whole_pass
from tiny_models import (
    EXAMPLES,
    LORA,
    assert_same_gradients,
    encoded_batch,
    gradients,
    reasoner,
    tiny_model,
    word_encoder,
)

QUESTIONS = [example.question for example in EXAMPLES]


def model_of(family: str = "llama", rows: tuple[str, ...] = (LATENT,), **settings: Any) -> ThoughtModel:
    return tiny_model(family, rows=list(rows), **{"projection": False, **settings})


def literal(model: ThoughtModel, method: Pccot) -> dict[str, Tensor]:
    """Equations of the paper, with the published code's distance."""
    text, eot = word_encoder(), model.thought_tokens[1:]
    ce_student, ce_teacher, tokens_student, tokens_teacher = torch.zeros(()), torch.zeros(()), 0, 0
    h_student, h_teacher = list[Tensor](), list[Tensor]()  # [layers, d] each
    for example in EXAMPLES:
        row = method.encode(example, text)
        question, y, r = row["question"], row["student"], row["teacher"]
        q, bot = embedded(model, question), model.thought_tokens[:1]
        x = pccot_latents(model, question, method.latents, method.rounds)
        student = whole_pass(model, q, bot, x, eot, embedded(model, y))
        at_eot = len(question) + 1 + method.latents
        ce_student = ce_student + summed_ce(student.logits[at_eot:-1], y)
        teacher = whole_pass(model, q, embedded(model, r))
        ce_teacher = ce_teacher + summed_ce(teacher.logits[len(question) - 1 : -1], r)
        tokens_student, tokens_teacher = tokens_student + len(y), tokens_teacher + len(r)
        first = 1 if method.layers == "blocks" else 0
        at_student = at_eot + row["student_distillation"]
        at_teacher = len(question) + row["teacher_distillation"]
        h_student.append(torch.stack([state[at_student] for state in student.states[first:]]))
        h_teacher.append(torch.stack([state[at_teacher] for state in teacher.states[first:]]).detach())
    ours, theirs = torch.stack(h_student, 1), torch.stack(h_teacher, 1)  # [layers, b, d]
    each = F.smooth_l1_loss(ours, theirs, reduction="none").mean((1, 2))
    scale = torch.stack([layer.std() for layer in theirs]) if method.std == "layer" else theirs.std()
    terms = {
        "student": ce_student / tokens_student,
        "distillation": (each / scale).mean(),
        "teacher": ce_teacher / tokens_teacher,
    }
    weighted = method.alpha * terms["student"] + method.beta * terms["distillation"]
    return {"loss": weighted + method.gamma * terms["teacher"], **terms}


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gpt2": ({}, {"family": "gpt2"}),
    "llama": ({"rounds": 2}, {}),
    "one deviation for all layers": ({"std": "all"}, {}),
    "projection, lora": ({}, {"projection": True, "lora": LORA}),
    "question run twice": ({"share_question": False}, {"family": "gpt2"}),
    "no rounds": ({"rounds": 0}, {}),
    "sliding window": ({}, {"family": "mistral"}),
}


@pytest.mark.parametrize("case", CASES)
def test_terms_and_gradients_equal_the_literal_ones(case: str) -> None:
    options, settings = CASES[case]
    method = Pccot(**{"latents": 5, "rounds": 3, "alpha": 0.7, "beta": 1.3, "gamma": 0.9, **options})
    model = model_of(**settings)
    theirs, ours = literal(model, method), method.loss(model, encoded_batch(method))
    assert ours.keys() == theirs.keys()
    for term, value in theirs.items():
        torch.testing.assert_close(ours[term], value, rtol=1e-5, atol=0, msg=lambda m, t=term: f"{t}: {m}")
    assert_same_gradients(gradients(model, ours["loss"]), gradients(model, theirs["loss"]))


@pytest.mark.parametrize("projection", [True, False])
def test_as_many_rounds_as_latents_are_codi(projection: bool) -> None:
    model = model_of(projection=projection)
    batch = encoded_batch(Codi())
    question = Tokens.of(batch, "question")
    begun = model.read_two(question, Tokens.repeated([model.bot_id], 4, model.device))[1]
    one_by_one, together = model.think(begun, 4), Pccot(latents=4, rounds=4).think(model, question, 4)[1]
    assert one_by_one.latents is not None
    assert one_by_one.thoughts is not None
    torch.testing.assert_close(together.latents, one_by_one.latents, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.thoughts, one_by_one.thoughts, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.last_hidden, one_by_one.last_hidden, rtol=1e-4, atol=1e-5)
    early = Pccot(latents=4, rounds=2).think(model, question, 4)[1].latents
    assert early is not None
    torch.testing.assert_close(early[:, :2], one_by_one.latents[:, :2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(early[:, 2:], one_by_one.latents[:, 2:], atol=1e-2)

    losses = [
        method.loss(model, batch) for method in (Codi(latents=4, layers="blocks"), Pccot(latents=4, rounds=4))
    ]
    for term, value in losses[0].items():
        torch.testing.assert_close(losses[1][term], value, rtol=1e-5, atol=0)


def test_no_rounds_are_pause_tokens() -> None:
    model = model_of(rows=(LATENT, "<pause>"))
    with torch.no_grad():
        model.rows["<pause>"].copy_(model.rows[LATENT])
    paused, still = PauseTokens(pauses=3), Pccot(latents=3, rounds=0)
    ours = still.loss(model, encoded_batch(still))["student"]
    torch.testing.assert_close(ours, paused.loss(model, encoded_batch(paused))["loss"], rtol=1e-5, atol=0)
    answers = [reasoner(method, model).answer(QUESTIONS, max_new_tokens=6) for method in (still, paused)]
    assert [answer.text for answer in answers[0]] == [answer.text for answer in answers[1]]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_single_rows_sum_to_the_batch(family: str) -> None:
    method, model = Pccot(latents=4, rounds=2, divide_by_std=False), model_of(family)
    batch = encoded_batch(method)
    whole = method.loss(model, batch)
    rows = [method.loss(model, encoded_batch(method, (e,)), method.divisors(batch)) for e in EXAMPLES]
    for term, value in whole.items():
        torch.testing.assert_close(sum(row[term] for row in rows), value, rtol=1e-5, atol=0)


def test_answers_do_not_hang_on_the_batch_and_count_their_passes() -> None:
    asked = reasoner(Pccot(latents=6, rounds=3), model_of("gpt2"))
    together = asked.answer(QUESTIONS, max_new_tokens=6)
    assert asked.answer(QUESTIONS, max_new_tokens=6, batch_size=1) == together
    for answer in together:
        assert answer.thoughts == 8
        assert answer.passes <= 3 + 2 + answer.answer_tokens
    written = list[int]()
    with torch.no_grad():  # the first answer by whole passes
        model, text = asked.model, asked.text
        question = text.question(QUESTIONS[0])
        x = pccot_latents(model, question, 6, 3)
        parts = [embedded(model, question), model.thought_tokens[:1], x, model.thought_tokens[1:]]
        for _ in range(6):
            logits = whole_pass(model, *parts, embedded(model, text.prompt_ids + written)).logits[-1]
            if int(logits.argmax()) == text.eos_id:
                break
            written.append(int(logits.argmax()))
    assert together[0].text == text.decode(text.prompt_ids + written)
    assert asked.answer(QUESTIONS[:1], latents=0, max_new_tokens=4)[0].passes <= 2 + 4
    assert len(asked.decode_thoughts(QUESTIONS[0])) == 6


def test_it_is_saved_with_its_row_and_refused_by_a_model_without(tmp_path: Any) -> None:
    asked = reasoner(Pccot(latents=3, rounds=2), model_of())
    asked.save_pretrained(tmp_path / "p")
    again = LatentReasoner.from_pretrained(tmp_path / "p", device="cpu")
    assert again.method == asked.method
    assert torch.equal(again.model.rows[LATENT], asked.model.rows[LATENT])
    assert again.answer(QUESTIONS, max_new_tokens=5) == asked.answer(QUESTIONS, max_new_tokens=5)
    with pytest.raises(CheckpointError, match=r"learned row '<latent>'.*only <bot>, <eot>"):
        reasoner(Pccot(), tiny_model()).answer(QUESTIONS[:1])


def test_what_looks_on_sees_the_last_round_place_by_place() -> None:
    asked = reasoner(Pccot(latents=4, rounds=2), model_of())
    thinking = think_through(asked, QUESTIONS)
    assert thinking.thoughts.shape == thinking.latents.shape == (4, 4, 32)
    assert thinking.start.context.latents is not None
    assert torch.equal(thinking.start.context.latents, thinking.latents)
    assert [context.width for context in thinking.contexts] == [
        thinking.contexts[0].width + i for i in range(4)
    ]
    usual = finish(asked, thinking.start, 5)
    same = think_through(asked, QUESTIONS, watcher=Replace(thinking.latents))
    assert finish(asked, same.start, 5) == usual
    zeros = think_through(asked, QUESTIONS, watcher=Replace(torch.zeros_like(thinking.latents)))
    assert not zeros.latents.any()
    assert not torch.allclose(zeros.start.context.last_hidden, thinking.start.context.last_hidden, atol=1e-3)
    with pytest.raises(UsageError, match="refined together"):
        think_through(asked, QUESTIONS, watcher=PatchKeysValues(thinking, 1))


def test_what_assumes_one_thought_after_the_other_says_so() -> None:
    asked = reasoner(Pccot(latents=3, rounds=2), model_of())
    with pytest.raises(UsageError, match="layers are recorded of one pass for each"):
        layer_states(asked, QUESTIONS)
    with pytest.raises(UsageError, match="all thoughts in every pass"):
        attended(asked, QUESTIONS[0])
    with pytest.raises(UsageError, match="no teacher and student to compare"):
        cot_shift(asked, EXAMPLES)


def test_exported_prompts_hold_the_last_round() -> None:
    asked = reasoner(Pccot(latents=3, rounds=2), model_of())
    prompts = prompt_embeddings(asked, QUESTIONS)
    for question, prompt in zip(QUESTIONS, prompts, strict=True):
        ids = asked.text.question(question)
        assert len(prompt) == len(ids) + 3 + 2 + len(asked.text.prompt_ids)
        with torch.no_grad():
            x = pccot_latents(asked.model, ids, 3, 2)
        torch.testing.assert_close(prompt[len(ids) + 1 : len(ids) + 4], x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rounds": -1}, "rounds is -1"), ({"std": "none"}, "'layer' or 'all'"), ({"latents": -1}, "0 or more")],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_method({"name": "pccot", **options})


def test_published_settings() -> None:
    gpt2, llama = load_recipe("gpt2-gsm8k-aug-pccot"), load_recipe("llama1b-gsm8k-aug-pccot")
    published = Pccot(latents=24, rounds=3)
    assert build_method(gpt2.method) == published
    assert build_method(llama.method) == replace(published, beta=20.0, std="all")
    for config, rate, epochs, decay in ((gpt2, 3e-3, 40, 0.01), (llama, 8e-4, 10, 0.1)):
        assert (config.model.projection, config.model.train_thought_tokens) == (False, True)
        assert config.text.answer_separator == ""
        assert config.text.distillation_token == "prompt-end"
        training = config.training
        assert (training["learning_rate"], training["num_train_epochs"]) == (rate, epochs)
        assert (training["weight_decay"], training["max_grad_norm"], training["seed"]) == (decay, 1.0, 42)
