"""Which column of a row is the question, the rationale and the answer, and how a row becomes an example.

Layouts recognised without options:

    question, cot | rationale, answer      GSM8k-Aug, GSM8k-Aug-NL, CommonsenseQA with rationales
    question, steps, answer                Coconut's JSON, whynlp/gsm8k-aug, what `write_jsonl` writes
    question, answer with '####'           openai/gsm8k: rationale, then '####', then the answer
    question_concat | Body + Question, Answer     SVAMP on the hub and as published
    question, final_ans                    MultiArith
    instruction, response                  GSM-Hard (juyoung-trl)
    input, target                          GSM-Hard (reasoning-machines)
    question, choices, answerKey           CommonsenseQA on the hub and as published
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

from codi.data.example import Example
from codi.data.steps import StepsRule, split_steps
from codi.errors import DataError, nearest

_QUESTION = ("question", "question_concat", "instruction", "input")
_RATIONALE = ("cot", "rationale")
_STEPS = ("steps",)
_ANSWER = ("answer", "Answer", "final_ans", "response", "target", "answerKey")
_ID = ("id", "ID")

EMPTY_QUESTION = "empty question"
MISSING_ANSWER = "missing answer"
NO_NUMBER = "answer without a number"


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read; None leaves a column to be recognised.

    Attributes:
        question: text of the question.
        rationale: the reasoning as one text, split into steps by the steps rule.
        steps: the reasoning as a list of steps, kept as it stands.
        answer: the final answer.
    """

    question: str | None = None
    rationale: str | None = None
    steps: str | None = None
    answer: str | None = None


class RowDefect(Exception):
    """A row that makes no example; the message is the reason it is counted under."""


@dataclass(frozen=True)
class Layout:
    """The columns of one source. `body` is text put before the question, `choices` its answer options."""

    question: str
    answer: str
    rationale: str | None = None
    steps: str | None = None
    body: str | None = None
    choices: str | None = None
    id: str | None = None


def resolve_layout(found: Sequence[str], asked: Columns | None, where: str) -> Layout:
    """Match the columns `found` in `where` with those asked for and those of the known layouts.

    Raises:
        DataError: a column asked for is not there, none can be recognised, or several could be meant.
    """
    asked = asked or Columns()
    for role in ("question", "rationale", "steps", "answer"):
        name = getattr(asked, role)
        if name is not None and name not in found:
            raise DataError(
                f"{where} has no column '{name}', asked for as the {role}.{nearest(name, found)} "
                f"Columns found: {_listed(found)}."
            )
    body = None
    question = asked.question
    if question is None and {"Body", "Question"} <= set(found):
        body, question = "Body", "Question"
    elif question is None and "question_concat" in found and "Answer" in found:
        question = "question_concat"
    question = question or _recognise("question", _QUESTION, found, where)
    rationale, steps = asked.rationale, asked.steps
    if rationale is None and steps is None:
        steps = next((name for name in _STEPS if name in found), None)
        rationale = None if steps else next((name for name in _RATIONALE if name in found), None)
    elif rationale is not None and steps is not None:
        raise DataError(
            f"Both a rationale column ('{rationale}') and a steps column ('{steps}') were asked for in "
            f"{where}. Ask for one of them."
        )
    return Layout(
        question=question,
        answer=asked.answer or _recognise("answer", _ANSWER, found, where),
        rationale=rationale,
        steps=steps,
        body=body,
        choices="choices" if "choices" in found else None,
        id=next((name for name in _ID if name in found), None),
    )


