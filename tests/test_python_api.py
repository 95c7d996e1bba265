"""What `codi` offers in Python: light to import, documented, and what the commands themselves call."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import codi
from codi.cli import app
from codi.data.sources import write_jsonl
from codi.errors import DataError, RecipeError, TrainingError, UsageError
from codi.evaluation.benchmarks import load_benchmark
from codi.generation.latent_reasoner import LatentReasoner
from codi.training.recipes import build_run_config, load_recipe
from tiny_checkpoints import tiny_reasoner
from tiny_runs import examples, same_weights, tiny_settings, write_rows

FUNCTIONS = ("compare", "evaluate", "load_examples", "probe", "train")
DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def reasoner() -> LatentReasoner:
    return tiny_reasoner("codi", latents=2)


@pytest.fixture(scope="module")
def checkpoint(reasoner: LatentReasoner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("python") / "codi"
    reasoner.save_pretrained(folder)
    return folder


def test_importing_is_light_and_names_resolve() -> None:
    code = (
        "import sys, codi\n"
        "assert set(codi.__all__) <= set(dir(codi))\n"
        "print([m for m in ('torch', 'transformers', 'numpy', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'training_day'"):
        _ = codi.training_day  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [name for name in codi.__all__ if name != "__version__"])
def test_every_name_is_documented(name: str) -> None:
    value = getattr(codi, name)
    assert len(inspect.getdoc(value) or "") > 40
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    assert f"::: {value.__module__}.{value.__qualname__}" in page
    if name not in FUNCTIONS:
        return
    signature = inspect.signature(value)
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the functions in the order in which they are called, each doing its work."""
    calls: list[str] = []

    def watched(name: str, real: Any) -> Any:
        def noted(*args: Any, **options: Any) -> Any:
            calls.append(name)
            return real(*args, **options)

        return noted

    for name in FUNCTIONS:
        monkeypatch.setattr(codi, name, watched(name, getattr(codi, name)))
    return calls


def test_commands_call_them(called: list[str], checkpoint: Path, tmp_path: Path) -> None:
    def run(*words: object) -> None:
        result = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
        assert result.exit_code == 0, result.output

    quick = ["training.max_steps=1", "training.eval_strategy=no", "data.validation=null"]
    run("train", "word-problems", "--output", tmp_path / "run", "data.train=word-problems?count=8", *quick)
    run("data", "test", "--count", "4", "--output", tmp_path / "own.jsonl")
    run(
        "eval", checkpoint, "--benchmark", tmp_path / "own.jsonl", "--predictions", tmp_path / "p",
        "--latency-questions", "0", "--max-new-tokens", "4",
    )  # fmt: skip
    run("compare", tmp_path / "p/own.jsonl", tmp_path / "p/own.jsonl")
    run("probe", checkpoint, "--question", "How many apples are there now?")
    assert called == ["train", "load_examples", "evaluate", "compare", "probe"]


def test_train_takes_a_recipe_in_any_form(tmp_path: Path) -> None:
    """A file, its values and the typed configuration give the same weights; settings go over each."""
    values = tiny_settings(tmp_path, rows=8, max_steps=9, save_strategy="no")
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    say: list[str] = []
    settings = {"training.max_steps": 2, "method.latents": 1, "data.train": Path(values["data"]["train"])}
    for number, recipe in enumerate((str(file), file, values, build_run_config(dict(values)))):
        result = codi.train(recipe, tmp_path / f"run-{number}", settings, say=say.append)
        assert (result.steps, result.accuracy) == (2, None)
        assert same_weights(tmp_path / "run-0", result.output)
    typed = ["training.max_steps=2", "method.latents=1"]
    assert same_weights(tmp_path / "run-0", codi.train(values, tmp_path / "typed", typed).output)
    assert any("What codi reads" in line for line in say)
    codi.train(file, tmp_path / "new", settings, resume=True, say=say.append)  # a name mistyped, perhaps
    assert any("holds no checkpoint to go on from" in line for line in say)
    answer = result.reasoner(device="cpu").answer([examples(1)[0].question], max_new_tokens=4)[0]
    assert answer.thoughts == 3  # one latent between <bot> and <eot>
    assert values["training"]["max_steps"] == 9  # what was handed in is left alone


