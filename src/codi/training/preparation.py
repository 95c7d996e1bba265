"""From sources to tokenised examples: every row left out is counted; tokenising is done once and cached."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from codi.data.collation import Encoded
from codi.data.derived_rationales import derive
from codi.data.example import Example, LoadReport
from codi.data.numbers import plain_number
from codi.data.sources import Columns, exclude_questions, has_own_columns, load_examples
from codi.errors import CodiError, DataError
from codi.evaluation.scorers import AUTO, Scorer, check_training_answers, get_scorer, scorer_for
from codi.generation.latent_reasoner import LatentReasoner
from codi.training.recipes import DataConfig

MOST_UNKNOWN = 0.01
"""Share of training examples that may have words which the tokenizer does not know."""
CACHE_ROWS = 50_000
"""Sets below this size tokenise in seconds and are not cached on disk."""


@dataclass
class PreparedData:
    """Tokenised training rows and the validation questions, with the account of what was left out."""

    encoded: Sequence[Encoded]
    lengths: list[int]
    ids: list[str]
    steps: list[int]
    validation: list[Example]
    reports: list[LoadReport] = field(default_factory=list)
    group_by_length: bool = True
    scorer: Scorer | None = None
    """What reads the validation answers, ready for this set and model; None where it was to be chosen from a
    validation set that there is not."""


def prepare(config: DataConfig, reasoner: LatentReasoner, scorer: str) -> PreparedData:
    """Load, filter and tokenise. scorer: a name, or 'auto' for the one that fits the validation answers.

    Raises DataError when nothing is left, a row cannot fit the model or an answer the scorer; UsageError when
    the scorer cannot read this model's answers.
    """
    rule = None if scorer == AUTO else get_scorer(scorer).reading(reasoner.text)
    columns = Columns(**config.columns) if config.columns else None
    rules: dict[str, Any] = {
        "steps_rule": config.steps_rule,
        "annotations": config.annotations,
        "skip_bad_rows": config.skip_bad_rows,
        "require_answer_number": rule is not None and rule.numeric,
    }
    examples, report = load_examples(
        config.train, split=config.train_split, limit=config.train_limit, columns=columns, **rules
    )
    reports, validation = [report], list[Example]()
    if config.validation is not None:
        wanted: dict[str, Any] = {
            "split": config.validation_split, "limit": config.validation_limit,
            "columns": None if has_own_columns(config.validation) else columns,
        }  # fmt: skip
        validation, report = load_examples(config.validation, **wanted, **rules)
        if scorer == AUTO and _lacks_numbers(validation):
            validation, report = load_examples(config.validation, **wanted, **rules | _NUMBERS)
        rule = scorer_for(scorer, validation).reading(reasoner.text)
        for example in validation:  # else the first evaluation would stop the run
            reasoner.question_ids(example.question, f"The validation question '{example.id}'")
        reports.append(report)
    if rule is not None:
        check_training_answers(examples, rule)
    if scorer == AUTO and _lacks_numbers(examples, rule):  # read again, for the place of each such row
        examples, reports[0] = load_examples(
            config.train, split=config.train_split, limit=config.train_limit, columns=columns,
            **rules | _NUMBERS,
        )  # fmt: skip
    if validation and config.exclude_validation_questions:
        examples, excluded = exclude_questions(examples, validation)
        reports.append(excluded)
    examples = [derive(example, config.rationale_form) for example in examples]
    encoded = tokenise(examples, reasoner)
    lengths = [_length(row) for row in encoded]
    limit = config.max_tokens
    if limit is not None and any(length > limit for length in lengths):
        fits = [i for i, length in enumerate(lengths) if length <= limit]
        filtered = LoadReport(f"{config.train}, length filter", read=len(encoded), kept=len(fits))
        filtered.dropped[f"longer than {limit} tokens"] = len(encoded) - len(fits)
        reports.append(filtered)
        cached: Any = encoded  # a set on disk stays there
        encoded = cached.select(fits) if hasattr(cached, "select") else [encoded[i] for i in fits]
        lengths = [lengths[i] for i in fits]
        examples = [examples[i] for i in fits]
    if not examples:
        raise DataError(f"No training example is left. {' '.join(report.describe() for report in reports)}")
    _check_room(reasoner, encoded, examples)
    _check_words(reasoner, encoded, examples)
    return PreparedData(
        encoded,
        lengths,
        [e.id for e in examples],
        [len(e.steps) for e in examples],
        validation,
        reports,
        config.group_by_length,
        rule,
    )


_NUMBERS = {"require_answer_number": True}


def _lacks_numbers(examples: list[Example], scorer: Scorer | None = None) -> bool:
    """Whether the answers are numbers, by the scorer or most of them, and some hold none: defective rows."""
    if all(re.search(r"[0-9]", example.answer) for example in examples):
        return False
    numbers = sum(plain_number(example.answer) is not None for example in examples)
    return scorer.numeric if scorer is not None else 2 * numbers >= len(examples)


def tokenise(examples: list[Example], reasoner: LatentReasoner) -> Sequence[Encoded]:
    """Segments of every example; large sets are kept on disk under CODI_CACHE (default ~/.cache/codi)."""
    method, text = reasoner.method, reasoner.text
    if len(examples) < CACHE_ROWS:
        return [method.encode(example, text) for example in examples]
    from datasets import Dataset, load_from_disk
    from datasets.exceptions import DatasetGenerationError

    identity = hashlib.sha256(json.dumps([method.as_dict(), text.fingerprint()], sort_keys=True).encode())
    for example in examples:
        identity.update(repr((example.question, example.steps, example.answer)).encode())
    root = Path(os.environ.get("CODI_CACHE", Path.home() / ".cache" / "codi")) / "tokenised"
    folder = root / identity.hexdigest()[:24]
    if not folder.exists():
        scratch = folder.with_name(f"{folder.name}.{os.getpid()}")
        try:
            Dataset.from_generator(
                lambda: (method.encode(example, text) for example in examples),
                cache_dir=str(scratch / "build"),
            ).save_to_disk(scratch / "rows")
            (scratch / "rows").replace(folder)
        except DatasetGenerationError as error:
            if isinstance(error.__cause__, CodiError):  # ours, which says what to do
                raise error.__cause__ from None
            raise
        except OSError:
            if not folder.exists():  # another process was faster only if it is there
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    rows: Any = load_from_disk(str(folder))
    return cast("Sequence[Encoded]", rows)


def _length(row: Encoded) -> int:
    """Tokens of the question and the longest segment after it."""
    after = [len(ids) for name, ids in row.items() if isinstance(ids, list) and name != "question"]
    return len(row["question"]) + max(after, default=0)


def _check_room(reasoner: LatentReasoner, encoded: Sequence[Encoded], examples: list[Example]) -> None:
    """Raise DataError when a row does not fit: Q and rationale, or Q, the thoughts and the answer."""
    room = reasoner.model.longest_sequence
    if room is None:
        return
    thoughts = reasoner.method.thought_positions()
    needed = [
        len(row["question"])
        + max(len(row.get("teacher", ())), thoughts + len(row["student"]) if "student" in row else 0)
        for row in encoded
    ]
    if max(needed) <= room:
        return
    example = next(e for e, tokens in zip(examples, needed, strict=True) if tokens > room)
    raise DataError(
        f"{sum(tokens > room for tokens in needed)} training example(s) are too long for the model, which "
        f"takes {room} tokens; the first is '{example.id}'. Set data.max_tokens={room - thoughts} to leave "
        "them out (they will be counted)."
    )


def _check_words(reasoner: LatentReasoner, encoded: Sequence[Encoded], examples: list[Example]) -> None:
    """Raise DataError when the tokenizer does not know the words of more than 1 example in 100."""
    unknown = reasoner.text.unknown_id
    if unknown is None:
        return
    start = reasoner.method.staged  # as it is trained on, tokens only
    lost = [
        example.id
        for row, example in zip(encoded, examples, strict=True)
        if any(isinstance(ids, list) and unknown in ids for ids in start(row, 0, random.Random(0)).values())
    ]
    if len(lost) > MOST_UNKNOWN * len(examples):
        raise DataError(
            f"{len(lost)} of {len(examples)} training examples have words or numbers that the tokenizer does "
            f"not know; the first is '{lost[0]}'. The model would read them all as one unknown token. Give "
            "the tokenizer of a pretrained model (tokenizer=HUB_ID_OR_FOLDER); 'word-problems' knows the "
            "generated problems only."
        )
