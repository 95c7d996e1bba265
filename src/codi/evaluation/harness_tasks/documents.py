"""What the task files stand on: this package's own benchmarks, question format and scorers."""

from __future__ import annotations

from functools import partial
from typing import Any

from datasets import Dataset

from codi.evaluation.benchmarks import BENCHMARKS, format_question, load_benchmark
from codi.evaluation.harness import CodiLM
from codi.evaluation.scorers import get_scorer


def _documents(
    name: str, file: str | None = None, limit: int | None = None, allow_partial: bool = False, **_: Any
) -> dict[str, Dataset]:
    """The benchmark's questions as the harness wants them. file: a local copy in place of the hub."""
    examples, _report, _benchmark = load_benchmark(name, file=file, limit=limit, allow_partial=allow_partial)
    rows = [{"question": format_question(e.question), "answer": e.answer, "id": e.id} for e in examples]
    return {"test": Dataset.from_list(rows)}


gsm8k = partial(_documents, "gsm8k")
svamp = partial(_documents, "svamp")
gsm_hard = partial(_documents, "gsm-hard")
multiarith = partial(_documents, "multiarith")
commonsenseqa = partial(_documents, "commonsenseqa")


def _score(name: str, document: dict[str, Any], results: list[str]) -> dict[str, float]:
    scorer = get_scorer(BENCHMARKS[name].scorer)
    if CodiLM.reader is not None:  # else another model of the harness answered
        scorer = scorer.reading(CodiLM.reader)
    return {"acc": float(scorer.correct(results[0], document["answer"]))}


score_number = partial(_score, "gsm8k")
score_letter = partial(_score, "commonsenseqa")
