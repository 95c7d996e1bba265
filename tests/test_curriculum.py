"""Stages in training: entered by the micro-batch's number, with a fresh optimiser, through a kill too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from codi.errors import CheckpointError, RecipeError, TrainingError
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.coconut import Coconut
from codi.methods.icot import ICot
from codi.methods.method import build_method
from codi.training.curriculum import Clock
from codi.training.run import build_reasoner, train
from tiny_runs import Interrupt, configured, run, same_weights, tiny_settings, weights


class Watch(TrainerCallback):
    """Notes, before each step, how many steps the optimiser remembers."""

    def __init__(self) -> None:
        self.remembered: list[int] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        states = list(kwargs["optimizer"].state.values())
        self.remembered.append(int(states[0]["step"]) if states else 0)


def settings_of(folder: Path, method: dict[str, Any], **training: Any) -> dict[str, Any]:
    """20 rows in batches of 4: 5 steps an epoch."""
    settings = tiny_settings(folder, rows=20, dropout=0.1, **training)
    settings["model"]["projection"] = False
    return settings | {"method": method}


COCONUT = {"name": "coconut", "explicit_epochs": 1, "epochs_per_stage": 1, "max_stage": 1}
ICOT = {"name": "icot", "explicit_epochs": 1, "remove_per_epoch": 2, "remove_all_beyond": 2}


def test_clock_counts_micro_batches_as_the_trainer_does() -> None:
    clock = Clock(epoch_steps=5, update_steps=2)
    assert clock.epoch_updates == 3  # the last of an epoch has one micro-batch
    assert [clock.micro_batch(update) for update in range(7)] == [0, 2, 4, 5, 7, 9, 10]


@pytest.mark.parametrize(
    ("method", "resets"),
    [(COCONUT, {5, 10}), (ICOT, {7, 9, 11})],  # iCoT: one token every round(5 / 2) steps; all gone after two
    ids=["coconut", "icot"],
)
def test_every_stage_begins_with_a_fresh_optimiser(
    tmp_path: Path, method: dict[str, Any], resets: set[int]
) -> None:
    watch = Watch()
    run(settings_of(tmp_path, method, max_steps=18), tmp_path / "run", callbacks=[watch])
    made = build_method(method)
    changes = {s for s in range(1, 18) if made.stage_at(s, 5) != made.stage_at(s - 1, 5)}
    assert {step for step in range(1, 18) if watch.remembered[step] == 0} == changes
    assert changes == resets
    saved = json.loads((tmp_path / "run/codi.json").read_text())["method"]
    assert saved["stage"] == made.stage_at(17, 5)


def test_coconut_resets_its_optimiser_with_every_epoch_that_has_thoughts(tmp_path: Path) -> None:
    """Five steps an epoch: stage 0 for two epochs, stage 1 for two, then the last."""
    method = COCONUT | {"explicit_epochs": 2, "epochs_per_stage": 2, "reset_optimizer": "epoch"}
    watch = Watch()
    run(settings_of(tmp_path, method, max_steps=28), tmp_path / "run", callbacks=[watch])
    assert [step for step in range(1, 28) if watch.remembered[step] == 0] == [10, 15, 20, 25]
    paper = build_method(method | {"reset_optimizer": "stage"})
    stages = [paper.stage_at(step, 5) for step in range(28)]
    assert [step for step in range(1, 28) if stages[step] != stages[step - 1]] == [10, 20]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_icot_keeps_its_optimiser_once_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulation: int
) -> None:
    """Counted up as the published trainer does it, from the batches that the loss was given."""
    seen: list[list[list[int]]] = []
    plain = ICot.loss

    def watched(method: ICot, model: Any, batch: dict[str, torch.Tensor], divisors: Any = None) -> Any:
        seen.append([ids[mask.bool()].tolist() for ids, mask in zip(
            batch["teacher_ids"], batch["teacher_mask"], strict=True
        )])  # fmt: skip
        return plain(method, model, batch, divisors)

    monkeypatch.setattr(ICot, "loss", watched)
    # one token every step; rationales have 7 to 21, the extra removal takes up to 9 more of them
    method = {
        "name": "icot", "remove_per_epoch": 5 // accumulation, "remove_all_beyond": 18, "extra_lambda": 0.2,
        "extra_support": 10, "remove_all_when": "reached", "extra_from": "start",
        "reset_optimizer": "while-any-left",
    }  # fmt: skip
    watch, updates = Watch(), 22 if accumulation == 1 else 27
    settings = settings_of(tmp_path, method, max_steps=updates, gradient_accumulation_steps=accumulation)
    settings["start"] = cot_checkpoint(tmp_path)
    run(settings, tmp_path / "run", callbacks=[watch])

    clock, made = Clock(5, accumulation), build_method(method)
    closes = LatentReasoner.from_pretrained(tmp_path / "run").text.single_token(">>")
    resets, kept = set(), 0
    for update in range(1, updates):
        first, last = clock.micro_batch(update - 1), clock.micro_batch(update)
        stages = [made.stage_at(step, 5) for step in (first, last)]
        if stages[0] == stages[1]:
            continue
        if any(closes in ids for batch in seen[first:last] for ids in batch):
            resets.add(update)
        else:
            kept += 1
    assert kept
    assert resets
    assert {step for step in range(1, updates) if watch.remembered[step] == 0} == resets


@pytest.mark.parametrize("stopped", [7, 8, 10])
@pytest.mark.parametrize("method", [COCONUT | {"mix": "proportional"}, ICOT], ids=["coconut", "icot"])
def test_resume_in_a_stage_equals_never_stopping(
    tmp_path: Path, method: dict[str, Any], stopped: int
) -> None:
    """Checkpoints are at 4, 8 and 12: on from inside a stage, and from where one has just ended."""
    settings = settings_of(tmp_path, method, max_steps=14, save_steps=5 if stopped == 10 else 4)
    run(settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(configured(settings), tmp_path / "cut", say=lambda _: None, callbacks=[Interrupt(stopped + 1)])
    run(settings, tmp_path / "cut", resume=True)
    assert same_weights(tmp_path / "whole", tmp_path / "cut")


def test_best_checkpoint_is_of_the_last_stage(tmp_path: Path) -> None:
    """Whatever an earlier stage scored: it still wrote steps out."""
    settings = settings_of(tmp_path, COCONUT, max_steps=15, eval_strategy="steps", eval_steps=3)
    settings["training"].pop("save_steps")
    settings["data"]["validation"] = settings["data"]["train"]
    settings["data"]["validation_limit"] = 4
    settings["data"]["exclude_validation_questions"] = False
    summary = run(settings, tmp_path / "run")
    assert int(summary["best_checkpoint"].removeprefix("checkpoint-")) > 10
    assert LatentReasoner.from_pretrained(tmp_path / "run").method == Coconut(
        explicit_epochs=1, epochs_per_stage=1, max_stage=1, stage=2
    )


def test_a_loss_may_depend_on_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The method that computes the loss is in the stage that the rows are in, wherever that begins."""
    seen: list[tuple[int | None, set[int]]] = []
    plain = Coconut.loss

    def watched(method: Coconut, model: Any, batch: dict[str, torch.Tensor], divisors: Any = None) -> Any:
        seen.append((method.stage, set(batch["thoughts"].tolist())))
        return plain(method, model, batch, divisors)

    monkeypatch.setattr(Coconut, "loss", watched)
    method = {
        "name": "coconut",
        "explicit_epochs": 0.6,
        "epochs_per_stage": 1,
        "max_stage": 1,
        "c_thought": 2,
    }
    settings = settings_of(tmp_path, method, max_steps=9, gradient_accumulation_steps=2, save_strategy="no")
    run(settings, tmp_path / "run")
    assert {stage for stage, _ in seen} == {0, 1, 2}
    assert all(thoughts == {0 if stage == 0 else 2} for stage, thoughts in seen)
    stages = [stage for stage, _ in seen]
    assert stages == sorted(stages)  # type: ignore[type-var]


