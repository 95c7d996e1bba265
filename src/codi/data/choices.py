"""Multiple choice: answer options in every usual form, written into the question, the answer as a letter.

    options ["A)10", "B)15"] · choices {"label": [..], "text": [..]} · a list of {"label", "text"}
    options {"A": "10"} · endings ["..", ".."] · columns A, B, C · option_a, option_b · opa, opb
    a text "A) 10 B) 15"

become

    Question: What is 7 * 8?
    Choices:
    A: 54
    B: 56

Labels that are no letters (1 to 4) become letters by their place. An answer may be a label, an option's text,
or the place of an option; `codi.data.choice_keys` says how a source counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, NamedTuple

from codi.data.answer_text import MISSING_ANSWER, tidy
from codi.data.example import RowDefect
from codi.data.values import is_missing, value_text
from codi.data.written_lists import looks_like_list, written_list

NO_SUCH_OPTION = "answer that is none of the options"
UNREADABLE = "the choices cannot be read"

# "A) 10", "(A) 10", "A. 10", "A: 10", "a ) 10"
_LABEL = re.compile(
    r"\s*\(?\s*(?P<label>[A-Za-z]|\d{1,2})\s*(?:\)\s*[.:]?|[.:](?=\s|$)|[.:](?!\d))\s*(?P<text>.*)", re.DOTALL
)
_IN_TEXT = re.compile(r"(?:^|(?<=[\s,;|{]))\(?(?P<label>[A-Za-z])\s*[).:](?=\s|\S)")
_LETTER = re.compile(r"[A-Z]")
AMBIGUOUS = "answer that could be two of the options"


class Keys(NamedTuple):
    """What a bare number means as an answer.

    values: it may be the option that is this number; places: it may be the place of an option, the first one
    being `first`; told: whether the rows tell which is the first.
    """

    values: bool
    places: bool
    first: int = 0
    told: bool = True


UNKNOWN = Keys(values=True, places=True, told=False)


@dataclass(frozen=True, slots=True)
class Choices:
    """The options of one question.

    Attributes:
        labels: as the source labels them; None where it does not.
        texts: one for each.
        right: the place of the right one, where the options say it themselves.
    """

    labels: tuple[str, ...] | None
    texts: tuple[str, ...]
    right: int | None = None

    @property
    def letters(self) -> tuple[str, ...]:
        """The labels that the question shows: the source's where they are letters, else A, B, C, ..."""
        labels = tuple(label.upper() for label in self.labels or ())
        if labels and all(map(_LETTER.fullmatch, labels)) and len(set(labels)) == len(labels):
            return labels
        return tuple(ascii_uppercase[: len(self.texts)])

    def letter(self, answer: Any, keys: Keys = UNKNOWN) -> str:
        """The letter that `answer` means: a label, a place, or the text of an option.

        keys: what the source's bare numbers mean.

        Raises:
            RowDefect: it means none of them, or could mean two.
        """
        text = value_text(answer).strip()
        if not text:
            raise RowDefect(MISSING_ANSWER)
        found = self._places(tidy(text), keys)
        if len(found) == 1:
            return self.letters[found.pop()]
        options = f"Options: {'; '.join(map(': '.join, zip(self.letters, self.texts, strict=True)))}"[:300]
        if found:
            advice = "Write the letter of the right one" if text.isdecimal() else "Make them differ"
            raise RowDefect(AMBIGUOUS, text, f"{options}. {advice}", kind=text.isdecimal())
        counted = text.isdecimal() and int(text) == len(self.texts) and keys.first == 0 and keys.told
        if counted:
            options += ". Other answers of this source count from 0. If this one counts from 1, write letters"
        raise RowDefect(NO_SUCH_OPTION, text, options, kind=counted)

    def meant(self, answer: str, keys: Keys = UNKNOWN) -> str | None:
        """`letter` of an answer in a text, where a number may be an option; None where nobody can tell."""
        try:
            return self.letter(answer, keys._replace(values=True))
        except RowDefect:
            return None

    def is_label(self, answer: str) -> bool:
        """Whether `answer` is one of the labels."""
        return _folded(answer) in [label.casefold() for label in self.labels or self.letters]

    def places_of_text(self, answer: str) -> set[int]:
        """The options that are `answer` to the letter; case, space and a full stop aside."""
        folded = _folded(answer)
        return {place for place, text in enumerate(self.texts) if _folded(text) == folded}

    def _places(self, answer: str, keys: Keys) -> set[int]:
        """The options that `answer` may mean."""
        labels = [label.casefold() for label in self.labels or self.letters]
        folded = _folded(answer)
        if folded in labels:
            return {labels.index(folded)}
        named = self.places_of_text(answer)
        if answer.isdecimal():
            place = int(answer) - keys.first
            counted = {place} if keys.places and 0 <= place < len(self.texts) else set[int]()
            return (named | counted) if keys.values else counted or named
        if named:
            return named
        if folded.upper() in self.letters:
            return {self.letters.index(folded.upper())}
        labelled = _LABEL.fullmatch(answer)
        if labelled is None or labelled["label"].casefold() not in labels:
            return set()
        place = labels.index(labelled["label"].casefold())
        return {place} if _folded(labelled["text"]) in ("", _folded(self.texts[place])) else set()

    def written_into(self, question: str) -> str:
        """`question` with the options below it, unless it shows them already."""
        if self.stand_in(question):
            return question
        lines = (f"{letter}: {' '.join(text.split()) if chr(10) in text else text}" for letter, text in
                 zip(self.letters, self.texts, strict=True))  # fmt: skip
        return "\n".join((f"Question: {question}", "Choices:", *lines))

    def stand_in(self, question: str) -> bool:
        """Whether `question` shows every option behind its letter."""
        shown = _folded(question)
        return all(
            re.search(rf"(?<!\w)\(?{letter.lower()}\s*[).:]+\s*{re.escape(_folded(text))}", shown)
            for letter, text in zip(self.letters, self.texts, strict=True)
        )


