"""From sources to tokenised examples: every row left out is counted; tokenising is done once and kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from codi.data.collation import Encoded
from codi.data.example import Example, LoadReport
from codi.data.numbers import plain_number
from codi.data.rationales import BLANK_STEP
from codi.data.sources import Columns, has_own_columns, load_examples
from codi.errors import DataError
from codi.evaluation.scorers import AUTO, Scorer, check_training_answers, get_scorer, scorer_for
from codi.generation.latent_reasoner import LatentReasoner
from codi.training import token_cache
from codi.training.lost_text import check_text
from codi.training.overview import Overview, check_rationales, longest_segment, overview, token_segments
from codi.training.recipes import DataConfig
from codi.training.tokenisation import TokenisedSet, question_mark, tokenise

MOST_UNKNOWN = 0.01
"""Share of training examples that may have words which the tokenizer does not know."""
CACHE_ROWS = 50_000
"""Sets below this size tokenise in seconds and are not kept on disk."""


@dataclass
class PreparedData:
    """Tokenised training rows and the validation questions, with the account of what was left out.

    overview: what the method reads of the rows; notes: what a person should know of them.
    """

    encoded: Sequence[Encoded]
    lengths: list[int]
    ids: list[str]
    validation: list[Example]
    overview: Overview
    reports: list[LoadReport] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    group_by_length: bool = True
    width_buckets: int | None = None
    scorer: Scorer | None = None
    """What reads the validation answers, ready for this set and model; None where it was to be chosen from a
    validation set that there is not."""


def prepare(config: DataConfig, reasoner: LatentReasoner, scorer: str) -> PreparedData:
    """Load, tokenise and filter. scorer: a name, or 'auto' for the one that fits the validation answers.

    Raises DataError when nothing is left, a row cannot fit the model or an answer the scorer, or the rows
    have not what the method learns from; UsageError when the scorer cannot read this model's answers.
    """
    rule = None if scorer == AUTO else get_scorer(scorer).reading(reasoner.text)
    columns = Columns(**config.columns) if config.columns else None
    rules: dict[str, Any] = {
        "steps_rule": config.steps_rule,
        "annotations": config.annotations,
        "skip_bad_rows": config.skip_bad_rows,
        "require_answer_number": rule is not None and rule.numeric,
    }
    reports, validation = list[LoadReport](), list[Example]()
    if config.validation is not None:
        wanted: dict[str, Any] = {
            "split": config.validation_split, "limit": config.validation_limit,
            "columns": None if has_own_columns(config.validation) else columns,
        }  # fmt: skip
        validation, report = load_examples(config.validation, **wanted, **rules)
        if scorer == AUTO and _lacks_numbers([example.answer for example in validation]):
            validation, report = load_examples(config.validation, **wanted, **rules | _NUMBERS)
        rule = scorer_for(scorer, validation).reading(reasoner.text)
        for example in validation:  # else the first evaluation would stop the run
            reasoner.question_ids(example.question, f"The validation question '{example.id}'")
        reports.append(report)
    reading = {"columns": columns, **rules}
    tokens = _training_tokens(config, reasoner, reading)
    if rule is not None:
        pairs = zip(tokens.ids, tokens.golds, strict=True)
        check_training_answers([Example(name, "", (), gold) for name, gold in pairs], rule)
    if scorer == AUTO and _lacks_numbers(tokens.golds, rule):  # read again, for the place of each such row
        tokens = _training_tokens(config, reasoner, reading | _NUMBERS)
    reports = [tokens.reports[0], *reports, *tokens.reports[1:]]
    if validation and config.exclude_validation_questions:
        tokens, excluded = _without_questions(tokens, validation)
        reports.append(excluded)
    if config.max_tokens is not None:
        tokens, filtered = _up_to(tokens, config.max_tokens, config.train)
        reports += [filtered] if filtered.dropped else []
    if not len(tokens):
        raise DataError(f"No training example is left. {' '.join(report.describe() for report in reports)}")
    seen = overview(tokens, reasoner.method, reasoner.text)
    notes = check_rationales(seen, reasoner.method, config.train, tokens.reports[0].unread)
    _check_room(reasoner, tokens)
    notes += _check_words(reasoner, tokens)
    notes += check_text(tokens.sample, reasoner.method, reasoner.text, config.train)
    lengths = [int(length) for length in _lengths(tokens)]
    return PreparedData(
        tokens.encoded, lengths, tokens.ids, validation, seen, reports, notes, config.group_by_length,
        config.width_buckets, rule,
    )  # fmt: skip


_NUMBERS = {"require_answer_number": True}


def _lacks_numbers(answers: Sequence[str], scorer: Scorer | None = None) -> bool:
    """Whether the answers are numbers, by the scorer or most of them, and some hold none: defective rows."""
    if all(re.search(r"[0-9]", answer) for answer in answers):
        return False
    numbers = sum(plain_number(answer) is not None for answer in answers)
    return scorer.numeric if scorer is not None else 2 * numbers >= len(answers)


def _training_tokens(config: DataConfig, reasoner: LatentReasoner, reading: dict[str, Any]) -> TokenisedSet:
    """The training source as the method reads it: found among the kept sets, or read, tokenised and kept.

    The first of its reports is the source's own. reading: how it is read, but for what is trained alone.
    """
    reading = {"split": config.train_split, "limit": config.train_limit, **reading}
    method, text, form = reasoner.method, reasoner.text, config.rationale_form

    def kept(identity: list[str] | None) -> tuple[str, TokenisedSet | None]:
        if identity is None:
            return "", None
        key = token_cache.cache_key(method, text, form, config.train, reading, identity)
        return key, token_cache.find(key)

    identity = token_cache.source_identity(config.train)
    key, found = kept(identity)
    if found is not None:
        found.reports[0] = replace(found.reports[0], source=config.train)  # the same file, elsewhere
        return found
    examples, report = load_examples(config.train, **reading)
    if identity is None and len(examples) >= CACHE_ROWS:
        key, found = kept(token_cache.identity_of_rows(examples))
        if found is not None:
            return found
    made = tokenise(
        examples, method, text,
        form=form, skip_bad_rows=config.skip_bad_rows, source=f"{config.train}, tokenised",
    )  # fmt: skip
    made.blank_steps += report.noted.get(BLANK_STEP, 0)
    made.reports.insert(0, report)
    if len(made) < CACHE_ROWS or token_cache.source_identity(config.train) != identity:
        return made  # the latter: the file was changed while it was read
    return token_cache.keep(key, made, config.train)


def _without_questions(
    tokens: TokenisedSet, validation: Sequence[Example]
) -> tuple[TokenisedSet, LoadReport]:
    """Without the rows whose question is one of validation's, white space folded."""
    taken = np.array([question_mark(example.question) for example in validation], dtype=np.uint64)
    kept = np.flatnonzero(~np.isin(tokens.marks, taken))
    report = LoadReport("training questions", read=len(tokens), kept=len(kept))
    if len(kept) == len(tokens):
        return tokens, report
    report.dropped["question also in validation"] = len(tokens) - len(kept)
    return tokens.select(kept.tolist()), report


