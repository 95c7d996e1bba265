"""SIM-CoT over CODI and over Coconut: every term and gradient by hand, targets, and the decoder's life."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from codi.bench.coconut_literal import literal_coconut_step
from codi.bench.paper_literal import literal_step
from codi.data.collation import collate
from codi.errors import DataError, RecipeError
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.coconut import Coconut
from codi.methods.codi import Codi
from codi.methods.method import Method, build_method
from codi.methods.sim_cot import SimCot
from codi.methods.sim_cot_coconut import SimCotCoconut
from codi.modeling.checkpoint import TRAINING_PARTS
from codi.modeling.model import ThoughtModel
from codi.training.recipes import load_recipe
from codi.training.run import train
from family_literal import embedded, summed_ce, whole_pass
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
from tiny_runs import Interrupt, configured, run, same_weights, tiny_settings

QUESTIONS = [example.question for example in EXAMPLES]


def with_decoder(method: Method, model: ThoughtModel) -> ThoughtModel:
    """The decoder's weights are moved, so that it is not taken for the model itself."""
    torch.manual_seed(3)
    model.training_parts.update(method.training_parts(model))
    with torch.no_grad():
        for weight in model.training_parts.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model


def thoughts_by_hand(model: ThoughtModel, question: list[int], number: int) -> list[Tensor]:
    """[1, d] each: z_1 .. z_number, and the one that would be next."""
    parts = [embedded(model, question), model.thought_tokens[:1]]
    for _ in range(number + 1):
        parts.append(model.projection(whole_pass(model, *parts).h[-1:]))
    return parts[2:]


def said_by(model: ThoughtModel, latents: Tensor, step: list[int], first_position: int) -> Tensor:
    """Summed CE of the decoder. latents: [c, d]."""
    inputs = torch.cat([latents, embedded(model, step)]).unsqueeze(0)
    positions = torch.arange(inputs.shape[1]).unsqueeze(0) + first_position
    decoder: Any = model.training_parts["decoder"]
    logits = decoder(inputs_embeds=inputs, position_ids=positions).logits[0]
    return summed_ce(logits[len(latents) - 1 : -1], step)


def mean_of_slot_means(losses: list[list[Tensor]], counts: list[list[int]]) -> Tensor:
    """Both by slot."""
    means = [sum(some, torch.zeros(())) / sum(n) for some, n in zip(losses, counts, strict=True) if sum(n)]
    return torch.stack(means).mean() if means else torch.zeros(())


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gpt2": ({}, {"family": "gpt2"}),
    "llama, lora": ({}, {"family": "llama", "lora": LORA}),
    "more steps than slots": ({"latents": 1, "keep_last_step": True}, {}),
    "no latents": ({"latents": 0}, {}),
    "untied": ({"explain": 0.4, "share_question": False}, {"tied": False}),
}


@pytest.mark.parametrize("case", CASES)
def test_over_codi_terms_and_gradients_equal_the_literal_ones(case: str) -> None:
    options, settings = CASES[case]
    method = SimCot(**{"latents": 3, "alpha": 0.7, "beta": 1.3, "gamma": 0.9, "explain": 1.1, **options})
    model, text = with_decoder(method, tiny_model(**settings)), word_encoder()
    batch = encoded_batch(method)
    theirs = literal_step(model, method, batch)
    losses: list[list[Tensor]] = [[] for _ in range(method.latents + 1)]
    counts: list[list[int]] = [[] for _ in range(method.latents + 1)]
    for example in EXAMPLES:
        row = method.encode(example, text)
        z = thoughts_by_hand(model, row["question"], method.latents)
        for k, step in enumerate(row["steps"]):
            losses[k].append(said_by(model, z[k], step, 0))
            counts[k].append(len(step))
    theirs["explain"] = mean_of_slot_means(losses, counts)
    theirs["loss"] = theirs["loss"] + method.explain * theirs["explain"]

    ours = method.loss(model, batch)
    assert ours.keys() == theirs.keys() == {"loss", *method.terms}
    for term, value in theirs.items():
        assert value > 0
        torch.testing.assert_close(ours[term], value, rtol=1e-5, atol=0, msg=lambda m, t=term: f"{t}: {m}")
    found = gradients(model, ours["loss"])
    assert any(name.startswith("training_parts.decoder") for name in found)
    assert_same_gradients(found, gradients(model, theirs["loss"]))


