"""Sets whose answers are sentences, true or false, and letters: trained on and measured rightly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from codi.data.encoding import TextEncoder
from codi.data.sources import Columns
from codi.errors import CodiError
from codi.evaluation.benchmarks import format_question, load_benchmark
from codi.evaluation.runner import evaluate
from codi.generation.answer import Answer
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.method import Method
from tiny_models import byte_level_tokenizer
from tiny_runs import configured, run, tiny_settings

PROSQA = [
    ("Every tumpus is a rompus. Every rompus is a gorpus. Ada is a tumpus. Is Ada a gorpus or a lempus?",
     ["Ada is a tumpus.", "Every tumpus is a rompus.", "Every rompus is a gorpus."], "Ada is a gorpus."),
    ("Every jompus is a lempus. Every lempus is a zumpus. Ben is a jompus. Is Ben a zumpus or a gorpus?",
     ["Ben is a jompus.", "Every jompus is a lempus.", "Every lempus is a zumpus."], "Ben is a zumpus."),
    ("Every dumpus is a numpus. Every numpus is a vumpus. Cleo is a dumpus. Is Cleo a vumpus or a tumpus?",
     ["Cleo is a dumpus.", "Every dumpus is a numpus.", "Every numpus is a vumpus."], "Cleo is a vumpus."),
]  # fmt: skip
STRATEGYQA = [
    ("Would a stone float in milk?", ["Stones are denser than milk.", "What is denser sinks."], False),
    ("Does a dozen have an even number of eggs?", ["A dozen is 12.", "12 is even."], True),
    ("Could a hare outrun a snail?", ["Hares run.", "Snails creep."], True),
]
AQUA = [
    ("A cup costs 3. What do 4 cost?", ["One costs 3.", "4 * 3 = 12."], ["7", "9", "12", "15", "16"], "C"),
    (
        "20 is shared by 5. How much has each?",
        ["There are 5.", "20 / 5 = 4."],
        ["4", "5", "6", "8", "10"],
        "A",
    ),
    ("What is 6 more than 8?", ["More is a sum.", "8 + 6 = 14."], ["2", "14", "16", "18", "48"], "B"),
]


def prosqa() -> list[dict[str, Any]]:
    """As Coconut's files have it, with columns that are no part of an example."""
    return [
        {"question": q, "answer": a, "steps": s, "idx_to_symbol": ["Ada", "tumpus"], "edges": [[0, 1]],
         "root": 0, "target": 1, "neg_target": 2}
        for q, s, a in PROSQA
    ]  # fmt: skip


def strategyqa() -> list[dict[str, Any]]:
    """Booleans as answers."""
    return [{"qid": str(i), "question": q, "steps": s, "answer": a} for i, (q, s, a) in enumerate(STRATEGYQA)]


def aqua() -> list[dict[str, Any]]:
    """Five options, and the letter of one."""
    return [
        {"question": q, "steps": s, "choices": {"label": list("ABCDE"), "text": o}, "answer": a}
        for q, s, o, a in AQUA
    ]


SETS = {"prosqa": (prosqa, "text"), "strategyqa": (strategyqa, "text"), "aqua": (aqua, "letter")}


class Scripted:
    """Writes what it was given for each question, in the form that the model writes its answers in."""

    def __init__(self, model: LatentReasoner, answers: dict[str, str]) -> None:
        self.method: Method = model.method
        self.text: TextEncoder = model.text
        self.answers = answers

    def answer_batches(
        self, questions: Sequence[str], /, **options: Any
    ) -> Iterator[list[tuple[int, Answer]]]:
        for number, question in enumerate(questions):
            text = self.text.decode(self.text.answer(self.answers[question]).ids[:-1])
            yield [(number, Answer(question, text, self.text.value(text), 8, 9, 3))]


