"""Runs that were moved, copied in part or damaged: they go on to the same weights, or say why not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from codi.cli import app
from codi.errors import CheckpointError, Interrupted, TrainingError
from codi.generation.latent_reasoner import LatentReasoner
from codi.training import resuming
from codi.training import run as run_module
from codi.training.resuming import COMPLETE, Mark, faults
from codi.training.run import train
from tiny_runs import (
    Interrupt,
    configured,
    examples,
    lora_over_saved_base,
    run,
    same_weights,
    tiny_settings,
    write_rows,
)

Settings = dict[str, Any]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Path, Path]:
    """Settings, a run of them interrupted after step 11 (checkpoints 4 and 8), and one never interrupted."""
    folder = tmp_path_factory.mktemp("trained")
    settings = tiny_settings(folder, dropout=0.1)
    with pytest.raises(KeyboardInterrupt):
        run(settings, folder / "cut", callbacks=[Interrupt(11)])
    run(settings, folder / "whole")
    return settings, folder / "cut", folder / "whole"


@pytest.fixture
def cut(trained: tuple[Settings, Path, Path], tmp_path: Path) -> Path:
    """A copy of the interrupted run, somewhere else."""
    shutil.copytree(trained[1], tmp_path / "moved" / "run")
    return tmp_path / "moved" / "run"


def resumed(settings: Settings, output: Path) -> list[str]:
    """Go on, and return what was said."""
    said: list[str] = []
    train(configured(settings), output, resume=True, say=said.append)
    return said


def shorten(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)


def spoil(file: Path) -> None:
    """Flip the bytes in the middle: the length stays."""
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(255 - byte for byte in data[middle : middle + 64])
    file.write_bytes(data)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def remove(file: Path) -> None:
    file.unlink()


DAMAGE: list[tuple[str, Callable[[Path], None], str]] = [
    ("optimizer.pt", empty, "optimizer.pt is empty"),
    ("optimizer.pt", shorten, "optimizer.pt is damaged"),
    ("optimizer.pt", spoil, "optimizer.pt is damaged"),
    ("optimizer.pt", remove, "optimizer.pt is missing"),
    ("scheduler.pt", remove, "scheduler.pt is missing"),
    ("scheduler.pt", empty, "scheduler.pt is empty"),
    ("rng_state.pth", remove, "rng_state.pth is missing"),
    ("rng_state.pth", shorten, "rng_state.pth is damaged"),
    ("trainer_state.json", remove, "trainer_state.json is missing"),
    ("trainer_state.json", shorten, "trainer_state.json is damaged"),
    ("trainer_state.json", empty, "trainer_state.json is damaged"),
    ("model.safetensors", shorten, "model.safetensors is cut off"),
    ("model.safetensors", empty, "model.safetensors is empty"),
    ("model.safetensors", remove, "model.safetensors is missing"),
    ("thoughts.safetensors", remove, "thoughts.safetensors is missing"),
    ("thoughts.safetensors", shorten, "thoughts.safetensors is cut off"),
    ("codi.json", shorten, "codi.json is damaged"),
    ("codi.json", remove, "codi.json is missing"),
    ("config.json", remove, "config.json is missing or damaged"),
]


@pytest.mark.parametrize(("name", "damage", "told"), DAMAGE, ids=[f"{d[0]} {d[1].__name__}" for d in DAMAGE])
def test_a_damaged_part_is_named(name: str, damage: Callable[[Path], None], told: str, cut: Path) -> None:
    assert faults(cut / "checkpoint-8") == []
    damage(cut / "checkpoint-8" / name)
    assert told in "; ".join(faults(cut / "checkpoint-8"))


@pytest.mark.parametrize(
    ("name", "damage"),
    [("optimizer.pt", empty), ("rng_state.pth", remove), ("model.safetensors", shorten), (COMPLETE, remove)],
)
def test_the_newest_whole_checkpoint_is_used(
    name: str, damage: Callable[[Path], None], cut: Path, trained: tuple[Settings, Path, Path]
) -> None:
    """Whatever is wrong with the newer one, which stays where it is until its step comes again."""
    settings, _, whole = trained
    damage(cut / "checkpoint-8" / name)
    steps: list[int] = []

    class Kept(Interrupt):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            steps.append(state.global_step + 1)
            if name != COMPLETE:
                assert (cut / "checkpoint-8").is_dir()

    said: list[str] = []
    train(configured(settings), cut, resume=True, say=said.append, callbacks=[Kept(99)])
    assert steps[0] == 5
    assert any("checkpoint-8 is passed over" in line for line in said)
    assert any("goes on from checkpoint-4" in line for line in said)
    assert same_weights(cut, whole)
    assert faults(cut / "checkpoint-8") == []  # written again on the way


def test_a_kill_while_a_damaged_checkpoint_is_overwritten_leaves_no_false_marker(
    cut: Path, trained: tuple[Settings, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    empty(cut / "checkpoint-8/optimizer.pt")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run_module.CodiTrainer, "_save_optimizer_and_scheduler", killed)
        with pytest.raises(Interrupted, match="checkpoint-4 is kept"):
            resumed(trained[0], cut)
    assert not (cut / "checkpoint-8" / COMPLETE).exists()
    resumed(trained[0], cut)
    assert same_weights(cut, trained[2])


def test_no_whole_checkpoint_is_said_and_nothing_deleted(
    cut: Path, trained: tuple[Settings, Path, Path]
) -> None:
    empty(cut / "checkpoint-8/optimizer.pt")
    remove(cut / "checkpoint-4/scheduler.pt")
    before = sorted(path.relative_to(cut) for path in cut.rglob("*"))
    absent = json.loads(json.dumps(trained[0]))
    absent["data"]["train"] = "never-read.jsonl"
    (cut / "run.yaml").write_text(yaml.safe_dump(configured(absent).as_dict()))
    with pytest.raises(TrainingError, match=r"(?s)checkpoint-8: optimizer\.pt is empty.*checkpoint-4: sched"):
        resumed(absent, cut)  # before data is read
    assert sorted(path.relative_to(cut) for path in cut.rglob("*")) == before


def test_damage_through_the_command_line_is_one_message(
    cut: Path, trained: tuple[Settings, Path, Path], tmp_path: Path
) -> None:
    for name in ("checkpoint-4", "checkpoint-8"):
        empty(cut / name / "optimizer.pt")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(trained[0]))
    result = CliRunner().invoke(app, ["train", str(recipe), "--output", str(cut), "--resume"])
    assert result.exit_code == 2
    assert "Aborted" not in result.output
    assert "optimizer.pt is empty" in result.stderr


def test_an_end_of_file_is_never_only_aborted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def ends(*_: object, **__: object) -> None:
        raise EOFError("Ran out of input")

    monkeypatch.setattr("codi.load_examples", ends)
    result = CliRunner().invoke(app, ["data", "test", "--output", str(tmp_path / "out.jsonl")])
    assert result.exit_code == 2
    assert "Ran out of input" in result.stderr


def test_random_states_of_several_processes(cut: Path) -> None:
    """Each process needs its own; a checkpoint of another number of them needs none."""
    folder = cut / "checkpoint-8"
    assert Mark.of(folder).processes == 1
    assert faults(folder, processes=2) == []  # goes on as before, with other dropout
    (folder / COMPLETE).write_text(Mark(1.0, 3).text())
    (folder / "rng_state.pth").rename(folder / "rng_state_0.pth")
    shutil.copy(folder / "rng_state_0.pth", folder / "rng_state_1.pth")
    assert faults(folder, processes=3) == ["rng_state_2.pth is missing"]
    assert faults(folder, processes=2) == faults(folder, processes=1) == []
    (folder / COMPLETE).write_text("12.5\n")  # a marker of before, which does not say how many wrote it
    assert faults(folder, processes=2) == []
    remove(folder / "rng_state_1.pth")
    assert faults(folder, processes=2) == ["rng_state_1.pth is missing"]
    remove(folder / "rng_state_0.pth")
    assert faults(folder, processes=1) == ["rng_state.pth is missing"]


def test_a_lora_checkpoint_needs_its_adapter(tmp_path: Path) -> None:
    settings = lora_over_saved_base(tmp_path, tiny_settings(tmp_path, max_steps=3, save_steps=2))
    run(settings, tmp_path / "out")
    folder = tmp_path / "out/checkpoint-2"
    assert faults(folder) == []
    shorten(folder / "adapter_model.safetensors")
    assert "adapter_model.safetensors is cut off" in faults(folder)[0]


def test_folders_of_other_names_are_not_checkpoints(cut: Path, trained: tuple[Settings, Path, Path]) -> None:
    for name in ("checkpoint-best", "checkpoint-8 (copy)", "checkpoint-"):
        (cut / name).mkdir()
        (cut / name / COMPLETE).touch()
    (cut / "checkpoint-99").write_text("a file")
    resumed(trained[0], cut)
    assert same_weights(cut, trained[2])


# --- killed at any moment


class _Moments:
    """Copies of a folder between any two changes of its files: what a kill at that moment would leave."""

    def __init__(self) -> None:
        self.watched: Path | None = None
        self.kept: Path | None = None
        self.states: dict[tuple[Any, ...], Path] = {}
        self.busy = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.watched is None or self.kept is None or self.busy:
            return
        if event not in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"):
            return
        self.busy = True
        try:
            self._look()
        finally:
            self.busy = False

    def _look(self) -> None:
        assert self.watched is not None
        assert self.kept is not None
        if not self.watched.exists():
            return
        files = sorted(self.watched.rglob("*"))
        sizes = [path.stat().st_size if path.is_file() else -1 for path in files]
        state = tuple(zip(map(str, files), sizes, strict=True))
        if state not in self.states:
            self.states[state] = self.kept / str(len(self.states))
            shutil.copytree(self.watched, self.states[state])


MOMENTS = _Moments()
sys.addaudithook(MOMENTS)


@pytest.fixture
def moments(tmp_path: Path) -> Iterator[_Moments]:
    MOMENTS.states.clear()
    MOMENTS.kept = tmp_path / "moments"
    yield MOMENTS
    MOMENTS.watched = None


def test_a_kill_at_any_moment_leaves_a_run_that_goes_on(tmp_path: Path, moments: _Moments) -> None:
    """Between any two files: of a checkpoint, of its rotation, of the model, of the account."""
    settings = tiny_settings(tmp_path, rows=8, dropout=0.1, max_steps=4, save_steps=2, save_total_limit=1)
    moments.watched = tmp_path / "out"
    whole = run(settings, tmp_path / "out")
    moments.watched = None
    states = list(moments.states.values())
    assert len(states) > 60
    # All of them were tried when this was written; a part of them, spread evenly, keeps the test quick.
    every = int(os.environ.get("CODI_EVERY_MOMENT", "15"))
    for state in [*states[::every], states[-1]]:
        summary = run(settings, state, resume=True)
        assert same_weights(state, tmp_path / "out"), state
        assert (summary["steps"], summary["validation_accuracy"]) == (4, whole["validation_accuracy"])
        assert LatentReasoner.from_pretrained(state, device="cpu")
        assert not [path for path in state.iterdir() if path.name.endswith(".saving")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_says_what_is_kept(tmp_path: Path, number: signal.Signals) -> None:
    settings = tiny_settings(tmp_path, rows=8, max_steps=4, save_steps=2)

    class Send(Interrupt):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == self.step:
                os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGTERM)
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(Interrupted, match=r"checkpoint-2 is kept.*--resume") as caught:
            run(settings, tmp_path / "out", callbacks=[Send(3)])
    finally:
        signal.signal(signal.SIGINT, usual)
    assert caught.value.exit_code == 128 + number
    assert ("SIGTERM" in str(caught.value)) is (number == signal.SIGTERM)
    if number == signal.SIGTERM:
        with pytest.raises(Interrupted, match="begins at the first step"):
            run(settings, tmp_path / "early", callbacks=[Send(1)])
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_command_line_prints_what_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def ended(*_: object, **__: object) -> None:
        raise Interrupted("terminated (SIGTERM). checkpoint-4 is kept", 143)

    monkeypatch.setattr("codi.train", ended)
    result = CliRunner().invoke(app, ["train", "word-problems", "--output", str(tmp_path / "run")])
    assert result.exit_code == 143
    assert result.stderr.startswith("error: terminated (SIGTERM). checkpoint-4 is kept")


def test_a_finished_run_without_checkpoints_is_left_as_it_is(tmp_path: Path) -> None:
    settings, output = tiny_settings(tmp_path, max_steps=2, save_strategy="no"), tmp_path / "out"
    run(settings, output)
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    said = resumed(settings, output)
    assert any("finished" in line for line in said)
    assert {path.name: path.stat().st_mtime_ns for path in output.iterdir()} == before
    shorten(output / "model.safetensors")  # the end of it was lost: nothing but the beginning is left
    assert run(settings, output, resume=True)["steps"] == 2
    assert LatentReasoner.from_pretrained(output, device="cpu")


# --- the best checkpoint


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Path, Path]:
    """A run with validation that took all steps but was cut before its model was written; and its end."""
    folder = tmp_path_factory.mktemp("chosen")
    settings = tiny_settings(folder, max_steps=12, eval_strategy="steps", eval_steps=4, save_total_limit=5)
    settings["data"]["validation"] = write_rows(folder / "validation.jsonl", examples(2))
    scripted = iter([0.5, 0.9, 0.25])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_module, "_validator", lambda *_: lambda _: next(scripted))
        summary = run(settings, folder / "whole")
    assert summary["best_checkpoint"] == "checkpoint-8"
    shutil.copytree(folder / "whole", folder / "cut")
    for file in (folder / "cut").iterdir():
        if file.is_file() and file.name not in ("run.yaml", "data.json"):
            file.unlink()
    return settings, folder / "cut", folder / "whole"


def reported(output: Path) -> tuple[str | None, float | None]:
    """The best checkpoint and the accuracy of training.json."""
    summary: dict[str, Any] = json.loads((output / "training.json").read_text())
    return summary["best_checkpoint"], summary["validation_accuracy"]


def change_state(folder: Path, **values: Any) -> None:
    file = folder / "trainer_state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("recorded", ["/gone/checkpoint-8", "runs/x/checkpoint-8", r"C:\run\checkpoint-8"])
def test_the_best_checkpoint_is_found_by_its_name(
    recorded: str, chosen: tuple[Settings, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after its last step and moved; and moved in the middle."""
    settings, source, whole = chosen
    output = tmp_path / "moved"
    shutil.copytree(source, output)
    change_state(output / "checkpoint-12", best_model_checkpoint=recorded)
    said = resumed(settings, output)
    assert not any("cannot be used" in line for line in said)
    assert same_weights(output, whole)
    assert reported(output) == (
        "checkpoint-8",
        0.9,
    )
    middle = tmp_path / "middle"
    shutil.copytree(source, middle, ignore=shutil.ignore_patterns("checkpoint-12"))
    change_state(middle / "checkpoint-8", best_model_checkpoint=recorded)
    monkeypatch.setattr(run_module, "_validator", lambda *_: lambda _: 0.25)
    monkeypatch.chdir(tmp_path)
    train(configured(settings), Path("middle"), resume=True, say=said.append)
    assert same_weights(middle, whole)
    assert reported(middle) == ("checkpoint-8", 0.9)