def test_slots_over_codi_say_the_teachers_steps() -> None:
    text = word_encoder()

    def said(method: SimCot, number: int = 0) -> list[str]:
        steps = method.encode(EXAMPLES[number], text)["steps"]
        assert all(step[-1] == text.eos_id for step in steps)
        return ["".join(text.decode(step).split()) for step in steps]

    assert said(SimCot()) == ["<<3+5=8>>", "<<8*2=16>>"]
    assert said(SimCot(keep_last_step=True)) == ["<<3+5=8>>", "<<8*2=16>>", "<<16-4=12>>"]
    assert said(SimCot(latents=1, keep_last_step=True)) == ["<<3+5=8>>", "<<8*2=16>><<16-4=12>>"]
    assert said(SimCot(), 1) == []


@pytest.mark.parametrize("stage", [0, 1, 2, 4])
@pytest.mark.parametrize(
    "options",
    [{}, {"slot_mean": "tokens", "spare": "none"}, {"all_latents": True, "explain": 0.3}],
    ids=["published", "tokens, none", "all latents"],
)
def test_over_coconut_terms_and_gradients_equal_the_literal_ones(stage: int, options: dict[str, Any]) -> None:
    method = SimCotCoconut(max_stage=2, **options)
    model = with_decoder(method, tiny_model("llama", projection=False))
    text, c = word_encoder(), method.c_thought
    rows = [method.staged(method.encode(e, text), stage, random.Random(0)) for e in EXAMPLES]
    batch = collate(rows, text.pad_id)
    theirs = literal_coconut_step(model, batch)
    losses: list[list[Tensor]] = [[] for _ in range(2)]
    counts: list[list[int]] = [[] for _ in range(2)]
    for row in rows:
        z = thoughts_by_hand(model, row["question"], row["thoughts"])
        for k, step in enumerate(row["steps"]):
            if step:
                losses[k].append(said_by(model, torch.cat(z[k * c : k * c + c]), step, 1))
                counts[k].append(len(step) if method.slot_mean == "tokens" else 1)
    explain = mean_of_slot_means(losses, counts)
    theirs = {**theirs, "explain": explain, "loss": theirs["student"] + method.explain * explain}
    ours = method.at_stage(stage).loss(model, batch)
    for term, value in theirs.items():
        torch.testing.assert_close(ours[term], value, rtol=1e-5, atol=1e-9)
    assert bool(explain > 0) is (stage > 0 or method.all_latents)
    assert_same_gradients(gradients(model, ours["loss"]), gradients(model, theirs["loss"]))


def test_slots_over_coconut() -> None:
    text, method = word_encoder(), SimCotCoconut(max_stage=2)
    row = method.encode(EXAMPLES[0], text)

    def said(stage: int, which: SimCotCoconut = method, encoded: dict[str, Any] = row) -> list[str]:
        steps = which.staged(encoded, stage, random.Random(0))["steps"]
        return ["".join(text.decode(step).split()) for step in steps]

    assert said(0) == []
    assert said(1) == ["<<3+5=8>>"]
    assert said(3) == ["<<3+5=8>>", "<<8*2=16>><<16-4=12>>"]
    assert said(0, replace(method, all_latents=True)) == said(3)
    one_step = method.encode(EXAMPLES[1], text)
    assert said(3, method, one_step) == ["<<7-2=5>>", "Theansweris:5"]
    assert said(3, replace(method, spare="none"), one_step) == ["<<7-2=5>>", ""]


