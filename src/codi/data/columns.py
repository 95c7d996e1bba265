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
from codi.data.answers import Separated, separate, without_statement
from codi.data.choices import Choices, choices_of, letter_shown, read_choices, refuse_unread_options
from codi.data.conversations import UNREADABLE as UNREADABLE_TURNS
from codi.data.conversations import is_conversation, read_conversation, reply_text
from codi.data.example import Example, RowDefect
from codi.data.layout import Columns, Layout, resolve_layout
from codi.data.rationale_lines import VISIBLE
from codi.data.steps import StepsRule, split_steps, without_annotations
from codi.data.titles import without_titles
from codi.data.values import is_missing, value_text
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
UNREADABLE_STEPS = "list of steps that cannot be read"

BLANK_STEP = "blank steps left out"
TITLE = "headings left out of lists of steps"
SYSTEM_MESSAGE = "system messages put before the question"
WRITTEN_OTHERWISE = "rationales that may end in another answer"


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
    given = _first_given(row, layout.answers)
    in_conversation = given is row.get(layout.question) and reply is not None
    answer, solution = _answer(reply if in_conversation else given, choices)
    rationale = _first_given(row, layout.rationales)
    if rationale is None and reply and not in_conversation:
        rationale = reply
    if rationale is not None:
        steps, stated = _steps(rationale, (answer, given), steps_rule, remarks.append)
        _compare(stated, answer, choices, remarks.append)
    else:
        # "18\nThe answer is: 18": what another reader made of '#### 18'.
        worked = solution is not None and solution.rationale != answer
        steps = _split(solution.rationale, steps_rule) if solution is not None and worked else ()
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


def _first_given(row: Mapping[str, Any], columns: tuple[str, ...]) -> Any:
    """The first value that is not missing or blank; None without one."""
    for column in columns:
        value = row.get(column)
        if value is None or (isinstance(value, str) and not value.strip()) or is_missing(value):
            continue
        if not (isinstance(value, list | tuple | dict) and not value):
            return value
    return None


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
        value = value.get("stem")
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
    question: str = value or ""
    if question.strip():
        for column in reversed(layout.before):
            context = row.get(column)
            if is_missing(context):
                continue
            if not isinstance(context, str):
                raise RowDefect(
                    f"'{column}', which is put before the question, is not text but {type(context).__name__}",
                    str(context), "Name the question's column (--question-column) to leave it out",
                )  # fmt: skip
            question = _after(context, question, told=column.casefold() != "body")
        if layout.after is not None:
            given = value_text(row.get(layout.after), layout.after).strip()
            question = f"{question}\n{given}" if given else question
    return question, choices, reply


def _after(context: str, question: str, *, told: bool) -> str:
    """`question` after what it stands on: a text of its own, or (SVAMP's bodies) the sentences before."""
    context = context.strip()
    if told:
        return f"{context}\n{question}" if context else question
    # SVAMP's bodies lack the full stop that its joined column has.
    context = context if not context or context.endswith((".", "!", "?", ",")) else f"{context}."
    return f"{context} {question}".strip()


def _answer(value: Any, choices: Choices | None) -> tuple[str, Separated | None]:
    """The answer in a value, and what else its text held where it is a worked solution."""
    if choices is None and isinstance(value, str) and len(value) <= SHORT and value.isalnum():
        return value, None  # most of them
    if isinstance(value, list | tuple) and is_conversation(value):
        value = reply_text(value)
    if choices is not None and choices.right is not None and isinstance(value, dict):
        return choices.letters[choices.right], None
    text = value_text(value, "answer").strip()
    solution: Separated | None = None
    if may_hold_marker(text):
        solution = separate(text, summary=True)
        if solution.answer is None:
            solution = None
        else:
            text = solution.answer
    if choices is not None:
        return choices.letter(value if solution is None else text), solution
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


def _is_list(text: str) -> bool:
    try:
        return looks_like_list(text) and isinstance(written_list(text), list)
    except ValueError:
        return False


