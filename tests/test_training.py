"""Training: batches, accumulation, losses, filters, the best checkpoint, and what stops a run."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback

import tiny_runs
from codi.data.encoding import TextEncoder
from codi.data.example import Example
from codi.data.sources import load_examples
from codi.data.text_format import TextFormat
from codi.errors import CodiError, DataError, RecipeError, TrainingError
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.codi import Codi
from codi.methods.method import build_method
from codi.training import preparation
from codi.training import run as run_module
from codi.training.batches import POOL, LengthGroupedBatches
from codi.training.loss_watch import LossWatch
from codi.training.run import build_reasoner, train
from codi.training.shares import Share
from codi.training.tokenisation import tokenise
from codi.training.trainer import CodiTrainer
from tiny_models import llama3_tokenizer
from tiny_runs import configured, examples, run, tiny_settings, write_rows

TRAJECTORY = Path(__file__).with_name("trajectory.json")
TERMS = ("student", "distillation", "teacher")


def reasoner_of(settings: dict[str, Any]) -> LatentReasoner:
    torch.manual_seed(5)
    return build_reasoner(configured(settings))


# --- batches ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 7, 8, 3 * POOL + 2])
def test_every_row_once(rows: int) -> None:
    batches = LengthGroupedBatches([i % 11 for i in range(rows)], batch_size=4, seed=1)
    given = list(batches)
    assert sorted(row for batch in given for row, _ in batch) == list(range(rows))
    assert len(given) == len(batches)
    batches.set_epoch(2)  # micro-batches count on over the epochs
    assert [{step for _, step in batch} for batch in batches] == [
        {2 * len(batches) + i} for i in range(len(batches))
    ]
    assert all(len(batch) == 4 for batch in given[:-1])


def test_order_depends_on_seed_and_epoch_alone() -> None:
    lengths = [i % 13 for i in range(100)]
    first, again = LengthGroupedBatches(lengths, 4, seed=1), LengthGroupedBatches(lengths, 4, seed=1)
    orders = []
    for epoch in range(3):
        first.set_epoch(epoch)
        orders.append(list(first))
    again.set_epoch(2)  # straight there, as a resumed run does
    assert list(again) == orders[2]
    assert orders[0] != orders[1]
    assert orders[1] != orders[2]
    assert list(LengthGroupedBatches(lengths, 4, seed=2)) != orders[0]


def test_batches_hold_rows_of_similar_length() -> None:
    lengths = [i % 20 for i in range(200)]
    spread = [
        max(b) - min(b)
        for b in ([lengths[r] for r, _ in rows] for rows in LengthGroupedBatches(lengths, 4, 1))
    ]
    assert sum(spread) / len(spread) < 2
    mixed = list(LengthGroupedBatches(lengths, 4, 1, grouped=False))
    assert sorted(row for batch in mixed for row, _ in batch) == list(range(200))
    spread = [max(b) - min(b) for b in ([lengths[r] for r, _ in rows] for rows in mixed)]
    assert sum(spread) / len(spread) > 5


# --- accumulation -------------------------------------------------------------------------------------------


class KeepGradients(TrainerCallback):
    """The gradients of the first step, before it is taken."""

    def __init__(self) -> None:
        self.gradients: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = kwargs["model"]
        self.gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "method", [{"name": "codi", "latents": 2, "divide_by_std": False}, {"name": "cot-sft"}]
)
def test_accumulation_1x4_is_4x1(tmp_path: Path, method: dict[str, Any]) -> None:
    found = []
    for batch, accumulation in ((1, 4), (4, 1), (2, 2)):
        # Adam's first step is the gradient's sign, which rounding decides where the gradient is zero.
        settings = tiny_settings(
            tmp_path, rows=4, max_steps=1, save_strategy="no", optim="sgd", learning_rate=0.1
        )
        settings["training"] |= {
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": accumulation,
        }
        settings["method"] = method
        kept, output = KeepGradients(), tmp_path / f"{batch}x{accumulation}"
        history = run(settings, output, callbacks=[kept])["history"]
        found.append((kept.gradients, history[0], tiny_runs.weights(output)))
    lengths = {len(example.question) for example in examples(4)}
    assert len(lengths) > 1  # so the batch of four is padded, and its rows have different numbers of labels
    (ours, log, after), *others = found
    assert max(gradient.abs().max() for gradient in ours.values()) > 1e-3
    for gradients, other_log, other_after in others:
        assert gradients.keys() == ours.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, ours[name], rtol=1e-5, atol=1e-6)
        for name in ("loss", *build_method(method).terms):
            assert other_log[name] == pytest.approx(log[name], rel=1e-5)
        for name, weight in other_after.items():
            torch.testing.assert_close(weight, after[name], rtol=0, atol=1e-6)


def test_accumulation_changes_nothing_but_the_scale_of_the_distillation_by_default(tmp_path: Path) -> None:
    """The teacher's standard deviation is that of the micro-batch, as in the published code."""
    logs = []
    for batch, accumulation in ((1, 4), (4, 1)):
        settings = tiny_settings(tmp_path, rows=4, max_steps=1, save_strategy="no")
        settings["training"] |= {
            "per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation,
        }  # fmt: skip
        settings["method"] = {"name": "codi", "latents": 2}
        logs.append(run(settings, tmp_path / f"{batch}x{accumulation}")["history"][0])
    for term in ("student", "teacher"):
        assert logs[0][term] == pytest.approx(logs[1][term], rel=1e-5)
    assert logs[0]["distillation"] != pytest.approx(logs[1]["distillation"], rel=1e-3)


