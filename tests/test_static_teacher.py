"""The static teacher: it never moves, the student learns from it, and its cost is said."""

from __future__ import annotations

import json
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
from tiny_runs import Interrupt, run, tiny_settings, weights


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


def static(teacher: Path) -> dict[str, Any]:
    return {"name": "codi-static-teacher", "teacher": str(teacher), "latents": 2}


def test_a_teacher_that_reads_other_token_ids_is_refused(tmp_path: Path) -> None:
    """Before any data is read; the ids of one token are named."""
    settings = tiny_settings(tmp_path, max_steps=1, save_strategy="no")
    run(settings | {"method": {"name": "cot-sft"}}, tmp_path / "teacher")
    file = tmp_path / "teacher/tokenizer.json"
    state = json.loads(file.read_text())
    vocabulary = state["model"]["vocab"]
    vocabulary["pens"], vocabulary["buys"] = vocabulary["buys"], vocabulary["pens"]
    file.write_text(json.dumps(state))
    settings["data"]["train"] = "never-read.jsonl"
    with pytest.raises(RecipeError, match=r"another tokenizer.*'buys' is token \d+ for the teacher and \d+"):
        run(settings | {"method": static(tmp_path / "teacher")}, tmp_path / "student")
    state["model"]["vocab"] |= {
        "buys": vocabulary["pens"],
        "pens": vocabulary["buys"],
        "extra": len(vocabulary),
    }
    file.write_text(json.dumps(state))
    with pytest.raises(
        RecipeError, match=r"'extra' is token \d+ for the teacher and of none for the student"
    ):
        run(settings | {"method": static(tmp_path / "teacher")}, tmp_path / "student")


def test_a_teacher_that_cuts_text_otherwise_is_refused(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=1, save_strategy="no")
    run(settings | {"method": {"name": "cot-sft"}}, tmp_path / "teacher")
    file = tmp_path / "teacher/tokenizer.json"
    state = json.loads(file.read_text())
    state["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    file.write_text(json.dumps(state))
    with pytest.raises(RecipeError, match="cuts text into other tokens"):
        run(settings | {"method": static(tmp_path / "teacher")}, tmp_path / "student")


def test_a_teacher_of_another_shape_is_refused_before_data_is_read(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=1, save_strategy="no")
    run(settings | {"method": {"name": "cot-sft"}}, tmp_path / "teacher")
    settings["model"]["base_config"]["n_embd"] = 16
    settings["data"]["train"] = "never-read.jsonl"
    with pytest.raises(RecipeError, match="2 layers of width 32, the student 2 of 16"):
        run(settings | {"method": static(tmp_path / "teacher")}, tmp_path / "student")


def test_the_teacher_is_freed_when_the_run_ends(tmp_path: Path) -> None:
    """However it ends: otherwise it would stay on the GPU."""
    settings = tiny_settings(tmp_path, max_steps=2, save_strategy="no")
    run(settings | {"method": {"name": "cot-sft", "keep_last_step": False}}, tmp_path / "teacher")
    during: list[int] = []

    class Look(Interrupt):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            during.append(load_teacher.cache_info().currsize)
            super().on_step_end(args, state, control, **kwargs)

    run(settings | {"method": static(tmp_path / "teacher")}, tmp_path / "student", callbacks=[Look(9)])
    assert during == [1, 1]
    assert load_teacher.cache_info().currsize == 0
    with pytest.raises(KeyboardInterrupt):
        run(settings | {"method": static(tmp_path / "teacher")}, tmp_path / "cut", callbacks=[Look(1)])
    assert load_teacher.cache_info().currsize == 0
