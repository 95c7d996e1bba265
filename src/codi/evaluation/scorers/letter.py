"""Multiple choice: the letter of one of the set's options."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

from codi.data.answer_text import tidy
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
    describe = (
        "the label after the answer prompt, one of the set's, alone or followed by a closing mark: 'B', 'b', "
        "'(B)', 'B: bank', 'Option B'; an unreadable one is wrong"
    )
    needs = "one of the letters that name the options"

    labels: str = USUAL_LABELS

    def parse(self, text: str) -> str | None:
        """The label after the last answer prompt; of the text where no prompt stands.

        It stands alone, or what is around it says that it is a label: a closing mark ('A)', 'A: bank'), or
        'option' before it. 'An apple' and 'A bank' name no option, nor does 'A or B'.
        """
        answer = self.answer_in(text)
        alone = tidy(text if answer is None else answer)
        found = _label_first(self.labels).match(alone)
        if found is None:
            return None
        label = found["label"]
        if answer is None and len(alone) > 1:  # "a) First ..." begins a reasoning, "Option A" may end one
            begins = label in self.labels and not any(map(str.isalnum, alone[: found.start("label")]))
            return label if begins else None
        return label if label in self.labels else _small(self.labels)[label]

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


@lru_cache(maxsize=64)
def _label_first(labels: str) -> re.Pattern[str]:
    """A text that begins with one of the labels, be it in small letters, and says that it is one."""
    one = f"[{re.escape(labels + ''.join(_small(labels)))}]"
    best = r"(?:the\s+)?(?:(?:correct|right|best|final)\s+)*"
    before = rf"(?i:{best}(?:answer\b|(?P<named>option|choice|letter)\b)(?:\s+is\b)?\s*:?\s*)?"
    another = rf"\W*(?:[,/&]|and\b|or\b)\s*(?i:(?:option|choice)\s+)?[(\[]?{one}(?![^\W_])"
    closed = (
        r"[*_`\s]*(?:[)\]]|[:：](?!\d)|\.(?!\w)|[,;](?=\s))|[*_`]*\s+[-–—]\s|[*_`]*[^\S\n]*(?:\n|$)"
        r"|\s+is\s+(?:the\s+)?(?:correct|right|best|answer)\b|(?(named)\b|(?!))"
    )
    return re.compile(rf"[\s*_`]*{before}[*_`]*[(\[]?\s*(?P<label>{one})(?![^\W_])(?!{another})(?:{closed})")


def _small(labels: str) -> dict[str, str]:
    """The small letters of capitals, where they are no labels themselves."""
    pairs = ((label.lower(), label) for label in labels if label.isupper())
    return {small: label for small, label in pairs if len(small) == 1 and small not in labels}