# --- losses -------------------------------------------------------------------------------------------------


def test_history_holds_each_loss_term(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=5, logging_steps=2, save_strategy="no")
    summary = run(settings, tmp_path / "out")
    logged = [entry for entry in summary["history"] if "loss" in entry]
    assert [entry["step"] for entry in logged] == [2, 4]
    for entry in logged:
        assert entry["loss"] == pytest.approx(sum(entry[term] for term in TERMS), rel=1e-4)
    assert summary["steps"] == 5
    assert {"codi", "torch", "transformers", "peft"} <= summary["versions"].keys()


def test_trajectory_of_fifty_steps(tmp_path: Path) -> None:
    """The three losses against the checked-in ones; CODI_WRITE_TRAJECTORY=1 writes them anew."""
    settings = tiny_settings(tmp_path, rows=40, max_steps=50, save_strategy="no", seed=11)
    history = run(settings, tmp_path / "out")["history"]
    found = {term: [entry[term] for entry in history if term in entry] for term in TERMS}
    if os.environ.get("CODI_WRITE_TRAJECTORY") == "1":
        rounded = {term: [round(value, 6) for value in values] for term, values in found.items()}
        TRAJECTORY.write_text(json.dumps(rounded) + "\n", encoding="utf-8")
    expected = json.loads(TRAJECTORY.read_text(encoding="utf-8"))
    for term in TERMS:
        assert len(found[term]) == 50
        assert found[term] == pytest.approx(expected[term], rel=1e-3, abs=1e-5), term
    assert found["student"][-1] < 0.6 * found["student"][0]


# --- data ---------------------------------------------------------------------------------------------------


def test_length_filter_is_counted(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, rows=12, max_steps=1, save_strategy="no")
    reasoner = reasoner_of(settings)
    encoded = tokenise(examples(12), reasoner.method, reasoner.text).encoded
    lengths = sorted(len(row["question"]) + max(len(row["teacher"]), len(row["student"])) for row in encoded)
    settings["data"]["max_tokens"] = limit = lengths[5]
    longer = sum(length > limit for length in lengths)
    assert 0 < longer < 12
    said: list[str] = []
    train(configured(settings), tmp_path / "out", say=said.append)
    account = json.loads((tmp_path / "out" / "training.json").read_text())["data"]
    [filtered] = [report for report in account if report["dropped"]]
    assert filtered["dropped"] == {f"longer than {limit} tokens": longer}
    assert any(f"longer than {limit} tokens" in line for line in said)


def test_an_answer_that_melts_into_its_prompt_names_its_row(tmp_path: Path) -> None:
    """One such row in a thousand must not stop a run that leaves bad rows out."""
    melting = {"answer_prompt": "The answer is 1", "answer_separator": ""}
    rows = [Example(f"r{n}", "Tom has 7 apples.", ("<<7+15=22>>", "<<22+1=23>>"), "-5") for n in range(5)]
    rows[3] = replace(rows[3], id="latex-row", answer="2")  # LLaMA-3 reads 12 as one number
    text = TextEncoder(llama3_tokenizer(), TextFormat(**melting))
    with pytest.raises(RecipeError, match=r"'latex-row': The tokenizer joins.*'2'.*data\.skip_bad_rows=true"):
        tokenise(rows, Codi(), text)
    tokens = tokenise(rows, Codi(), text, skip_bad_rows=True, source="mine.jsonl")
    assert tokens.ids == ["r0", "r1", "r2", "r4"]
    [report] = tokens.reports
    assert report.describe() == (
        "mine.jsonl: 5 rows read, 4 kept; left out: 1 answer that the tokenizer joins with its prompt"
    )