def _recognise(role: str, names: Sequence[str], found: Sequence[str], where: str) -> str:
    matching = [name for name in names if name in found]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise DataError(
            f"{where} has several columns that could be the {role}: {_listed(matching)}. "
            f"Name it: --{role}-column on the command line, data.columns.{role}=NAME in training."
        )
    raise DataError(
        f"{where} has no column recognised as the {role} (known: {_listed(names)}). "
        f"Columns found: {_listed(found)}. Name it: "
        f"--{role}-column on the command line, data.columns.{role}=NAME in training."
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def example_from_row(
    row: Mapping[str, Any],
    layout: Layout,
    *,
    fallback_id: str,
    where: str,
    steps_rule: StepsRule,
    require_answer_number: bool = False,
) -> Example:
    """The example that `row` holds. Questions and listed steps are kept to the letter.

    Raises:
        RowDefect: the question is empty, the answer missing, or without a digit where one is required.
        DataError: a value has a type that cannot be read; the message starts with `where`.
    """
    question = _question(row, layout, where)
    if not question.strip():
        raise RowDefect(EMPTY_QUESTION)
    answer = _text(row.get(layout.answer), f"{where}: the answer")
    steps: tuple[str, ...] = ()
    if layout.steps is not None:
        steps = _listed_steps(row.get(layout.steps), f"{where}: the steps", steps_rule)
    elif layout.rationale is not None:
        steps = _steps_of_rationale(row.get(layout.rationale), f"{where}: the rationale", steps_rule)
    elif "####" in answer:
        rationale, _, answer = answer.rpartition("####")
        steps = split_steps(rationale.strip(), steps_rule)
        answer = _without_thousands_commas(answer.strip())
    answer = answer.strip()
    if not answer:
        raise RowDefect(MISSING_ANSWER)
    if require_answer_number and not re.search(r"[0-9]", answer):
        raise RowDefect(NO_NUMBER)
    own_id = _text(row.get(layout.id), f"{where}: the id") if layout.id is not None else ""
    return Example(own_id or fallback_id, question, steps, answer)


def _question(row: Mapping[str, Any], layout: Layout, where: str) -> str:
    value: Any = row.get(layout.question)
    choices: Any = row.get(layout.choices) if layout.choices else None
    if isinstance(value, Mapping):  # CommonsenseQA as published: {"stem", "choices": [{"label", "text"}]}
        value, choices = value.get("stem"), value.get("choices")
    if value is not None and not isinstance(value, str) and not _is_nan(value):
        raise DataError(f"{where}: the question is not text but {type(value).__name__}. Make it text.")
    question = value if isinstance(value, str) else ""
    if layout.body is not None:
        body = _text(row.get(layout.body), f"{where}: the body").strip()
        # SVAMP's bodies lack the full stop that its joined column has.
        body = body if not body or body.endswith((".", "!", "?", ",")) else f"{body}."
        question = f"{body} {question}".strip() if question.strip() else ""
    if choices is not None and question.strip():
        question = f"Question: {question}\nChoices:\n{_choices(choices, where)}"
    return question


def _choices(choices: Any, where: str) -> str:
    """Answer options, one on a line: `A: bank`."""
    if isinstance(choices, Mapping):  # the hub's form: two lists
        pairs = list(zip(choices.get("label") or (), choices.get("text") or (), strict=False))
    elif isinstance(choices, list) and all(isinstance(choice, Mapping) for choice in choices):
        pairs = [(choice.get("label"), choice.get("text")) for choice in choices]
    else:
        pairs = []
    if not pairs or any(label is None or text is None for label, text in pairs):
        raise DataError(
            f"{where}: the choices cannot be read. Give {{'label': [..], 'text': [..]}}, or a list of "
            "{'label', 'text'}."
        )
    return "\n".join(f"{label}: {text}" for label, text in pairs)


def _steps_of_rationale(value: Any, where: str, rule: StepsRule) -> tuple[str, ...]:
    if isinstance(value, list | tuple):
        return _listed_steps(value, where, rule)
    return split_steps(_text(value, where), rule)


def _listed_steps(value: Any, where: str, rule: StepsRule) -> tuple[str, ...]:
    """A list as it stands; a JSON list in text (CSV) likewise; other text is split."""
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            try:
                parsed = json.loads(value)
            except json.JSONDecodeError:
                return split_steps(value, rule)
            return _listed_steps(parsed, where, rule)
        return split_steps(value, rule)
    if value is None or _is_nan(value):
        return ()
    if not isinstance(value, list | tuple):
        raise DataError(f"{where} are not a list but {type(value).__name__}. Give a list or text.")
    if any(not isinstance(step, str) for step in value):
        raise DataError(f"{where} hold something that is not text. Give a list of texts.")
    return tuple(value)


def _text(value: Any, where: str) -> str:
    """A scalar as text: nothing for null and NaN, '18' for 18 and 18.0, '3.5' for 3.5, exactly."""
    if value is None or _is_nan(value):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Decimal):
        return _decimal_text(value)
    if isinstance(value, Real):
        # repr is the shortest decimal that reads back as the same float.
        return _decimal_text(Decimal(repr(float(value))))
    raise DataError(f"{where} is neither text nor a number but {type(value).__name__}. Make it one.")


def _decimal_text(value: Decimal) -> str:
    if not value.is_finite() or abs(value.adjusted()) > 400:  # written out, it would fill pages
        return str(value)
    if value == value.to_integral_value():
        return str(int(value))
    text = format(value, "f")
    return text.rstrip("0")


def _is_nan(value: Any) -> bool:
    return (isinstance(value, float) and math.isnan(value)) or (isinstance(value, Decimal) and value.is_nan())


def _without_thousands_commas(answer: str) -> str:
    """GSM8K writes 70,000; GSM8k-Aug and the models trained on it write 70000."""
    return answer.replace(",", "") if re.fullmatch(r"-?\d{1,3}(,\d{3})+(\.\d+)?", answer) else answer
