"""Runs side by side: what a grid of settings is chosen by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from codi.cli import app
from codi.reproduce.run_curves import read_curves
from codi.training.run import train

SHORT = {
    "data.train": "two-branches?count=16", "data.validation": "two-branches?count=4",
    "training.max_steps": 4, "training.eval_steps": 2, "training.per_device_train_batch_size": 4,
    "training.save_total_limit": 5, "training.disable_tqdm": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short runs with other learning rates, `slow` and `fast`."""
    folder = tmp_path_factory.mktemp("runs")
    for name, rate in (("slow", 1e-4), ("fast", 1e-2)):
        settings = {**SHORT, "training.learning_rate": rate}
        train("small-no-cot-sft", folder / name, settings, say=lambda _: None)
    return folder


def run(*arguments: Any) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["curves", *map(str, arguments)])
    return result.exit_code, result.output + (result.stderr or "")


def test_what_differs_and_what_was_learned(runs: Path, tmp_path: Path) -> None:
    file, figure = tmp_path / "curves.json", tmp_path / "curves.png"
    code, said = run(runs / "slow", runs / "fast", "--output", file, "--figure", figure)
    assert code == 0, said
    slow, fast = json.loads(file.read_text())["runs"]
    assert (slow["run"], slow["settings"]) == ("slow", {"training.learning_rate": 1e-4})
    assert (fast["run"], fast["settings"]) == ("fast", {"training.learning_rate": 1e-2})
    assert [point["step"] for point in fast["validation"]] == [2, 4]
    trained = json.loads((runs / "fast" / "training.json").read_text())
    assert fast["validation"][-1]["accuracy"] == [
        one["eval_accuracy"] for one in trained["history"] if "eval_accuracy" in one
    ][-1]
    assert fast["train_seconds"] == trained["train_seconds"]
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert all(text in said for text in ("slow", "fast", "0.01", "0.0001"))


def test_a_run_that_is_not_finished_is_read_as_far_as_it_came(runs: Path) -> None:
    going = runs / "going"
    going.mkdir()
    (going / "run.yaml").write_text((runs / "slow" / "run.yaml").read_text())
    code, said = run(runs / "slow", going)
    assert code == 2
    assert "has no checkpoint yet" in said
    for step in (2, 4):
        state = runs / "slow" / f"checkpoint-{step}" / "trainer_state.json"
        if state.exists():
            (going / f"checkpoint-{step}").mkdir()
            (going / f"checkpoint-{step}" / "trainer_state.json").write_text(state.read_text())
    (found,) = read_curves([going])
    assert found.seconds is None
    assert found.curve[-1]["step"] == 4
    assert "not finished" in run(going)[1]


def test_what_is_no_run(runs: Path, tmp_path: Path) -> None:
    code, said = run(runs / "slow", tmp_path)
    assert code == 2
    assert "holds no run" in said
    code, said = run(runs / "slow", "--figure", tmp_path / "curves.txt")
    assert code == 2
    assert "must end in .png, .pdf or .svg" in said
