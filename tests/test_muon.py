"""Muon and AdamW as one optimizer: who learns how, and that saving, resets and resuming see one thing."""

from __future__ import annotations

import copy
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from codi.errors import RecipeError
from codi.modeling.configuration import ModelConfig
from codi.modeling.model import ThoughtModel
from codi.training.muon import MOMENTUM, MuonWithAdamW, matrices_and_rest
from codi.training.run import train
from tiny_runs import Interrupt, configured, run, same_weights, tiny_settings

SMALL = {"model_type": "llama", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24,
         "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}  # fmt: skip


def model(tied: bool = True) -> ThoughtModel:
    torch.manual_seed(0)
    return ThoughtModel(ModelConfig(base_config={**SMALL, "tie_word_embeddings": tied}))


def with_gradients(thoughts: ThoughtModel) -> None:
    generator = torch.Generator().manual_seed(1)
    for weight in thoughts.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)


@pytest.mark.parametrize("tied", [True, False])
def test_only_matrices_inside_the_model_go_to_muon(tied: bool) -> None:
    thoughts = model(tied)
    names = {id(weight): name for name, weight in thoughts.named_parameters()}
    matrices, rest = matrices_and_rest(thoughts)
    assert {names[id(w)].split(".")[-2] for w in matrices} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "1", "3",
    }  # fmt: skip
    assert any("embed_tokens" in names[id(w)] for w in rest)
    assert any("thought_tokens" in names[id(w)] for w in rest)
    assert any("lm_head" in names[id(w)] for w in rest) != tied
    assert len(matrices) + len(rest) == len(names)


def test_a_step_is_torchs_own_of_each_kind() -> None:
    ours, theirs = model(), model()
    together = MuonWithAdamW(ours, 0.01, 0.1, (0.9, 0.95))
    matrices, rest = matrices_and_rest(theirs)
    alone: list[torch.optim.Optimizer] = [
        torch.optim.Muon(
            matrices, lr=0.01, weight_decay=0.1, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=0.01, weight_decay=0.1, betas=(0.9, 0.95), fused=True),
    ]
    for _ in range(3):
        with_gradients(ours)
        with_gradients(theirs)
        together.step()
        for part in alone:
            part.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_saved_state_goes_on_and_a_reset_forgets() -> None:
    first = model()
    before = MuonWithAdamW(first, 0.01, 0.1, (0.9, 0.999))
    with_gradients(first)
    before.step()
    second = model()
    second.load_state_dict(first.state_dict())
    after = MuonWithAdamW(second, 0.5, 0.0, (0.9, 0.999))
    after.load_state_dict(copy.deepcopy(before.state_dict()))  # torch would share its tensors
    for thoughts, optimizer in ((first, before), (second, after)):
        with_gradients(thoughts)
        optimizer.step()
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    after.state = defaultdict(dict)  # as a new stage of a curriculum does
    with_gradients(second)
    after.step()
    assert {int(state["step"]) for state in after.state.values() if "step" in state} == {1}


def test_a_resumed_run_equals_one_never_stopped(tmp_path: Path) -> None:
    settings: dict[str, Any] = {**tiny_settings(tmp_path), "optimizer": "muon"}
    run(settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(configured(settings), tmp_path / "cut", say=lambda _: None, callbacks=[Interrupt(6)])
    run(settings, tmp_path / "cut", resume=True)
    assert same_weights(tmp_path / "whole", tmp_path / "cut")


def test_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="optimizer is 'sgd'; it must be muon"):
        configured({**tiny_settings(tmp_path), "optimizer": "sgd"})


def test_two_optimizers_are_refused(tmp_path: Path) -> None:
    settings = {**tiny_settings(tmp_path, optim="adamw_torch"), "optimizer": "muon"}
    with pytest.raises(RecipeError, match=r"Both optimizer=muon and training\.optim"):
        configured(settings)