def test_the_first_micro_batch_of_a_step() -> None:
    clock = Clock(epoch_steps=5, update_steps=2)
    assert [clock.first_of_update(number) for number in range(10)] == [0, 0, 2, 2, 4, 5, 5, 7, 7, 9]


@pytest.mark.parametrize("method", [COCONUT, ICOT], ids=["coconut", "icot"])
def test_a_curriculum_refuses_batches_of_another_size(tmp_path: Path, method: dict[str, Any]) -> None:
    settings = settings_of(tmp_path, method, max_steps=18, auto_find_batch_size=True)
    settings["data"]["train"] = "never-read.jsonl"
    with pytest.raises(TrainingError, match=r"auto_find_batch_size.*per_device_train_batch_size"):
        run(settings, tmp_path / "run")
    fixed = settings_of(tmp_path, method | {"stage": 1}, max_steps=1, auto_find_batch_size=True)
    assert run(fixed, tmp_path / "run")["steps"] == 1  # no stage begins


def cot_checkpoint(folder: Path) -> str:
    run(settings_of(folder, {"name": "cot-sft"}, max_steps=1), folder / "cot")
    return str(folder / "cot")


# --- starting from a checkpoint -----------------------------------------------------------------------------


def test_start_takes_the_language_model_and_new_token_rows(tmp_path: Path) -> None:
    first = settings_of(tmp_path, {"name": "cot-sft"}, max_steps=3)
    first["model"]["projection"] = True
    run(first, tmp_path / "cot")
    second = settings_of(tmp_path, {"name": "coconut", "epochs_per_stage": 0.5}, max_steps=12)
    second["model"]["thought_tokens_from"] = "<<"
    second["start"] = str(tmp_path / "cot")
    begun = build_reasoner(configured(second)).model
    kept = weights(tmp_path / "cot")
    table = begun.causal.get_input_embeddings().weight
    assert torch.equal(table, kept["model.safetensors:transformer.wte.weight"])
    row = table[build_reasoner(configured(second)).text.single_token("<<")]
    assert torch.equal(begun.thought_tokens, torch.stack([row, row]))
    assert run(second, tmp_path / "coconut")["steps"] == 12


def test_bad_starts_are_named(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, {"name": "coconut", "epochs_per_stage": 0.2})
    with pytest.raises(RecipeError, match="start=FOLDER"):
        run(settings, tmp_path / "run")
    assert not (tmp_path / "run/run.yaml").exists()
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        run(settings | {"start": "./nowhere"}, tmp_path / "run")
    run(settings_of(tmp_path, {"name": "cot-sft"}, max_steps=1), tmp_path / "cot")
    wider = settings_of(tmp_path, {"name": "coconut", "epochs_per_stage": 0.2})
    wider["model"]["base_config"] = wider["model"]["base_config"] | {"vocab_size": 200}
    with pytest.raises(CheckpointError, match="vocabulary rows"):
        run(wider | {"start": str(tmp_path / "cot")}, tmp_path / "run")
    settings["model"]["thought_tokens_from"] = "<< <<"
    settings["start"] = str(tmp_path / "cot")
    with pytest.raises(RecipeError, match="not one token"):
        run(settings, tmp_path / "run")