def test_train_refuses(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"Did you mean 'learning_rate'\?"):
        codi.train("word-problems", tmp_path / "a", {"training.learnin_rate": 1})
    with pytest.raises(RecipeError, match="'latents' is 'many'"):
        codi.train("word-problems", tmp_path / "a", {"method.latents": "many"})
    with pytest.raises(RecipeError, match="not a setting"):
        codi.train("word-problems", tmp_path / "a", ["method.latents"])
    with pytest.raises(UsageError, match="Give one of them"):
        codi.train("word-problems", tmp_path / "a", resume=True, overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        codi.train("word-problems", tmp_path / "file")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.yaml").touch()
    with pytest.raises(TrainingError, match="already holds a run"):
        codi.train("word-problems", tmp_path / "run")
    assert not (tmp_path / "a").exists()


def test_a_method_set_by_its_name_drops_the_recipes_options() -> None:
    assert load_recipe("word-problems", {"method.name": "no-cot-sft"}).method == {"name": "no-cot-sft"}
    kept = load_recipe("word-problems", {"method.name": "codi", "method.latents": 2})
    assert kept.method == {"name": "codi", "beta": 5, "latents": 2}
    assert load_recipe(kept, {"method.latents": 3}).method["latents"] == 3
    assert load_recipe(kept) is kept


def test_evaluate_and_compare(reasoner: LatentReasoner, checkpoint: Path, tmp_path: Path) -> None:
    quick: dict[str, Any] = {"latency_questions": 0, "max_new_tokens": 4}
    loaded = load_benchmark("in_domain", limit=6)
    named = codi.evaluate(checkpoint, "in_domain", limit=6, predictions=tmp_path / "p.jsonl", **quick)
    assert (named.n, named.scorer) == (6, "codi")  # a named set's own scorer
    assert codi.evaluate(reasoner, loaded, **quick) == named
    assert codi.evaluate(reasoner, loaded, limit=2, **quick).n == 2
    listed = codi.evaluate(reasoner, loaded.examples, **quick)
    assert (listed.scorer, listed.outcomes) == ("number", named.outcomes)  # chosen from the answers
    write_jsonl(loaded.examples, tmp_path / "own.jsonl")
    assert codi.evaluate(reasoner, tmp_path / "own.jsonl", scorer="text", **quick).scorer == "text"

    found = codi.compare(tmp_path / "p.jsonl", named)
    assert (found.n, found.difference, found.mcnemar_p) == (6, 0.0, 1.0)
    assert (found.first, found.second) == (str(tmp_path / "p.jsonl"), "the second")
    with pytest.raises(DataError, match="not of the same questions: 4 ids"):
        codi.compare(named, codi.evaluate(reasoner, loaded, limit=2, **quick))
    with pytest.raises(UsageError, match="limit must be at least 1"):
        codi.evaluate(reasoner, loaded, limit=0)
    with pytest.raises(UsageError, match="have been read"):
        codi.evaluate(reasoner, loaded.examples, columns=codi.Columns(answer="result"))


def test_probe(reasoner: LatentReasoner, checkpoint: Path, tmp_path: Path) -> None:
    found = codi.probe(checkpoint, "How many apples are there now?")
    assert found.benchmark is None
    assert found.question is not None
    assert [thought.name for thought in found.question.thoughts] == ["z1", "z2"]
    rows = write_rows(tmp_path / "own.jsonl", examples(4))
    found = codi.probe(reasoner, benchmark=rows, parts=["interventions"], limit=3)
    assert found.question is None
    assert found.benchmark is not None
    assert found.benchmark.interventions is not None
    assert (found.benchmark.n, found.benchmark.scorer, found.benchmark.table3) == (3, "number", None)
    assert found.as_dict().keys() == {"made_from", "benchmark"}
    again = codi.probe(reasoner, benchmark=examples(4), parts=["interventions"], limit=3)
    assert again.benchmark is not None
    assert again.benchmark.interventions == found.benchmark.interventions
    found.save_page(tmp_path / "page.html")
    assert "zero z1" in (tmp_path / "page.html").read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="nothing to look at"):
        codi.probe(reasoner)
    with pytest.raises(UsageError, match=r"Did you mean 'shift'\?"):
        codi.probe(reasoner, benchmark=rows, parts=["shifts"])
    with pytest.raises(UsageError, match="limit must be at least 1"):
        codi.probe(reasoner, benchmark=examples(4), limit=0)