def read_choices(row: Mapping[str, Any], columns: Sequence[str]) -> Choices | None:
    """The options of a row; None where it has none.

    Raises:
        RowDefect: what stands there cannot be read as options.
    """
    if len(columns) == 1:
        value = row.get(columns[0])
        return None if is_missing(value) or value in ([], {}, "") else choices_of(value)
    texts = [value_text(row.get(column)).strip() for column in columns]
    while texts and not texts[-1]:
        texts.pop()
    if len(texts) < 2:
        return None
    last = [column[-1].lower() for column in columns[: len(texts)]]
    return _checked(tuple(last), tuple(texts))


def choices_of(value: Any) -> Choices:
    """Options in any of the forms. Raises RowDefect where `value` is none of them."""
    if isinstance(value, str):
        if not looks_like_list(value):
            listed = _pairs_in(value)
            if listed is None:
                raise _unreadable(value)
            return _checked(*listed)
        try:
            value = written_list(value)
        except ValueError:
            raise _unreadable(value) from None
    if isinstance(value, dict):
        return _of_mapping(value)
    if not isinstance(value, list | tuple) or len(value) == 0:
        raise _unreadable(value)
    if all(isinstance(choice, dict) for choice in value):
        pairs = [
            (
                _first(choice, "label", "key", "id", "letter"),
                _first(choice, "text", "value", "option", "content"),
            )
            for choice in value
        ]
        if any(text is None for _, text in pairs):
            raise _unreadable(value)
        labels = (
            None if any(label is None for label, _ in pairs) else tuple(value_text(pair[0]) for pair in pairs)
        )
        return _checked(labels, tuple(value_text(text) for _, text in pairs))
    if any(isinstance(choice, list | tuple | dict) or is_missing(choice) for choice in value):
        raise _unreadable(value)
    texts = [value_text(choice) for choice in value]
    labelled = [_LABEL.fullmatch(text) for text in texts]
    if all(labelled) and _in_order([found["label"] for found in labelled if found]):
        parts = [found for found in labelled if found]
        return _checked(tuple(part["label"] for part in parts), tuple(part["text"].strip() for part in parts))
    return _checked(None, tuple(texts))