@pytest.mark.parametrize(
    ("method", "base", "settings"),
    [
        (SimCot(latents=2, explain=0), Codi(latents=2), {}),
        (SimCotCoconut(stage=2, explain=0), Coconut(stage=2), {"projection": False}),
    ],
    ids=["codi", "coconut"],
)
def test_without_weight_it_is_its_base(method: Method, base: Method, settings: dict[str, Any]) -> None:
    model, text = tiny_model("llama", **settings), word_encoder()
    assert method.training_parts(model) == {}
    batches = [
        collate([m.staged(m.encode(e, text), 2, random.Random(0)) for e in EXAMPLES], text.pad_id)
        for m in (method, base)
    ]
    ours, theirs = method.loss(model, batches[0]), base.loss(model, batches[1])
    for term, value in theirs.items():
        torch.testing.assert_close(ours[term], value, rtol=1e-6, atol=0)
    answers = [reasoner(m, model).answer(QUESTIONS, max_new_tokens=5) for m in (method, base)]
    assert answers[0] == answers[1]


def test_accumulated_micro_batches_give_the_whole_batchs_loss() -> None:
    method = SimCot(latents=2, divide_by_std=False)
    model = with_decoder(method, tiny_model("llama"))
    batch = encoded_batch(method)
    whole = method.loss(model, batch)
    rows = [method.loss(model, encoded_batch(method, (e,)), method.divisors(batch)) for e in EXAMPLES]
    for term, value in whole.items():
        torch.testing.assert_close(sum(row[term] for row in rows), value, rtol=1e-5, atol=0)


def test_the_decoder_learns_outlives_a_stop_and_is_left_behind(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, save_steps=2, max_steps=4)
    settings["method"] = {"name": "sim-cot", "latents": 2}
    curves = run(settings, tmp_path / "whole")
    assert "explain" in json.dumps(curves)
    with pytest.raises(KeyboardInterrupt):
        train(configured(settings), tmp_path / "cut", say=lambda _: None, callbacks=[Interrupt(3)])
    run(settings, tmp_path / "cut", resume=True)
    assert same_weights(tmp_path / "whole", tmp_path / "cut")  # what it taught went through the decoder
    early, late = (load_file(tmp_path / "whole" / f"checkpoint-{n}" / TRAINING_PARTS) for n in (2, 4))
    assert all(not torch.equal(early[name], late[name]) for name in early)
    assert late.keys() == load_file(tmp_path / "cut" / "checkpoint-4" / TRAINING_PARTS).keys()
    assert not (tmp_path / "whole" / TRAINING_PARTS).exists()
    again = LatentReasoner.from_pretrained(tmp_path / "whole", device="cpu")
    assert not len(again.model.training_parts)


def test_rows_without_steps_are_refused(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "Tom has 3 pens ?", "answer": "3"}\n' * 3)
    settings = tiny_settings(tmp_path)
    settings["method"] = {"name": "sim-cot"}
    settings["data"]["train"] = str(rows)
    with pytest.raises(DataError, match="sim-cot learns from rationales"):
        run(settings, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "sim-cot", "explain": -1}, "explain is -1"),
        ({"name": "sim-cot-coconut", "explain": -1}, "explain is -1"),
        ({"name": "sim-cot-coconut", "spare": "all"}, "rest or none"),
        ({"name": "sim-cot-coconut", "slot_mean": "words"}, "rows or tokens"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_method(options)


def test_published_settings() -> None:
    gpt2, llama = load_recipe("gpt2-gsm8k-aug-sim-cot"), load_recipe("llama1b-gsm8k-aug-sim-cot")
    assert build_method(gpt2.method) == SimCot(latents=6, beta=1.0, explain=1.0)
    assert build_method(llama.method) == SimCot(latents=6, beta=20.0, explain=1.0)
    for config, rate, epochs in ((gpt2, 3e-3, 40), (llama, 8e-4, 10)):
        training = config.training
        assert (training["learning_rate"], training["num_train_epochs"]) == (rate, epochs)
        batch = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]
        assert (batch, training["weight_decay"], training["max_grad_norm"]) == (128, 0.1, 2.0)
