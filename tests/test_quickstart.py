"""The quickstart's systems are trained with equal care, from recipes that say what it does."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from codi.data.encoding import TextEncoder, TextFormat
from codi.data.generators import familiar_generator
from codi.errors import CodiError, UsageError
from codi.modeling.tokenizers import load_tokenizer
from codi.quickstart.run import Settings, run_quickstart
from codi.quickstart.systems import BATCH, EXAMPLES, METHODS, PROBLEMS, START, UPDATES, stages
from codi.training.recipes import load_recipe


@pytest.mark.parametrize("updates", [None, 2, 3, 50])
@pytest.mark.parametrize("method", METHODS)
def test_every_system_has_as_many_updates(method: str, updates: int | None) -> None:
    assert sum(stage.updates for stage in stages(method, updates)) == (updates or UPDATES)


def test_a_single_update_is_refused() -> None:
    with pytest.raises(UsageError, match="--steps must be at least 2"):
        stages("codi", 1)


def test_all_systems_are_trained_with_the_same_care(tmp_path: Path) -> None:
    """Base, adapters, problems, batches, optimiser and schedule are one; method, start, updates are not."""
    wanted = load_recipe("quickstart")
    assert wanted.data.train == f"two-branches?count={EXAMPLES}&shorter=20"
    assert wanted.training["per_device_train_batch_size"] == BATCH
    for method in METHODS:
        job = Settings(method, tmp_path, seed=7, steps=None, questions=1000)
        for stage in job.stages:
            recipe, ours = load_recipe(stage.recipe), job.configuration(stage)
            assert (ours.model, ours.text, ours.optimizer) == (wanted.model, wanted.text, wanted.optimizer)
            assert ours.data == replace(
                wanted.data, train=f"{PROBLEMS}&count={EXAMPLES}&seed=7", validation_limit=300
            )
            of_its_own = {"max_steps", "eval_steps", "seed", "disable_tqdm"}
            assert {k: v for k, v in ours.training.items() if k not in of_its_own} == {
                k: v for k, v in wanted.training.items() if k not in of_its_own
            }
            assert ours.training["max_steps"] == recipe.training["max_steps"] == stage.updates
            assert (ours.start is None) == (recipe.start is None) == (stage.start is None)
            assert ours.training["seed"] == 7
    assert job.stages[-1].folder == method


@pytest.mark.parametrize("folder", ["try #2", "x: y", "[1]", "{a}", "null", "a=b", "ü ' \""])
def test_any_folder_may_hold_it(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (_, codi) = stages("codi", None)
    start = Settings("codi", Path(folder), 1, None, 10).configuration(codi).start
    assert start == str(tmp_path / folder / START)


def test_what_cannot_be_run_is_refused_before_anything_is_removed(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}", encoding="utf-8")
    (tmp_path / "codi").mkdir()
    for asked, said in (
        ({"questions": 2100}, "--questions 2100 is more than there are"),
        ({"seed": -1}, "seed"),
        ({"steps": 1}, "--steps"),
    ):
        with pytest.raises(CodiError, match=said):
            run_quickstart(tmp_path, overwrite=True, **asked)
        assert (tmp_path / "results.json").exists()
        assert (tmp_path / "codi").exists()


@pytest.mark.timeout(600)
def test_it_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in CODI's start, and after it; named from elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    short = {"steps": 4, "questions": 4, "say": lambda _: None}
    whole = run_quickstart(Path("q"), **short)
    assert not whole["resumed"]
    (tmp_path / "q/results.json").unlink()
    (tmp_path / "q/codi-start/training.json").unlink()  # as if it had been stopped before its end
    shutil.rmtree(tmp_path / "q/codi")
    with pytest.raises(CodiError, match="other settings in: data, training"):
        run_quickstart(Path("q"), seed=2, **short)
    again = run_quickstart(tmp_path / "q", **short)
    assert again["resumed"]
    for method in METHODS:
        assert again["methods"][method]["benchmarks"] == whole["methods"][method]["benchmarks"]


@pytest.mark.parametrize("name", ["word-problems", "two-branches"])
def test_a_model_is_asked_the_problems_that_it_can_read(name: str) -> None:
    text = TextEncoder(load_tokenizer(name), TextFormat())
    assert familiar_generator(text.reads) == name


def test_word_problems_are_asked_where_nothing_or_everything_can_be_read() -> None:
    assert familiar_generator(lambda question: False) == "word-problems"
    assert familiar_generator(lambda question: True) == "word-problems"