def test_rows_too_long_for_the_model_are_an_error(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, rows=3, save_strategy="no")
    settings["model"]["base_config"]["n_positions"] = 24
    with pytest.raises(DataError, match=r"too long for the model.*data\.max_tokens=20"):
        run(settings, tmp_path / "out")


def test_no_row_left_is_an_error(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, rows=3)
    settings["data"]["max_tokens"] = 2
    with pytest.raises(DataError, match="No training example is left"):
        run(settings, tmp_path / "out")


def test_validation_questions_are_removed_from_training(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, rows=12)
    settings["data"]["validation"] = write_rows(tmp_path / "validation.jsonl", examples(3))
    data = preparation.prepare(configured(settings).data, reasoner_of(settings), "codi")
    assert len(data.validation) == 3
    assert not {e.id for e in data.validation} & set(data.ids)
    assert len(data.ids) == 9
    assert any("question also in validation" in report.dropped for report in data.reports)


def test_training_on_a_cached_and_filtered_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_settings(tmp_path, rows=12, max_steps=2, save_strategy="no")
    settings["data"]["max_tokens"] = 40
    plain = run(settings, tmp_path / "plain")
    monkeypatch.setattr(preparation, "CACHE_ROWS", 10)
    monkeypatch.setenv("CODI_CACHE", str(tmp_path / "cache"))
    cached = run(settings, tmp_path / "cached")
    assert cached["data"] == plain["data"]
    assert tiny_runs.same_weights(tmp_path / "plain", tmp_path / "cached")


# --- validation ---------------------------------------------------------------------------------------------


def test_best_validation_accuracy_picks_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings(tmp_path, max_steps=9, eval_strategy="steps", eval_steps=2, save_steps=2)
    settings["data"]["validation"] = write_rows(tmp_path / "validation.jsonl", examples(3))
    settings["training"]["save_total_limit"] = 2
    scripted = iter([0.1, 0.7, 0.3, 0.7, 0.2])  # steps 2, 4, 6, 8 and the last, 9
    read: list[tuple[str, str]] = []

    def watched(source: str, **options: Any) -> Any:
        read.append((Path(source).name, options["split"]))
        return load_examples(source, **options)

    monkeypatch.setattr(preparation, "load_examples", watched)
    monkeypatch.setattr(run_module, "_validator", lambda *_: lambda _: next(scripted))
    summary = run(settings, tmp_path / "out")
    assert summary["validation_accuracy"] == 0.7
    assert summary["best_checkpoint"] == "checkpoint-4"  # the first of two equal ones
    logged = [entry["eval_accuracy"] for entry in summary["history"] if "eval_accuracy" in entry]
    assert logged == [0.1, 0.7, 0.3, 0.7, 0.2]
    assert tiny_runs.same_weights(tmp_path / "out", tmp_path / "out" / "checkpoint-4")
    assert not tiny_runs.same_weights(tmp_path / "out", tmp_path / "out" / "checkpoint-9")
    assert sorted(read) == [
        ("train.jsonl", "train"),
        ("validation.jsonl", "validation"),
    ]  # never the test split


def test_validation_asks_the_model(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=2, eval_strategy="steps", eval_steps=2, save_steps=2)
    settings["data"]["validation"] = write_rows(tmp_path / "validation.jsonl", examples(3))
    summary = run(settings, tmp_path / "out")
    assert 0 <= summary["validation_accuracy"] <= 1
    assert LatentReasoner.from_pretrained(tmp_path / "out").answer(["Tom has 3 pens ."])[0].text


# --- what is refused, and what stops a run ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["activation_checkpointing", "gradient_checkpointing"])
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated")
def test_activation_checkpointing_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    settings = tiny_settings(tmp_path, **{name: True})
    with pytest.raises(TrainingError, match=r"Activation checkpointing.*cache"):
        run(settings, tmp_path / "out")


