"""The steps of a rationale, whatever holds it: a list, a list that a table wrote as text, a text, a turn."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from codi.data.answer_text import may_hold_marker
from codi.data.answers import separate, without_statement
from codi.data.conversations import is_conversation, reply_text
from codi.data.example import RowDefect
from codi.data.rationale_lines import VISIBLE
from codi.data.steps import StepsRule, split_steps
from codi.data.titles import without_titles
from codi.data.values import is_missing
from codi.data.written_lists import looks_like_list, written_list

UNREADABLE_STEPS = "list of steps that cannot be read"
BLANK_STEP = "blank steps left out"
TITLE = "headings left out of lists of steps"

# "[Add 3 and 4, then double it]": a list whose steps nobody can tell apart. "[0, 5]" is an interval.
_UNQUOTED = re.compile(r"\[(?=[^\[\]]*[A-Za-z=]{2}|[^\[\]]*=)[^\[\]]+,\s[^\[\]]+\]", re.DOTALL)


def steps_of(
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
    unquoted = isinstance(value, str) and _UNQUOTED.fullmatch(value.strip()) is not None
    if unquoted and not rule.startswith("published") and len(split_steps(value, rule)) < 2:
        raise RowDefect(UNREADABLE_STEPS, value, 'Put each of its steps in quotes: ["..", ".."]')
    if not isinstance(value, str):
        if is_conversation(value):
            return steps_of(reply_text(value), said, rule, note)
        return _listed_steps(value, note)
    if rule.startswith("published"):  # literal, markers and all
        return split_steps(value, rule), None
    if value.strip() in said:
        return (), None
    if not may_hold_marker(value):
        return split_steps(value, rule), None
    parts = separate(value, summary=True)
    return split_rationale(parts.rationale, rule), parts.answer


def split_rationale(rationale: str, rule: StepsRule) -> tuple[str, ...]:
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
