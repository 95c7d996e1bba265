"""How a row becomes an example: its columns are read, and the answer and the rationale taken apart.

    question, cot | rationale | steps, answer     GSM8k-Aug, Coconut's JSON, what `write_jsonl` writes
    question, answer with '####'                  openai/gsm8k, GSM-Symbolic
    query, response                               MetaMathQA: marker lines at the end
    problem, solution (, answer)                  NuminaMath, OpenR1, OpenMathInstruct: `\\boxed{}`
    instruction (+ input), output                 Alpaca
    messages | conversations                      chats, with reasoning in `<think>` or in its own field
    prompt, reward_model {ground_truth}           verl, DAPO; extra_info {question, answer} where it is there
    question, options | choices, answer           AQuA-RAT, ARC, MMLU, CommonsenseQA
    Body + Question, Answer                       SVAMP as published

What a row cannot give is a `RowDefect`, which names its reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from codi.data.answer_text import (
    MISSING_ANSWER,
    SHORT,
    answer_defect,
    may_hold_marker,
    same_answer,
    tidy,
)  # fmt: skip
from codi.data.answers import Separated, separate
from codi.data.choice_columns import refuse_unread_options
from codi.data.choices import (
    UNKNOWN,
    Choices,
    Keys,
    choices_of,
    letter_shown,
    read_choices,
)
from codi.data.conversations import UNREADABLE as UNREADABLE_TURNS
from codi.data.conversations import is_conversation, read_conversation, reply_text
from codi.data.example import Example, RowDefect
from codi.data.layout import Columns, Layout, label_columns, resolve_layout
from codi.data.rationales import split_rationale, steps_of
from codi.data.steps import StepsRule, without_annotations
from codi.data.values import first_given, is_blank, is_missing, value_text
from codi.data.written_lists import looks_like_list, written_list

__all__ = [
    "MISSING_ANSWER",
    "Columns",
    "Layout",
    "RowDefect",
    "example_from_row",
    "question_from_row",
    "resolve_layout",
]

ANNOTATIONS = ("keep", "remove")
"""What becomes of `<<48/2=24>>` inside a sentence."""

EMPTY_QUESTION = "empty question"
NO_NUMBER = "answer without a number"
OTHER_ANSWER = "rationale that ends in another answer"
PLACEHOLDERS = "question with placeholders in place of its numbers"

SYSTEM_MESSAGE = "system messages put before the question"
WRITTEN_OTHERWISE = "rationales that may end in another answer"
COUNTED_FROM_0 = "answers taken as places counted from 0: no row says whether from 0 or 1"
NO_OPTIONS_THERE = "rows whose columns {} were not read as answer options"


# MAWPS, as some have it: "Ann has N_00 pens".
_PLACEHOLDER = re.compile(r"\bN_0\d\b")


def _unnoted(_: str) -> None:
    """Where nobody counts."""


def example_from_row(
    row: Mapping[str, Any],
    layout: Layout,
    *,
    fallback_id: str,
    steps_rule: StepsRule,
    annotations: str = "keep",
    require_answer_number: bool = False,
    note: Callable[[str], None] = _unnoted,
) -> Example:
    """The example that `row` holds. Questions and listed steps are kept to the letter.

    Args:
        annotations: 'remove' leaves the calculator annotations out of sentences.
        require_answer_number: whether an answer without a digit is a defect.
        note: counts what is worth knowing about a row that is kept.

    Raises:
        RowDefect: the row makes no example; the message says why, and shows the text at fault.
    """
    remarks: list[str] = []  # of a row that turns out a defect nothing is noted
    question, choices, reply = _usable(row, layout, remarks.append)
    given = first_given(row, layout.answers)
    in_conversation = given is row.get(layout.question) and reply is not None
    if given is None:
        given = _option_called_so(row, layout, choices)
    column = next(name for name in layout.answers if row.get(name) is given)
    keys = layout.keys or UNKNOWN
    answer, solution = _answer(reply if in_conversation else given, choices, keys, column)
    if choices is not None and choices.right is None and keys.places and not keys.told:
        said = value_text(given) if solution is None else solution.answer or ""
        if said.strip().isdecimal() and not choices.is_label(said):
            remarks.append(COUNTED_FROM_0)
    if layout.passed_over:
        remarks.append(NO_OPTIONS_THERE.format(", ".join(map(repr, layout.passed_over))))
    rationale = first_given(row, layout.rationales)
    if rationale is None and reply and not in_conversation:
        rationale = reply
    if rationale is not None:
        steps, stated = steps_of(rationale, (answer, given), steps_rule, remarks.append)
        _compare(stated, answer, (choices, keys), remarks.append)
    else:
        # "18\nThe answer is: 18": what another reader made of '#### 18'.
        worked = solution is not None and solution.rationale != answer
        steps = split_rationale(solution.rationale, steps_rule) if solution is not None and worked else ()
    if annotations == "remove":
        steps = tuple(map(without_annotations, steps))
    if require_answer_number and not re.search(r"[0-9]", answer):
        raise RowDefect(NO_NUMBER, answer)
    if choices is not None:
        question = choices.written_into(question)
    else:
        answer = letter_shown(answer, question)
    if choices is None and len(answer) == 1:
        refuse_unread_options(row, layout.reads, answer, question)
    for remark in remarks:
        note(remark)
    own_id = value_text(row.get(layout.id), "id") if layout.id is not None else ""
    return Example(own_id or fallback_id, question, steps, answer)


def question_from_row(row: Mapping[str, Any], layout: Layout) -> str:
    """The question of `row` as `example_from_row` asks it, options and context with it; no answer is needed.

    Raises:
        RowDefect: there is none, or it cannot be read.
    """
    question, choices, _ = _usable(row, layout, _unnoted)
    return question if choices is None else choices.written_into(question)


def _usable(
    row: Mapping[str, Any], layout: Layout, note: Callable[[str], None]
) -> tuple[str, Choices | None, str | None]:
    """`_asked`, where there is something to ask, with the options that stand in columns of their own."""
    question, choices, reply = _asked(row, layout, note)
    if not question.strip():
        raise RowDefect(EMPTY_QUESTION)
    if "N_0" in question and _PLACEHOLDER.search(question):
        raise RowDefect(PLACEHOLDERS, question, "Put the numbers into the question")
    return question, read_choices(row, layout.choices) if layout.choices else choices, reply


def _asked(
    row: Mapping[str, Any], layout: Layout, note: Callable[[str], None]
) -> tuple[str, Choices | None, str | None]:
    """The question, the options it brings with it, and the reply where it is a conversation."""
    value = row.get(layout.question)
    choices: Choices | None = None
    reply: str | None = None
    if isinstance(value, dict):  # CommonsenseQA as published: {"stem", "choices": [{"label", "text"}]}
        options = value.get("choices")
        choices = None if options is None else choices_of(options)
        if not isinstance(value.get("stem"), str):
            inner = next(
                (f"{layout.question}.{name}" for name in value if isinstance(value[name], str)), None
            )
            raise RowDefect(
                "the question is an object without a 'stem'", str(value),
                f"A column inside it is named with a dot: --question-column {inner}",
                kind=True,
            )  # fmt: skip
        value = value["stem"]
    elif not isinstance(value, str) or value.startswith("[") or layout.question in layout.answers:
        if is_conversation(value):
            value, reply, told = read_conversation(value)
            if told:
                note(SYSTEM_MESSAGE)
        elif is_missing(value):
            value = ""
        elif isinstance(value, str) and layout.question in layout.answers:
            raise RowDefect(UNREADABLE_TURNS, value, "Give a list of turns, or name the answer's column")
        elif not isinstance(value, str):
            raise RowDefect(f"the question is not text but {type(value).__name__}", str(value))
    question: str = "" if is_blank(value) else value
    if question.strip():
        for column in reversed(layout.before):
            context = row.get(column)
            if is_blank(context):
                continue
            if not isinstance(context, str):
                raise RowDefect(
                    f"'{column}', which is put before the question, is not text but {type(context).__name__}",
                    str(context), "Name the question's column (--question-column) to leave it out",
                )  # fmt: skip
            question = _after(context, question, told=column.casefold() != "body")
        if layout.after is not None and not is_blank(row.get(layout.after)):
            question = f"{question}\n{value_text(row.get(layout.after), layout.after).strip()}"
    return question, choices, reply


def _after(context: str, question: str, *, told: bool) -> str:
    """`question` after what it stands on: a text of its own, or (SVAMP's bodies) the sentences before."""
    context = context.strip()
    if told:
        return f"{context}\n{question}" if context else question
    # SVAMP's bodies lack the full stop that its joined column has.
    context = context if not context or context.endswith((".", "!", "?", ",")) else f"{context}."
    return f"{context} {question}".strip()


def _answer(value: Any, choices: Choices | None, keys: Keys, column: str) -> tuple[str, Separated | None]:
    """The answer in a value, and what else its text held where it is a worked solution."""
    if choices is None and isinstance(value, str) and len(value) <= SHORT and value.isalnum():
        return value, None  # most of them
    if isinstance(value, list | tuple) and is_conversation(value):
        value = reply_text(value)
    if choices is not None and choices.right is not None and isinstance(value, dict):
        return choices.letters[choices.right], None
    if isinstance(value, list | tuple | dict):
        raise _not_one_value(value, column)
    text = value_text(value, "answer").strip()
    solution: Separated | None = None
    if may_hold_marker(text):
        solution = separate(text, summary=True)
        if solution.answer is None:
            solution = None
        else:
            text = solution.answer
    if choices is not None:
        return choices.letter(value if solution is None else text, keys), solution
    if solution is not None and re.search(r"\d!$", text):
        raise RowDefect("answer that may be a factorial or an exclamation", text, "Write it in another way")
    answer = text if solution is not None or text.isalnum() else tidy(text, full_stop=True)
    if answer.startswith("[") and _is_list(answer):
        raise RowDefect("the answer is a list", answer, "Give one text or number")
    defect = answer_defect(answer)
    if defect == MISSING_ANSWER:
        raise RowDefect(defect)
    if defect is not None:
        raise RowDefect(
            defect, answer, "An answer is one short text. In a worked solution it is found behind '####', "
            "'The answer is:' or in \\boxed{}; an answer in a column of its own is named: --answer-column",
        )  # fmt: skip
    return answer, solution


def _not_one_value(value: Any, column: str) -> RowDefect:
    """Of an answer that is a list or an object: the column inside it that may be the answer is named."""
    names = list(value) if isinstance(value, dict) else ["0"] if len(value) == 1 else []
    inner = f"{column}.{names[0] if names else 'NAME'}"
    return RowDefect(
        f"the answer is neither text nor a number but {type(value).__name__}", str(value),
        f"A column inside it is named with a dot: --answer-column {inner} (data.columns.answer={inner})",
        kind=True,
    )  # fmt: skip


def _option_called_so(row: Mapping[str, Any], layout: Layout, choices: Choices | None) -> Any:
    """An answer such as 'None' where an option is called so. Raises RowDefect where the answer is missing."""
    for name in layout.answers:
        value = row.get(name)
        if isinstance(value, str) and choices is not None and choices.places_of_text(value):
            return value
    raise _missing(row, layout)


def _missing(row: Mapping[str, Any], layout: Layout) -> RowDefect:
    """Of a row without an answer: what else may hold it is named."""
    values = (row.get(name) for name in layout.answers)
    written = next((value.strip() for value in values if isinstance(value, str) and value.strip()), "")
    if written:
        return RowDefect(
            MISSING_ANSWER, written, "Programs write that where there is no value. If it is the answer, "
            "write it in another way, such as 'none'",
        )  # fmt: skip
    for name in label_columns(row):
        if not layout.reads(name) and not is_blank(row[name]) and isinstance(row[name], str | int | float):
            return RowDefect(
                MISSING_ANSWER, None, f"The column '{name}' holds {str(row[name])[:40]!r}; to read that one: "
                f"--answer-column {name} (data.columns.answer={name})",
            )  # fmt: skip
    return RowDefect(MISSING_ANSWER)


def _is_list(text: str) -> bool:
    try:
        return looks_like_list(text) and isinstance(written_list(text), list)
    except ValueError:
        return False


def _compare(
    stated: str | None, answer: str, options: tuple[Choices | None, Keys], note: Callable[[str], None]
) -> None:
    """Hold what a rationale states at its end against the answer of the row, which counts.

    A plain number or a letter that differs is a defect; where the texts alone do not tell, it is noted.
    """
    if not stated:
        return
    choices, keys = options
    if choices is not None:
        meant = choices.meant(stated, keys)
        same = meant == answer if meant is not None else None
    else:
        same = same_answer(stated, answer)
    if same is None:
        note(WRITTEN_OTHERWISE)
    elif not same:
        raise RowDefect(OTHER_ANSWER, stated, f"The answer of the row is {answer!r}")