def test_lora_over_a_base_from_a_configuration_is_refused(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path)
    settings["model"]["lora"] = {"rank": 2}
    with pytest.raises(CodiError, match="stored nowhere"):
        run(settings, tmp_path / "out")


@pytest.mark.parametrize("processes", [1, 2])
def test_batches_are_copied_without_waiting(tmp_path: Path, processes: int) -> None:
    settings = tiny_settings(tmp_path, rows=8)
    reasoner = reasoner_of(settings)
    data = preparation.prepare(configured(settings).data, reasoner, "codi")
    values = {**run_module.DEFAULTS, **configured(settings).training}
    arguments = run_module._arguments(values, tmp_path / "out", validating=False)
    share = Share(4, processes=processes)
    loader: Any = CodiTrainer(reasoner, arguments, data, None, share=share).get_train_dataloader()
    assert loader._non_blocking
    assert sum(len(batch["number"]) for batch in loader) == 8 // processes


def test_settings_that_do_not_work_together(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="do not work together"):
        run(tiny_settings(tmp_path, lr_scheduler_type="cosinus"), tmp_path / "out")


class Poison(TrainerCallback):
    """Makes the embedding row of one token infinite after a step."""

    def __init__(self, step: int, token: int) -> None:
        self.step, self.token = step, token

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            with torch.no_grad():
                kwargs["model"].model.causal.get_input_embeddings().weight[self.token] = math.inf


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, rows=8, max_steps=8, save_steps=2, per_device_train_batch_size=8)
    # Only one row holds the number 37. The head is untied: there the row would spoil every other's loss.
    settings["model"]["base_config"]["tie_word_embeddings"] = False
    rows = examples(8)
    rows[3] = replace(rows[3], id="the-guilty-row", question="Tom has 37 pens . How many are left ?")
    settings["data"]["train"] = write_rows(tmp_path / "train.jsonl", rows)
    reasoner = reasoner_of(settings)
    [token] = reasoner.tokenizer("37", add_special_tokens=False)["input_ids"]
    output = tmp_path / "out"
    with pytest.raises(TrainingError) as caught:
        run(settings, output, callbacks=[Poison(step=3, token=token)])
    message = str(caught.value)
    assert "step 4" in message
    assert all(f"{term} " in message for term in ("loss", *TERMS))
    assert "Caused by examples: the-guilty-row." in message
    assert "'checkpoint-2'" in message
    kept = LatentReasoner.from_pretrained(output / "checkpoint-2")
    assert all(torch.isfinite(weight).all() for weight in kept.model.parameters())


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, rows=8, max_steps=4, save_steps=2)
    with pytest.raises(TrainingError, match=r"After step 4 the weight '.*' is not finite.*'checkpoint-2'"):
        run(settings, tmp_path / "out", callbacks=[Poison(step=4, token=2)])
    assert [folder.name for folder in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-2"]
    assert not (tmp_path / "out" / "codi.json").exists()


def test_a_learning_rate_far_too_high(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, learning_rate=1e30, save_strategy="no", lr_scheduler_type="constant")
    with pytest.raises(TrainingError, match=r"not finite at step 2: .*No checkpoint had been written yet"):
        run(settings, tmp_path / "out")


def test_trainer_keeps_its_own_account_of_rows(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, rows=6)
    reasoner = reasoner_of(settings)
    data = preparation.prepare(configured(settings).data, reasoner, "codi")
    arguments = run_module._arguments(configured(settings).training, tmp_path / "out", validating=False)
    loader = CodiTrainer(reasoner, arguments, data, None).get_train_dataloader()
    numbers = [int(number) for batch in loader for number in batch["number"]]
    assert sorted(numbers) == list(range(6))


def test_a_loss_is_looked_at_once_and_only_after_it_was_noted() -> None:
    watch, said = LossWatch(), list[list[float]]()

    def describe(found: list[float]) -> str:
        said.append(found)
        return f"loss {found[0]}"

    watch.check()
    watch.note(torch.tensor([1.0, 2.0]), describe)
    watch.check()
    watch.note(torch.tensor([math.nan, 2.0]), describe)
    with pytest.raises(TrainingError, match="loss nan"):
        watch.check()
    watch.check()
    assert len(said) == 1
    assert said[0][1] == 2.0