def _of_mapping(value: Mapping[str, Any]) -> Choices:
    texts = next(
        (value[name] for name in ("text", "texts", "choices") if isinstance(value.get(name), list | tuple)),
        None,
    )
    labels = next(
        (value[name] for name in ("label", "labels") if isinstance(value.get(name), list | tuple)), None
    )
    if texts is not None:
        if "choices" in value and labels is not None and set(labels) <= {0, 1}:  # TruthfulQA's mc1_targets
            return _checked(
                None, tuple(map(value_text, texts)), list(labels).index(1) if 1 in labels else None
            )
        if labels is not None and len(labels) != len(texts):
            raise _unreadable(value)
        return _checked(
            None if labels is None else tuple(map(value_text, labels)), tuple(map(value_text, texts))
        )
    if any(isinstance(text, list | tuple | dict) for text in value.values()) or len(value) < 2:
        raise _unreadable(value)
    scores = list(value.values())
    if all(score in (0, 1) and not isinstance(score, str) for score in scores) and scores.count(1) == 1:
        return _checked(None, tuple(value), scores.index(1))  # BIG-bench's target_scores
    # null pads the options of a shorter question where a table gives every row the same ones
    given = {label: value_text(text) for label, text in value.items() if not is_missing(text)}
    return _checked(tuple(given), tuple(given.values()))


def _checked(labels: tuple[str, ...] | None, texts: tuple[str, ...], right: int | None = None) -> Choices:
    if not texts or len(texts) > len(ascii_uppercase) or any(not text.strip() for text in texts):
        raise _unreadable(dict(zip(labels, texts, strict=True)) if labels else list(texts))
    return Choices(labels and tuple(label.strip(" ().:") for label in labels), texts, right)


def _pairs_in(text: str) -> tuple[tuple[str, ...] | None, tuple[str, ...]] | None:
    """The options of "A) 10 B) 15", or of lines; None where `text` is no list of options."""
    marks = list(_IN_TEXT.finditer(text))
    for start, mark in enumerate(marks):
        if mark["label"] not in "Aa":
            continue
        run = [mark]
        for other in marks[start + 1 :]:
            if ord(other["label"]) == ord(run[-1]["label"]) + 1:
                run.append(other)
        if len(run) >= 2:
            ends = [*(other.start() for other in run[1:]), len(text)]
            texts = tuple(
                text[one.end() : end].strip(" \t\r\n,;|") for one, end in zip(run, ends, strict=True)
            )
            return tuple(one["label"] for one in run), texts
    for between in (r"[\r\n|]+", ";"):
        parts = [part.strip() for part in re.split(between, text) if part.strip()]
        if len(parts) >= 2:
            return None, tuple(parts)
    return None


def shows_options(question: str) -> bool:
    """Whether a question holds lettered options of its own."""
    found = _pairs_in(question)
    return found is not None and found[0] is not None


def letter_shown(answer: str, question: str) -> str:
    """The letter of an answer such as "C) 20" where the question shows lettered options; else `answer`."""
    labelled = re.sub(r"^(?i:option|choice)\s+(?=\(?[A-Z]\s*[).:])", "", answer)
    found = _LABEL.fullmatch(labelled) if labelled[:2].strip("(")[:1].isupper() else None
    return found["label"] if found is not None and found["text"] and shows_options(question) else answer


def _in_order(labels: Sequence[str]) -> bool:
    """Whether labels count up from A, 1 or 0."""
    codes = [int(label) if label.isdigit() else ord(label.upper()) - ord("A") for label in labels]
    start = 0 if not labels[0].isdigit() else codes[0]
    return len(codes) >= 2 and start in (0, 1) and codes == list(range(start, start + len(codes)))


def _first(choice: Mapping[str, Any], *names: str) -> Any:
    return next((choice[name] for name in names if choice.get(name) is not None), None)


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold().rstrip(".")


def _unreadable(value: Any) -> RowDefect:
    return RowDefect(
        UNREADABLE, str(value),
        "Give a list of texts, {'label': [..], 'text': [..]}, a list of {'label', 'text'}, or {'A': ..}",
    )  # fmt: skip