def _steps(
    value: Any, said: tuple[str, Any], rule: StepsRule, note: Callable[[str], None]
) -> tuple[tuple[str, ...], str | None]:
    """The steps of a rationale, and the answer that it states at its end, if any.

    said: the answer, and as it stands in its column; a "solution" that is one of them holds no reasoning.
    """
    if isinstance(value, str) and value.lstrip().startswith(("[", "{", "(")) and looks_like_list(value):
        try:
            value = written_list(value)
        except ValueError as error:
            raise RowDefect(UNREADABLE_STEPS, value, f"Write the list as JSON: {error}") from None
    if not isinstance(value, str):
        if is_conversation(value):
            return _steps(reply_text(value), said, rule, note)
        return _listed_steps(value, note)
    if rule.startswith("published"):  # literal, markers and all
        return split_steps(value, rule), None
    if value.strip() in said:
        return (), None
    if not may_hold_marker(value):
        return split_steps(value, rule), None
    parts = separate(value, summary=True)
    return _split(parts.rationale, rule), parts.answer


def _split(rationale: str, rule: StepsRule) -> tuple[str, ...]:
    """The steps of a rationale whose markers are out; what LaTeX hid until it was split goes as well."""
    steps = split_steps(rationale, rule)
    if rule.startswith("published") or not may_hold_marker(rationale):
        return steps
    return _without_statements(steps)[0]


def _without_statements(steps: tuple[str, ...]) -> tuple[tuple[str, ...], str | None]:
    """Steps without what only states the answer, and the answer that they state."""
    parts = [without_statement(step, last=place == len(steps)) for place, step in enumerate(steps, 1)]
    stated = next((part.answer for part in reversed(parts) if part.answer), None)
    return tuple(part.rationale for part in parts if VISIBLE.search(part.rationale)), stated


def _listed_steps(value: Any, note: Callable[[str], None]) -> tuple[tuple[str, ...], str | None]:
    """A list as it stands, without what is blank and what only states the answer."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        raise RowDefect(
            f"the steps are not a list but {type(value).__name__}", str(value), "Give a list or text"
        )
    steps = tuple([step if isinstance(step, str) else _step_text(step) for step in value])
    text = "\n".join(steps)
    if not (text.isascii() and all(map(str.strip, steps))) and not all(map(VISIBLE.search, steps)):
        for _ in range(sum(VISIBLE.search(step) is None for step in steps)):
            note(BLANK_STEP)
        steps = tuple(filter(VISIBLE.search, steps))
    said = without_titles(steps)
    for _ in range(len(steps) - len(said)):
        note(TITLE)
    steps = tuple(said)
    return _without_statements(steps) if may_hold_marker(text) else (steps, None)


_STEP_FIELDS = ("step", "text", "content", "explanation", "thought", "reasoning", "output", "result")


def _step_text(step: Any) -> str:
    """One step that is no text: an object with one, or with an explanation and its result."""
    if is_missing(step):
        return ""
    if isinstance(step, dict):
        texts = {name: text for name, text in step.items() if isinstance(text, str)}
        known = [texts[name] for name in _STEP_FIELDS if name in texts]
        if known or len(texts) == 1:
            return " ".join(known or texts.values())
    raise RowDefect("the steps hold something that is not text", str(step), "Give a list of texts")


def _compare(stated: str | None, answer: str, choices: Choices | None, note: Callable[[str], None]) -> None:
    """Hold what a rationale states at its end against the answer of the row, which counts.

    A plain number or a letter that differs is a defect; where the texts alone do not tell, it is noted.
    """
    if not stated:
        return
    if choices is not None:
        meant = choices.meant(stated)
        same = meant == answer if meant is not None else None
    else:
        same = same_answer(stated, answer)
    if same is None:
        note(WRITTEN_OTHERWISE)
    elif not same:
        raise RowDefect(OTHER_ANSWER, stated, f"The answer of the row is {answer!r}")
