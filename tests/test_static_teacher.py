"""The static teacher: it never moves, the student learns from it, and its cost is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from codi.errors import CheckpointError, RecipeError
from codi.methods.codi import Codi
from codi.methods.cot_sft import CotSft
from codi.methods.static_teacher import StaticTeacher, load_teacher
from tiny_models import (
    EXAMPLES,
    assert_same_gradients,
    encoded_batch,
    gradients,
    reasoner,
    tiny_model,
    word_encoder,
)
from tiny_runs import run, tiny_settings, weights


@pytest.fixture
def folder(tmp_path: Path) -> str:
    torch.manual_seed(7)
    reasoner(CotSft(), tiny_model("llama")).save_pretrained(tmp_path / "teacher")
    load_teacher.cache_clear()
    return str(tmp_path / "teacher")


@pytest.mark.parametrize("multitask", [False, True])
def test_with_the_student_itself_as_teacher_it_is_codi(folder: str, multitask: bool) -> None:
    """Same weights in both: terms and gradients are those of CODI (with gamma 0 unless multitask)."""
    model = tiny_model("llama")
    method = StaticTeacher(teacher=folder, multitask_student=multitask, latents=3)
    codi = Codi(latents=3, gamma=1.0 if multitask else 0.0)
    batch = encoded_batch(method)
    model.eval()
    ours, theirs = method.loss(model, batch), codi.loss(model, batch)
    for term in ("student", "distillation") + (("teacher",) if multitask else ()):
        torch.testing.assert_close(ours[term], theirs[term], rtol=1e-5, atol=0)
    assert ours["distillation"] > 0
    assert_same_gradients(gradients(model, ours["loss"]), gradients(model, theirs["loss"]))
    assert multitask or ours["teacher"] == 0


def test_training_never_moves_the_teacher(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=4)
    run(settings | {"method": {"name": "cot-sft", "keep_last_step": False}}, tmp_path / "teacher")
    before = weights(tmp_path / "teacher")
    said: list[str] = []
    from codi.training.run import train
    from tiny_runs import configured

    method: dict[str, Any] = {
        "name": "codi-static-teacher",
        "teacher": str(tmp_path / "teacher"),
        "latents": 2,
    }
    train(configured(settings | {"method": method}), tmp_path / "student", say=said.append)
    frozen = load_teacher(str(tmp_path / "teacher"), "cpu")
    assert all(torch.equal(tensor, weights(tmp_path / "teacher")[name]) for name, tensor in before.items())
    held = frozen.causal.state_dict()
    assert torch.equal(held["transformer.wte.weight"], before["model.safetensors:transformer.wte.weight"])
    assert not any(weight.requires_grad for weight in frozen.parameters())
    assert any("a second model of" in line and "MiB" in line for line in said)


def test_rationale_of_its_teacher_can_leave_out_the_last_step() -> None:
    text = word_encoder()
    short = CotSft(keep_last_step=False).encode(EXAMPLES[0], text)
    assert short["teacher"] == Codi().encode(EXAMPLES[0], text)["teacher"]


def test_missing_teachers_are_named(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path)
    with pytest.raises(RecipeError, match="keep_last_step=false"):
        run(settings | {"method": {"name": "codi-static-teacher"}}, tmp_path / "run")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        run(settings | {"method": {"name": "codi-static-teacher", "teacher": "./none"}}, tmp_path / "run")
