"""Multiple choice: the letter of one of the set's options."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

from codi.data.example import Example
from codi.evaluation.scorers.scorer import Scorer

USUAL_LABELS = "ABCDE"
"""CommonsenseQA's; a set with others brings its own."""
_LISTED = re.compile(r"^\s*\(?([^\W_])\s?[:.)]\s*\S", re.MULTILINE)


def listed_labels(question: str) -> list[str]:
    """The labels of the options in a question, one on a line: 'A: bank'. Empty where there are none."""
    found = [match.group(1) for match in _LISTED.finditer(question)]
    return found if len(found) > 1 and len(set(found)) == len(found) else []


@dataclass(frozen=True)
class LetterScorer(Scorer):
    """One letter of those that the set uses.

    The published code counts an unreadable letter as "C", which gives one answer in five for free; here it
    is wrong, and the runner reports how many there were.

    labels: the letters that are answers.
    """

    name = "letter"
    describe = "first character after the answer prompt, one of the set's labels; an unreadable one is wrong"
    needs = "one of the letters that name the options"

    labels: str = USUAL_LABELS

    def parse(self, text: str) -> str | None:
        """The letter after the last answer prompt.

        Where no prompt stands, the text is the answer alone; it must then be the letter itself ('A',
        'A: bank'), so that a rationale which begins 'A door ...' is not an answer.
        """
        answer = self.answer_in(text)
        if answer is not None:
            first = answer.strip()[:1]
            return first if first and first in self.labels else None
        alone = re.fullmatch(rf"([{re.escape(self.labels)}])(?:[.:,)].*)?", text.strip(), re.DOTALL)
        return alone.group(1) if alone else None

    def parse_gold(self, gold: str) -> str | None:
        """`gold` where it is one letter, or another label of the set."""
        label = gold.strip()
        return label if len(label) == 1 and (label.isalpha() or label in self.labels) else None

    def correct(self, text: str, gold: str) -> bool:
        """As any scorer; the gold letter is among the labels, whatever the others are."""
        label = self.parse_gold(gold)
        if label is None or label in self.labels:
            return super().correct(text, gold)
        return replace(self, labels=self.labels + label).correct(text, gold)

    def fitted(self, examples: Iterable[Example]) -> Self:
        """With the labels that the questions list and the gold answers name.

        Capital letters are taken from A on, so that a wrong 'B' is read where the golds are A and C.
        """
        found: set[str] = set()
        for example in examples:
            found.update(listed_labels(example.question))
            gold = example.answer.strip()
            found.update(gold if len(gold) == 1 and gold.isalpha() else ())
        capitals = {label for label in found if "A" <= label <= "Z"}
        if capitals:
            found |= {chr(code) for code in range(ord("A"), ord(max(capitals)) + 1)}
        return replace(self, labels="".join(sorted(found))) if found else self
