"""What the answers of a multiple-choice set mean where they are bare numbers: decided once for a source.

    choices of 4 texts, answers 0, 2, 3        places, counted from 0
    choices of 4 texts, answers 1, 2, 4        places, counted from 1
    options [4, 2, 8], answers 8, 4, 8         the options themselves

One row seldom tells: the reading that fits the most of the rows looked at is taken. Labels of the options
("1" to "4") are no matter of this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from codi.data.answer_text import may_hold_marker, tidy
from codi.data.answers import separate
from codi.data.choice_columns import doubtful_columns
from codi.data.choices import Choices, Keys, choices_of, read_choices
from codi.data.example import RowDefect
from codi.data.layout import LABELS, Layout, fold
from codi.data.values import first_given, value_text

_KEYS = frozenset(fold(name) for name in ("answer_key", "correct_option", *LABELS))


@dataclass
class Tally:
    """How many rows each reading of their answers fits.

    looked_at: rows with options and an answer; named: those whose answer is a label or no number and means an
    option; values, from_0, from_1: of the bare numbers, those that each reading fits; figures: rows whose
    options are all numbers.
    """

    looked_at: int = 0
    named: int = 0
    values: int = 0
    from_0: int = 0
    from_1: int = 0
    figures: int = 0

    def add(self, choices: Choices, answer: str) -> None:
        """Count one row. answer: as its source writes it, without what is wrapped around it."""
        self.looked_at += 1
        figures = all(map(_is_figure, choices.texts))
        self.figures += figures
        if figures and answer.isdecimal() and choices.is_label(answer):
            return
        if choices.is_label(answer) or not answer.isdecimal():
            self.named += choices.meant(answer) is not None
            return
        self.values += len(choices.places_of_text(answer)) == 1
        self.from_0 += int(answer) < len(choices.texts)
        self.from_1 += 1 <= int(answer) <= len(choices.texts)

    def keys(self) -> Keys:
        """The reading that fits best."""
        places = max(self.from_0, self.from_1)
        return Keys(
            values=0 < self.values >= places,
            places=places >= self.values,
            first=1 if self.from_1 > self.from_0 else 0,
            told=self.from_0 != self.from_1,
        )

    def are_options(self, *, keyed: bool) -> bool:
        """Whether columns that may be options are: most answers mean one of them.

        keyed: the column of answers is named as one of labels. Else a small number is the place of one
        among figures by chance.
        """
        if keyed and self.figures:
            return True
        keys = self.keys()
        fits = self.values if keys.values else max(self.from_0, self.from_1)
        if not keys.values and 2 * self.figures > self.looked_at:
            fits = 0
        return 2 * (self.named + fits) > self.looked_at


def may_have_options(layout: Layout, row: Mapping[str, Any]) -> bool:
    """Whether the rows of a source bring options, by its first one."""
    return bool(layout.choices) or isinstance(row.get(layout.question), dict)


def settled(
    layout: Layout, rows: Iterable[Mapping[str, Any]], tally: Tally, answers: tuple[str, ...] = ()
) -> Layout:
    """`layout` with what the rows of its source say of the options and their keys.

    Args:
        rows: rows that `tally`, which has counted those before, has not.
        answers: where answers are, if the layout reads none itself.
    """
    answers = layout.answers or answers
    keyed = bool(answers) and fold(answers[0]) in _KEYS
    for row in rows:
        found = _options_and_answer(row, layout, answers)
        if found is not None:
            tally.add(*found)
    if layout.choices and doubtful_columns(layout.choices) and not tally.are_options(keyed=keyed):
        return replace(layout, choices=(), passed_over=layout.choices)
    return replace(layout, keys=tally.keys()) if tally.looked_at else layout


def _options_and_answer(
    row: Mapping[str, Any], layout: Layout, answers: tuple[str, ...]
) -> tuple[Choices, str] | None:
    try:
        if layout.choices:
            choices = read_choices(row, layout.choices)
        else:
            asked = row.get(layout.question)
            options = asked.get("choices") if isinstance(asked, dict) else None
            choices = None if options is None else choices_of(options)
        if choices is None or choices.right is not None:
            return None
        text = value_text(first_given(row, answers)).strip()
    except RowDefect:
        return None
    if may_hold_marker(text):
        text = separate(text, summary=True).answer or text
    return (choices, tidy(text)) if text else None


def _is_figure(text: str) -> bool:
    return text.strip().lstrip("-−").replace(".", "", 1).replace(",", "").isdecimal()
