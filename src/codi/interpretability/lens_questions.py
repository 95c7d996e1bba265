"""Which questions a tuned lens was trained on, and which it may be measured on: never the same.

A lens remembers its questions by hashes, so it knows them in any order, file or benchmark, and the file tells
nobody what they say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from codi.data.example import Example
from codi.errors import UsageError
from codi.evaluation.benchmarks import format_question
from codi.interpretability.usable_rows import Reasons, counted

TRAINED_ON = "the lens was trained on them"


def question_hash(question: str) -> str:
    """16 hex digits that stand for a question, white space folded."""
    return hashlib.sha256(" ".join(question.split()).encode()).hexdigest()[:16]


def split_in_half(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """The examples to train a lens on, and those to measure it on; a question of the first is in no second.

    Raises UsageError where there are not two different questions.
    """
    half = len(examples) // 2
    first = list(examples[:half])
    known = {question_hash(format_question(example.question)) for example in first}
    second = [e for e in examples[half:] if question_hash(format_question(e.question)) not in known]
    if not first or not second:
        raise UsageError(
            "A tuned lens is trained on half of the problems and measured on the others; give 2 different "
            "questions or more."
        )
    return first, second


def not_trained_on(settings: Mapping[str, Any], examples: Sequence[Example]) -> tuple[list[Example], Reasons]:
    """The examples that a lens of these settings has not seen, and how many it has.

    Raises UsageError where it has seen all, or does not say what it was trained on.
    """
    hashes = settings.get("question_hashes")
    if hashes is None:
        raise UsageError(
            "This lens does not say which questions it was trained on (an earlier version made it), so it "
            "cannot be measured on others. Train it again with --train-lens; a single --question shows it."
        )
    known = set(hashes)
    kept = [e for e in examples if question_hash(format_question(e.question)) not in known]
    if not kept:
        source = settings.get("source")
        raise UsageError(
            f"The lens was trained on all of these {len(examples):,} problems"
            + (f" (its source: {source})" if source else "")
            + ", so there is nothing left to measure it on. Give another set, or more of this one."
        )
    return kept, counted([TRAINED_ON] * (len(examples) - len(kept)))