def settings_for(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Four steps on those rows, which are also what is validated on."""
    settings = tiny_settings(folder, max_steps=4, save_steps=4, eval_strategy="steps", eval_steps=4)
    byte_level_tokenizer().save_pretrained(folder / "letters")
    file = folder / "rows.json"
    file.write_text(json.dumps(rows))
    settings["tokenizer"] = str(folder / "letters")
    settings["model"]["base_config"]["n_positions"] = 512
    settings["data"] = {
        "train": str(file), "validation": str(file), "exclude_validation_questions": False,
        "columns": {"answer": "answer"},
    }  # fmt: skip
    return settings | changes


@pytest.mark.parametrize("prompt", ["The answer is:", "###"])
@pytest.mark.parametrize("name", SETS)
def test_a_set_is_trained_on_and_measured_with_the_scorer_that_fits(
    name: str, prompt: str, tmp_path: Path
) -> None:
    rows, scorer = SETS[name]
    settings = settings_for(tmp_path, rows(), text={"answer_prompt": prompt})
    summary = run(settings, tmp_path / "run")
    assert summary["steps"] == 4
    assert summary["scorer"] == scorer
    assert 0 <= summary["validation_accuracy"] <= 1

    reasoner = LatentReasoner.from_pretrained(tmp_path / "run", device="cpu")
    examples, _, benchmark = load_benchmark(settings["data"]["train"], columns=Columns(answer="answer"))
    assert (benchmark.scorer, benchmark.scorer_chosen) == (scorer, True)
    options: dict[str, Any] = {"scorer": benchmark.scorer, "latency_questions": 0, "max_new_tokens": 8}
    assert evaluate(reasoner, examples, **options).n == len(examples)
    golds = {format_question(e.question): e.answer for e in examples}
    perfect = evaluate(Scripted(reasoner, golds), examples, **options)
    assert (perfect.accuracy, perfect.unreadable) == (1.0, 0)
    others = {q: next(other for other in golds.values() if other != a) for q, a in golds.items()}
    assert evaluate(Scripted(reasoner, others), examples, **options).accuracy == 0.0
    for rule in ("coconut", "icot"):  # their string equality fits any answer, after the model's own prompt
        assert evaluate(Scripted(reasoner, golds), examples, **options | {"scorer": rule}).accuracy == 1.0


@pytest.mark.parametrize("scorer", ["codi", "number", "letter"])
def test_a_scorer_that_can_never_score_the_answers_is_refused(scorer: str, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, prosqa(), scorer=scorer)
    for validation in (settings["data"]["validation"], None):
        settings["data"]["validation"] = validation
        with pytest.raises(CodiError, match="scorer") as caught:
            run(settings, tmp_path / "run")
        assert "text" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_chosen_scorer_is_said_before_training(tmp_path: Path) -> None:
    from codi.training.run import train

    said: list[str] = []
    train(configured(settings_for(tmp_path, strategyqa())), tmp_path / "run", say=said.append)
    assert "Validation answers are read by scorer 'text', chosen from the answers." in said


def test_a_row_without_a_number_among_numbers_is_a_defect_of_its_file(tmp_path: Path) -> None:
    rows = [
        {"question": f"What is {i} + 3?", "steps": [f"{i} + 3 = {i + 3}"], "answer": str(i + 3)}
        for i in range(6)
    ]
    settings = settings_for(tmp_path, [*rows, {**rows[0], "answer": "plenty"}])
    for validation in (settings["data"]["validation"], None):
        settings["data"]["validation"] = validation
        with pytest.raises(CodiError, match=r"rows\.json, row 7: answer without a number") as caught:
            run(settings, tmp_path / "run")
        assert "scorer=text" in str(caught.value)
        settings["data"]["skip_bad_rows"] = True
        summary = run(settings, tmp_path / "run")
        assert {"answer without a number": 1} in [report["dropped"] for report in summary["data"]]
        assert summary["scorer"] == (None if validation is None else "number")
        shutil.rmtree(tmp_path / "run")
        del settings["data"]["skip_bad_rows"]