def test_a_lost_best_checkpoint_is_said_and_the_choice_starts_anew(
    chosen: tuple[Settings, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, source, _ = chosen
    monkeypatch.setattr(run_module, "_validator", lambda *_: lambda _: 0.3)
    lost = tmp_path / "lost"
    shutil.copytree(source, lost, ignore=shutil.ignore_patterns("checkpoint-8"))
    said = resumed(settings, lost)
    told = next(line for line in said if "cannot be used" in line)
    assert "checkpoint-8 (validation accuracy 90.0 %)" in told
    assert "it is not there" in told
    assert "from checkpoint-4 (validation accuracy 50.0 %)" in told
    assert reported(lost) == ("checkpoint-4", 0.5)
    assert same_weights(lost, lost / "checkpoint-4")

    alone = tmp_path / "alone"  # the newest checkpoint alone was copied
    shutil.copytree(source, alone, ignore=shutil.ignore_patterns("checkpoint-4", "checkpoint-8"))
    said = resumed(settings, alone)
    assert any("starts anew from checkpoint-12 (validation accuracy 25.0 %)" in line for line in said)
    assert reported(alone) == (
        "checkpoint-12",
        0.25,
    )
    assert same_weights(alone, alone / "checkpoint-12")

    damaged = tmp_path / "damaged"
    shutil.copytree(source, damaged)
    shorten(damaged / "checkpoint-8/model.safetensors")
    assert any("model.safetensors is cut off" in line for line in resumed(settings, damaged))
    assert reported(damaged) == ("checkpoint-4", 0.5)


def test_a_lost_best_checkpoint_in_the_middle_of_a_run(
    chosen: tuple[Settings, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of step 8 alone is copied; its record names one that was better, and is not there."""
    settings, source, _ = chosen
    output = tmp_path / "copied"
    shutil.copytree(source, output, ignore=shutil.ignore_patterns("checkpoint-4", "checkpoint-12"))
    state = json.loads((output / "checkpoint-8/trainer_state.json").read_text())
    history = [
        entry | ({"eval_accuracy": 0.0} if "eval_accuracy" in entry else {}) for entry in state["log_history"]
    ]
    change_state(output / "checkpoint-8", best_metric=0.9, best_global_step=4, log_history=history,
                 best_model_checkpoint="/old/run/checkpoint-4")  # fmt: skip
    monkeypatch.setattr(run_module, "_validator", lambda *_: lambda _: 0.0)
    said = resumed(settings, output)
    assert any("checkpoint-4 (validation accuracy 90.0 %), cannot be used" in line for line in said)
    assert reported(output) == ("checkpoint-8", 0.0)
    assert same_weights(output, output / "checkpoint-8")


@pytest.mark.parametrize(
    ("strategies", "best", "accuracy"),
    [
        ({"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "no"}, None, 0.25),
        ({"eval_strategy": "no", "save_steps": 2}, None, None),
    ],
)
def test_without_a_choice_the_accuracy_is_that_of_the_last_step(
    strategies: dict[str, Any], best: str | None, accuracy: float | None, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settings = tiny_settings(tmp_path, rows=8, max_steps=4)
    settings["training"] = {k: v for k, v in settings["training"].items() if not k.startswith("save_")}
    settings["training"] |= strategies
    settings["data"]["validation"] = write_rows(tmp_path / "validation.jsonl", examples(2))
    scripted = iter([0.9, 0.25])
    monkeypatch.setattr(run_module, "_validator", lambda *_: lambda _: next(scripted))
    summary = run(settings, tmp_path / "out")
    assert (summary["best_checkpoint"], summary["validation_accuracy"]) == (best, accuracy)
    assert bool(list((tmp_path / "out").glob("checkpoint-*"))) == (strategies.get("save_strategy") != "no")


# --- settings, rows and base are those of the run


def test_run_yaml_says_what_the_run_was_started_with(cut: Path, trained: tuple[Settings, Path, Path]) -> None:
    settings = json.loads(json.dumps(trained[0]))
    whole = (cut / "run.yaml").read_text()
    (cut / "run.yaml").unlink()
    with pytest.raises(TrainingError, match=r"has checkpoints but no run\.yaml.*--dry-run"):
        resumed(settings, cut)
    for damaged in ("", "- a\n", "{", "method: [\n", "\0\0\0\0"):
        (cut / "run.yaml").write_text(damaged)
        with pytest.raises(TrainingError, match=r"run\.yaml is damaged"):
            resumed(settings, cut)
    (cut / "run.yaml").write_text(whole)
    settings["training"]["learning_rate"] = 1e-4
    with pytest.raises(TrainingError, match=r"training\.learning_rate: 0\.003, now 0\.0001"):
        resumed(settings, cut)
    older = yaml.safe_load(whole)
    del older["model"]["merge_adapter"], older["model"]["gguf_file"], older["optimizer"]
    (cut / "run.yaml").write_text(yaml.safe_dump(older))  # of a version that did not know them
    resumed(trained[0], cut)
    assert same_weights(cut, trained[2])


def test_a_folder_with_checkpoints_alone_holds_a_run(cut: Path, trained: tuple[Settings, Path, Path]) -> None:
    (cut / "run.yaml").unlink()
    with pytest.raises(TrainingError, match="already holds a run"):
        run(trained[0], cut)


def test_other_rows_under_the_same_name_are_refused(tmp_path: Path) -> None:
    settings, output = tiny_settings(tmp_path, max_steps=6), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(settings, output, callbacks=[Interrupt(5)])
    kept = (tmp_path / "train.jsonl").read_text()
    write_rows(tmp_path / "train.jsonl", examples(21)[1:])
    with pytest.raises(TrainingError, match="began with other training rows"):
        run(settings, output, resume=True)
    (tmp_path / "train.jsonl").write_text(kept)
    # the same rows at another place, which run.yaml is told
    settings["data"]["train"] = str((tmp_path / "train.jsonl").rename(tmp_path / "moved.jsonl"))
    text = (output / "run.yaml").read_text()
    with pytest.raises(TrainingError, match=r"data\.train.*has only moved"):
        run(settings, output, resume=True)
    (output / "run.yaml").write_text(text.replace("train.jsonl", "moved.jsonl"))
    assert run(settings, output, resume=True)["steps"] == 6


def test_another_base_under_the_same_name_is_refused(tmp_path: Path) -> None:
    settings = lora_over_saved_base(tmp_path, tiny_settings(tmp_path, max_steps=6))
    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path / "out", callbacks=[Interrupt(5)])
    from safetensors.torch import load_file, save_file

    file = tmp_path / "base/model.safetensors"
    save_file({name: tensor + 0.5 for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match="another base"):
        run(settings, tmp_path / "out", resume=True)


def test_marks_are_read_as_they_were_written(tmp_path: Path) -> None:
    for text, wanted in (
        (Mark(1.5, 2, "abc").text(), Mark(1.5, 2, "abc")),
        ("100.0\n", Mark(100.0)),
        ("", Mark(0.0)),
        ("\0\0\0", Mark(0.0)),
    ):
        (tmp_path / COMPLETE).write_text(text)
        assert Mark.of(tmp_path) == wanted


def test_the_search_for_faults_reads_what_torch_saves(tmp_path: Path) -> None:
    """The checksums that faults are found by are those that torch writes."""
    torch.save({"weight": torch.randn(2000)}, tmp_path / "optimizer.pt")
    assert resuming._torch_fault(tmp_path / "optimizer.pt") is None
    spoil(tmp_path / "optimizer.pt")
    assert "damaged" in str(resuming._torch_fault(tmp_path / "optimizer.pt"))