def _up_to(tokens: TokenisedSet, limit: int, source: str) -> tuple[TokenisedSet, LoadReport]:
    """Without the rows that are longer than the limit."""
    kept = np.flatnonzero(_lengths(tokens) <= limit)
    report = LoadReport(f"{source}, length filter", read=len(tokens), kept=len(kept))
    if len(kept) == len(tokens):
        return tokens, report
    report.dropped[f"longer than {limit} tokens"] = len(tokens) - len(kept)
    return tokens.select(kept.tolist()), report


def _lengths(tokens: TokenisedSet) -> Any:
    """[rows] Tokens of the question and the longest segment after it."""
    if not len(tokens):
        return np.zeros(0, dtype=np.int64)
    return tokens.encoded.lengths("question") + longest_segment(tokens.encoded)


def _check_room(reasoner: LatentReasoner, tokens: TokenisedSet) -> None:
    """Raise DataError when a row does not fit: Q and rationale, or Q, the thoughts and the answer."""
    room, method, encoded = reasoner.model.longest_sequence, reasoner.method, tokens.encoded
    if room is None:
        return
    thoughts = method.thought_positions()
    after = [
        encoded.lengths(name) + (thoughts if name == "student" else 0)
        for name in token_segments(encoded, method)
        if name != "question"
    ]
    needed = encoded.lengths("question") + np.max(after, axis=0)
    too_long = np.flatnonzero(needed > room)
    if not len(too_long):
        return
    raise DataError(
        f"{len(too_long)} training example(s) are too long for the model, which takes {room} tokens; the "
        f"first is '{tokens.ids[too_long[0]]}'. Set data.max_tokens={room - thoughts} to leave them out "
        "(they will be counted)."
    )


def _check_words(reasoner: LatentReasoner, tokens: TokenisedSet) -> list[str]:
    """What is to be said of examples with words that the tokenizer does not know.

    Raises DataError when they are more than 1 in 100.
    """
    unknown = reasoner.text.unknown_id
    if unknown is None:
        return []
    lost = tokens.encoded.rows_with(unknown, token_segments(tokens.encoded, reasoner.method))
    if len(lost) > MOST_UNKNOWN * len(tokens):
        raise DataError(
            f"{len(lost)} of {len(tokens)} training examples have words or numbers that the tokenizer does "
            f"not know; the first is '{tokens.ids[lost[0]]}'. The model would read them all as one unknown "
            "token. Give the tokenizer of a pretrained model (tokenizer=HUB_ID_OR_FOLDER); 'word-problems' "
            "knows the generated problems only."
        )
    if not len(lost):
        return []
    return [
        f"WARNING: {len(lost):,} of {len(tokens):,} training examples have words that the tokenizer does not "
        f"know and the model reads as one unknown token; the first is '{tokens.ids[lost[0]]}'."
    ]
