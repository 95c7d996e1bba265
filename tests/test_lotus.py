"""LOTUS against its paper, row by row without padding or cache; its stages, and how it answers."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback

from codi.data.collation import Nested, collate
from codi.errors import RecipeError, UsageError
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.lotus import LATENT, Lotus
from codi.methods.method import build_method
from codi.modeling.configuration import ModelConfig
from codi.modeling.model import ThoughtModel
from codi.training.recipes import load_recipe
from codi.training.run import train
from family_literal import embedded, summed_ce, whole_pass
from tiny_models import EXAMPLES, LORA, assert_same_gradients, gradients, reasoner, tiny_model, word_encoder
from tiny_runs import Interrupt, configured, run, same_weights, tiny_settings

QUESTIONS = [example.question for example in EXAMPLES]


def model_of(family: str = "llama", **settings: Any) -> ThoughtModel:
    return tiny_model(family, rows=[LATENT], projection=False, **settings)


def staged_rows(method: Lotus, stage: int) -> list[dict[str, Any]]:
    text = word_encoder()
    return [method.staged(method.encode(example, text), stage, random.Random(0)) for example in EXAMPLES]


def batch_at(method: Lotus, stage: int) -> dict[str, Tensor]:
    return collate(staged_rows(method, stage), word_encoder().pad_id)


def literal(model: ThoughtModel, method: Lotus, stage: int) -> dict[str, Tensor]:
    blocks, c = min(stage, method.blocks), method.width
    loops = blocks if method.loops is None else method.loops
    bot, eot = model.thought_tokens[:1], model.thought_tokens[1:]
    e = model.rows[LATENT].expand(blocks * c, -1)
    suffix, step, suffix_tokens, step_tokens = torch.zeros(()), torch.zeros(()), 0, 0
    for row in staged_rows(method, stage):
        q, y, first = embedded(model, row["question"]), row["student"], len(row["question"]) + 1
        x = e
        passes = [whole_pass(model, q, bot, x)]
        for _ in range(loops if blocks else 0):
            h = passes[-1].h[first:]
            x = e + h if method.feedback == "add" else h
            passes.append(whole_pass(model, q, bot, x))
        whole = whole_pass(model, q, bot, x, eot, embedded(model, y))
        suffix = suffix + summed_ce(whole.logits[first + blocks * c : -1], y)
        suffix_tokens += len(y)
        for k, ids in enumerate(row["steps"]):
            loop = loops if method.step_loss == "last-loop" else min(k + 1, loops)
            before = first - 1 + k * c
            step = step + summed_ce(passes[loop].logits[before : before + len(ids)], ids)
            step_tokens += len(ids)
    suffix, step = suffix / suffix_tokens, step / max(1, step_tokens)
    return {"loss": suffix + method.step_weight * step, "suffix": suffix, "steps": step}


CASES: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "written out": (0, {}, {}),
    "one block, one loop": (1, {}, {"family": "gpt2"}),
    "two blocks": (2, {}, {}),
    "more blocks than steps": (4, {}, {}),
    "each block from its own loop": (3, {"step_loss": "own-loop"}, {"family": "gpt2"}),
    "own loop, fewer loops": (3, {"step_loss": "own-loop", "loops": 2}, {}),
    "states alone fed back": (2, {"feedback": "replace"}, {"lora": LORA}),
    "a block too narrow": (2, {"width": 3}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_terms_and_gradients_equal_the_literal_ones(case: str) -> None:
    stage, options, settings = CASES[case]
    method = Lotus(**{"blocks": 4, "width": 8, "step_weight": 0.3, **options})
    model = model_of(**settings)
    theirs, ours = literal(model, method, stage), method.at_stage(stage).loss(model, batch_at(method, stage))
    assert ours.keys() == theirs.keys()
    for term, value in theirs.items():
        torch.testing.assert_close(ours[term], value, rtol=1e-5, atol=0, msg=lambda m, t=term: f"{t}: {m}")
    assert bool(theirs["steps"] > 0) is (stage > 0)
    assert_same_gradients(gradients(model, ours["loss"]), gradients(model, theirs["loss"]))


def test_single_rows_sum_to_the_batch() -> None:
    method, model = Lotus(blocks=3, width=7).at_stage(3), model_of("gpt2")
    rows = staged_rows(method, 3)
    batch = collate(rows, 0)
    whole = method.loss(model, batch)
    alone = [method.loss(model, collate([row], 0), method.divisors(batch)) for row in rows]
    for term, value in whole.items():
        torch.testing.assert_close(sum(one[term] for one in alone), value, rtol=1e-5, atol=0)


def test_a_divisor_below_one_is_divided_by_and_none_is_one() -> None:
    """Of four processes, one with two tokens of steps: each divides by half a token."""
    method, model = Lotus(blocks=3, width=7).at_stage(3), model_of("gpt2")
    batch = batch_at(method, 3)
    found = {
        number: method.loss(model, batch, {**method.divisors(batch), "steps": torch.tensor(number)})["steps"]
        for number in (0.5, 1.0, 0.0)
    }
    assert found[0.5].item() == pytest.approx(2 * found[1.0].item())
    assert found[0.0].item() == found[1.0].item()


def test_stages_move_steps_into_blocks() -> None:
    method, text = Lotus(blocks=2, width=9), word_encoder()
    row, steps = method.encode(EXAMPLES[0], text), EXAMPLES[0].steps
    assert [method.stage_at(10 * epoch, 10) for epoch in range(5)] == [0, 1, 2, 2, 2]
    for stage in range(4):
        staged = method.staged(row, stage, random.Random(0))
        moved = min(stage, 2)
        assert isinstance(staged["steps"], Nested)
        assert [token for ids in (*staged["steps"], staged["student"]) for token in ids] == row["student"]
        assert len(staged["steps"]) == moved
        assert text.decode(staged["student"]).count("<<") == len(steps) - moved
    assert method.thought_positions() == 2 + 18
    assert method.at_stage(1).thought_positions() == 2 + 9
    assert not method.begins_afresh(1, new_stage=True, new_epoch=True, before=list)


class Moments(TrainerCallback):
    """How many weights the optimiser remembers something of, as each step begins."""

    def __init__(self) -> None:
        self.known = list[int]()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        optimizer = kwargs["optimizer"]
        self.known.append(len(getattr(optimizer, "optimizer", optimizer).state))


def test_a_run_goes_through_the_stages_with_one_optimiser(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=12, save_steps=6)  # an epoch has 5 steps
    settings["method"] = {"name": "lotus", "blocks": 2, "width": 4}
    settings["model"]["projection"] = False
    moments = Moments()
    curves = run(settings, tmp_path / "whole", callbacks=[moments])
    assert moments.known[0] == 0
    assert min(moments.known[1:]) > 0
    told = [entry["suffix"] > 0 and entry["steps"] > 0 for entry in curves["history"] if "suffix" in entry]
    assert told == [False] * 5 + [True] * 7
    asked = LatentReasoner.from_pretrained(tmp_path / "whole", device="cpu")
    assert asked.method == Lotus(blocks=2, width=4, stage=2)
    with pytest.raises(KeyboardInterrupt):
        train(configured(settings), tmp_path / "cut", say=lambda _: None, callbacks=[Interrupt(8)])
    run(settings, tmp_path / "cut", resume=True)
    assert same_weights(tmp_path / "whole", tmp_path / "cut")


def test_answers_do_not_hang_on_the_batch_and_count_their_passes() -> None:
    asked = reasoner(Lotus(blocks=2, width=3, loops=3), model_of("gpt2"))
    together = asked.answer(QUESTIONS, max_new_tokens=9)
    assert asked.answer(QUESTIONS, max_new_tokens=9, batch_size=1) == together
    for answer in together:
        written = answer.thoughts - 8 + answer.answer_tokens
        assert answer.thoughts >= 2 * 3 + 2
        assert answer.passes <= 3 + 2 + written + len(asked.text.prompt_ids)
    assert len(asked.decode_thoughts(QUESTIONS[0])) == 6
    with pytest.raises(UsageError, match="1 latents were asked for, but this model thinks in 2 blocks"):
        asked.answer(QUESTIONS[:1], latents=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": 0}, "blocks is 0"),
        ({"loops": 0}, "loops is 0"),
        ({"width": 0}, "width is 0"),
        ({"step_loss": "first"}, "last-loop or own-loop"),
        ({"feedback": "none"}, "add or replace"),
        ({"epochs_per_stage": 0}, "above 0"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_method({"name": "lotus", **options})


def test_runs_that_cannot_work_are_refused() -> None:
    plain = ModelConfig(base="gpt2", projection=False)
    with pytest.raises(RecipeError, match=r"model\.projection=false"):
        Lotus().check_run(replace(plain, projection=True), True, 30)
    with pytest.raises(RecipeError, match="after 6 epochs, but the run has 6"):
        Lotus().check_run(plain, True, 6)
    assert "13 tokens" in Lotus().check_run(plain, True, 30)[0]


def test_published_settings() -> None:
    gpt2, llama = load_recipe("gpt2-gsm8k-aug-lotus"), load_recipe("llama1b-gsm8k-aug-lotus")
    assert build_method(gpt2.method) == Lotus(blocks=6, width=13, step_loss="last-loop")
    assert build_method(llama.method) == Lotus(blocks=6, width=25, step_loss="own-loop")
    for config, epochs in ((gpt2, 30), (llama, 100)):
        assert (config.model.lora, config.model.projection) == (None, False)
        assert (config.text.answer_prompt, config.text.step_suffix) == ("###", "\n")
        training = config.training
        assert (training["learning_rate"], training["num_train_epochs"]) == (1e-4, epochs)
        assert (training["weight_decay"], training["lr_scheduler_type"]) == (0.01, "constant")
        assert training["max_grad_norm"] == 1.0
        batch = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]
        assert batch == 128
        build_method(config.method).check_run(config.model, True, epochs)
