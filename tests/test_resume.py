"""A run that is killed and resumed reaches the weights of one that never was; nothing written is lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from codi.errors import TrainingError
from codi.generation.latent_reasoner import LatentReasoner
from codi.modeling import checkpoint
from codi.training import run as run_module
from codi.training.trainer import COMPLETE, CodiTrainer, checkpoint_to_resume
from tiny_runs import Interrupt, examples, lora_over_saved_base, run, same_weights, tiny_settings, write_rows

SOURCES = [str(Path(__file__).parents[1] / "src"), str(Path(__file__).parent)]


def train_and_kill(settings: dict[str, Any], output: Path, saved: int, step: int) -> None:
    """Train in a process of its own, and SIGKILL it after `step`, past the checkpoint of step `saved`."""
    file = output.with_suffix(".json")
    file.write_text(json.dumps(settings))
    code = "import sys, tiny_runs; tiny_runs.train_and_wait(sys.argv[1], sys.argv[2], int(sys.argv[3]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(file), str(output), str(step)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(SOURCES)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 120
        reached = Path(f"{output}.reached")
        while not ((output / f"checkpoint-{saved}" / COMPLETE).exists() and reached.exists()):
            assert process.poll() is None, (process.stderr.read() if process.stderr else b"").decode()
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (output / "codi.json").exists()


@pytest.mark.parametrize(
    ("saved", "killed", "dropout", "lora", "accumulation"),
    [
        pytest.param(4, 6, 0.0, False, 1, id="mid-epoch"),  # an epoch has 5 steps
        pytest.param(5, 7, 0.2, False, 1, id="end of an epoch, dropout"),
        pytest.param(8, 11, 0.2, True, 1, id="second epoch, LoRA dropout"),
        pytest.param(4, 6, 0.2, False, 2, id="accumulation, dropout"),
    ],
)
def test_killed_and_resumed_is_never_killed(
    tmp_path: Path, saved: int, killed: int, dropout: float, lora: bool, accumulation: int
) -> None:
    settings = tiny_settings(tmp_path, dropout=dropout, save_steps=saved)
    settings["training"]["gradient_accumulation_steps"] = accumulation
    settings["training"]["logging_steps"] = 3
    if lora:
        settings = lora_over_saved_base(tmp_path, settings)
    train_and_kill(settings, tmp_path / "killed", saved, killed)
    steps: list[int] = []
    resumed = run(settings, tmp_path / "killed", resume=True, callbacks=[Count(steps)])
    assert steps == list(range(saved + 1, 13))  # it went on, and did not start anew
    whole = run(settings, tmp_path / "whole")
    assert same_weights(tmp_path / "killed", tmp_path / "whole")
    ours = [entry for entry in resumed["history"] if "loss" in entry and entry["step"] >= saved + 3]
    theirs = [entry for entry in whole["history"] if entry["step"] >= saved + 3]
    assert ours
    for one, other in zip(ours, theirs, strict=False):
        assert {name: one[name] for name in ("step", "student", "teacher")} == pytest.approx(
            {name: other[name] for name in ("step", "student", "teacher")}
        )


class Count(TrainerCallback):
    """The steps that are taken."""

    def __init__(self, steps: list[int]) -> None:
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(state.global_step)


def interrupted(settings: dict[str, Any], output: Path, step: int = 9) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(settings, output, callbacks=[Interrupt(step)])


def test_incomplete_checkpoints_are_passed_over_and_removed(tmp_path: Path) -> None:
    settings, output = tiny_settings(tmp_path), tmp_path / "out"
    interrupted(settings, output)
    (output / "checkpoint-8" / COMPLETE).unlink()
    assert checkpoint_to_resume(output) == output / "checkpoint-4"
    (output / "checkpoint-11").mkdir()  # begun and never reached again: steps 12 alone is saved
    steps: list[int] = []
    run(settings, output, resume=True, callbacks=[Count(steps)])
    assert steps[0] == 5
    assert not (output / "checkpoint-11").exists()
    assert all((folder / COMPLETE).exists() for folder in output.glob("checkpoint-*"))
    run(settings, tmp_path / "whole")
    assert same_weights(output, tmp_path / "whole")


def test_resume_with_other_settings_is_refused(tmp_path: Path) -> None:
    settings, output = tiny_settings(tmp_path), tmp_path / "out"
    interrupted(settings, output)
    settings["training"]["learning_rate"] = 1e-4
    settings["method"]["latents"] = 3
    with pytest.raises(TrainingError, match="other settings in: method, training"):
        run(settings, output, resume=True)
    assert (output / "checkpoint-8" / COMPLETE).exists()


def test_resume_of_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    settings, output = tiny_settings(tmp_path), tmp_path / "out"
    run(settings, output)
    shutil.copytree(output, tmp_path / "before")
    for file in output.glob("*.safetensors"):  # killed after its last step, before the model was saved
        file.unlink()
    steps: list[int] = []
    assert run(settings, output, resume=True, callbacks=[Count(steps)])["steps"] == 12
    assert steps == []
    assert same_weights(output, tmp_path / "before")


def test_resume_without_a_run_starts_one(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=2, save_strategy="no")
    assert run(settings, tmp_path / "out", resume=True)["steps"] == 2


def test_a_folder_that_holds_a_run_is_refused_unless_overwritten(tmp_path: Path) -> None:
    settings, output = tiny_settings(tmp_path, max_steps=4, save_steps=2), tmp_path / "out"
    run(settings, output)
    with pytest.raises(TrainingError, match=r"already holds a run\. Use --resume.*--overwrite"):
        run(settings, output)
    (output / "mark").touch()
    settings["training"] |= {"max_steps": 3, "save_steps": 3}
    assert run(settings, output, overwrite=True)["steps"] == 3
    assert (output / "mark").exists(), "what the run did not write is not the run's to remove"
    assert [folder.name for folder in output.glob("checkpoint-*")] == ["checkpoint-3"]


def test_overwriting_loses_nothing_to_a_mistake(tmp_path: Path) -> None:
    settings, output = tiny_settings(tmp_path, max_steps=2, save_steps=2), tmp_path / "out"
    run(settings, output)
    for section, values in (
        ("data", {"train": "nowhere.jsonl"}),
        ("training", {"lr_scheduler_type": "cosinus"}),
    ):
        wrong = settings | {section: settings[section] | values}
        with pytest.raises(Exception, match=r"nowhere|do not work together"):
            run(wrong, output, overwrite=True)
        assert LatentReasoner.from_pretrained(output)


@pytest.mark.parametrize("where", ["weights", "optimizer", "marker"])
def test_a_full_disk_keeps_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    settings, output = tiny_settings(tmp_path, max_steps=8), tmp_path / "out"

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill_at_8(trainer: CodiTrainer, *args: Any) -> None:
        if trainer.state.global_step == 8:
            if where == "weights":
                monkeypatch.setattr(checkpoint, "save_file", full)
            elif where == "optimizer":
                monkeypatch.setattr(torch, "save", full)
            else:
                monkeypatch.setattr(Path, "write_text", full)

    plain = CodiTrainer._save_checkpoint

    def save(trainer: CodiTrainer, *args: Any) -> None:
        fill_at_8(trainer)
        plain(trainer, *args)

    with monkeypatch.context():
        monkeypatch.setattr(CodiTrainer, "_save_checkpoint", save)
        with pytest.raises(
            TrainingError, match=r"(?s)step 8 could not be written.*checkpoint-4 is still valid"
        ):
            run(settings, output)
    monkeypatch.undo()
    assert not (output / "checkpoint-8").exists()
    assert not list(output.glob(".*.saving"))
    assert LatentReasoner.from_pretrained(output / "checkpoint-4")
    run(settings, output, resume=True)  # after space was made
    run(settings, tmp_path / "whole")
    assert same_weights(output, tmp_path / "whole")


def test_the_last_complete_checkpoint_outlives_the_writing_of_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, output = tiny_settings(tmp_path, max_steps=8, save_total_limit=1), tmp_path / "out"
    complete_while_writing: list[list[str]] = []
    plain = CodiTrainer._save_rng_state

    def watched(trainer: CodiTrainer, folder: str) -> None:
        complete_while_writing.append([path.parent.name for path in output.glob(f"checkpoint-*/{COMPLETE}")])
        plain(trainer, folder)

    monkeypatch.setattr(CodiTrainer, "_save_rng_state", watched)
    run(settings, output)
    assert complete_while_writing == [[], ["checkpoint-4"]]
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-8"]


def test_resume_knows_the_best_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, output = tiny_settings(tmp_path, eval_strategy="steps", eval_steps=4), tmp_path / "out"
    settings["data"]["validation"] = write_rows(tmp_path / "validation.jsonl", examples(2))
    scripted = iter([0.9, 0.1, 0.2])
    monkeypatch.setattr(run_module, "_validator", lambda *_: lambda _: next(scripted))
    interrupted(settings, output)
    summary = run(settings, output, resume=True)
    assert summary["best_checkpoint"] == "checkpoint-4"
    assert summary["validation_accuracy"] == 0.9
    assert same_weights(output, output / "checkpoint-4")


def test_seconds_of_all_parts_are_counted(tmp_path: Path) -> None:
    settings, output = tiny_settings(tmp_path), tmp_path / "out"
    interrupted(settings, output)
    (output / "checkpoint-8" / COMPLETE).write_text("100.0\n")
    assert 100 < run(settings, output, resume=True)["train_seconds"] < 160
