"""The quickstart's systems are trained with equal care, from recipes that say what it does."""

from __future__ import annotations

from pathlib import Path

import pytest

from codi.data.encoding import TextEncoder, TextFormat
from codi.data.generators import familiar_generator
from codi.modeling.tokenizers import load_tokenizer
from codi.quickstart.run import Settings
from codi.quickstart.systems import EXAMPLES, METHODS, PROBLEMS, UPDATES, stages
from codi.training.recipes import load_recipe


@pytest.mark.parametrize("updates", [None, 2, 3, 50])
@pytest.mark.parametrize("method", METHODS)
def test_every_system_has_as_many_updates(method: str, updates: int | None) -> None:
    assert sum(stage.updates for stage in stages(method, updates)) == (updates or UPDATES)


@pytest.mark.parametrize("method", METHODS)
def test_the_recipes_are_what_the_quickstart_runs(method: str, tmp_path: Path) -> None:
    job = Settings(method, tmp_path, seed=7, steps=None, questions=1000)
    for stage in job.stages:
        recipe, ours = load_recipe(stage.recipe), job.configuration(stage)
        assert EXAMPLES == 2500
        assert recipe.data.train == "two-branches?count=2500&shorter=20"
        assert ours.data.train == f"{PROBLEMS}&count=2500&seed=7"
        assert (ours.method, ours.model, ours.text) == (recipe.method, recipe.model, recipe.text)
        assert ours.training == {**recipe.training, "seed": 7, "disable_tqdm": True}
        assert (ours.start is None) == (recipe.start is None)
        assert ours.data.validation == recipe.data.validation
    assert Path(job.output / job.stages[-1].folder) == tmp_path / method


@pytest.mark.parametrize("name", ["word-problems", "two-branches"])
def test_a_model_is_asked_the_problems_that_it_can_read(name: str) -> None:
    text = TextEncoder(load_tokenizer(name), TextFormat())
    assert familiar_generator(text.reads) == name


def test_word_problems_are_asked_where_nothing_or_everything_can_be_read() -> None:
    assert familiar_generator(lambda question: False) == "word-problems"
    assert familiar_generator(lambda question: True) == "word-problems"
