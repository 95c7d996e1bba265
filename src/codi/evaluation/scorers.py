"""How a written answer is read and compared: one named rule per published system.

    name      reads                                        compares
    codi      last number of the text, commas deleted      as floats
    coconut   text after the last '#', commas deleted      as strings
    icot      text after '####', commas deleted            as strings
    letter    first character after 'The answer is:'       as strings (CommonsenseQA)

The rules differ enough to move an accuracy, so every result names the scorer it was made with.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from codi.data.example import Example
from codi.errors import DataError, UsageError, nearest

ANSWER_PROMPT = "The answer is:"
CHOICE_LETTERS = "ABCDE"

_NUMBER = re.compile(r"-?\d+\.?\d*")


def _float(text: str) -> float | None:
    """`text` as a finite float, or None. Digits beyond a float's range would all compare equal as inf."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


class Scorer(ABC):
    """A named rule that reads an answer out of text and says whether it equals the gold answer.

    Attributes:
        name: the name results are published under.
        describe: the rule in one sentence.
        needs: what a gold answer must hold, for the error when it does not.
    """

    name: ClassVar[str]
    describe: ClassVar[str]
    needs: ClassVar[str]

    @abstractmethod
    def parse(self, text: str) -> str | None:
        """The answer that `text` gives, or None where none can be read (which counts as wrong)."""

    @abstractmethod
    def parse_gold(self, gold: str) -> str | None:
        """The gold answer in the form `parse` gives, or None where `gold` cannot be scored by this rule."""

    def equal(self, value: str, gold: str) -> bool:
        """Whether two parsed answers are the same; string equality unless the rule says otherwise."""
        return value == gold

    def correct(self, text: str, gold: str) -> bool:
        """Whether `text` gives the answer `gold`.

        Raises:
            DataError: `gold` cannot be scored by this rule.
        """
        expected = self.parse_gold(gold)
        if expected is None:
            raise DataError(
                f"The gold answer {gold!r} has no {self.needs}, which scorer '{self.name}' compares. "
                "Correct the answer, or choose another scorer."
            )
        value = self.parse(text)
        return value is not None and self.equal(value, expected)


class CodiScorer(Scorer):
    """The rule of the published CODI numbers."""

    name = "codi"
    describe = "last match of -?\\d+\\.?\\d* with commas deleted, compared as floats; no number is wrong"
    needs = "number"

    def parse(self, text: str) -> str | None:
        """The last number of `text` with its commas deleted, e.g. '-1234.5' for '= -1,234.5'."""
        found = _NUMBER.findall(text.replace(",", ""))
        return found[-1] if found and _float(found[-1]) is not None else None

    def parse_gold(self, gold: str) -> str | None:
        """`gold` as a number. GSM-Hard has golds such as '2.0107e-06', which the text rule reads as -6."""
        plain = gold.replace(",", "").strip()
        return plain if _float(plain) is not None else self.parse(gold)

    def equal(self, value: str, gold: str) -> bool:
        """Equality of the two as floats: '18', '18.' and '18.0' are the same."""
        return float(value) == float(gold)


class CoconutScorer(Scorer):
    """The rule of the published Coconut numbers (answers written as '### 18')."""

    name = "coconut"
    describe = "text after the last '#' (all of it where there is none), commas deleted, string equality"
    needs = "text"

    def parse(self, text: str) -> str | None:
        """The stripped text after the last '#'; the whole text where there is no '#'."""
        return text.split("#")[-1].replace(",", "").strip() or None

    def parse_gold(self, gold: str) -> str | None:
        """`gold` by the same rule, so '#### 18' and '18' are both accepted in a file."""
        return self.parse(gold)


class IcotScorer(Scorer):
    """The rule of the published iCoT numbers (answers written as '#### 18')."""

    name = "icot"
    describe = "text after '####' (all of it where there is none), commas deleted, string equality"
    needs = "text"

    def parse(self, text: str) -> str | None:
        """The stripped text after the first '####'; the whole text where there is none.

        A reasoner that was given '####' as its answer prompt does not write it again, hence the second case.
        """
        return text.split("####", 1)[-1].replace(",", "").strip() or None

    def parse_gold(self, gold: str) -> str | None:
        """`gold` by the same rule, so '#### 18' and '18' are both accepted in a file."""
        return self.parse(gold)


class LetterScorer(Scorer):
    """CommonsenseQA: one letter of A to E.

    The published code counts an unreadable letter as "C", which gives one answer in five for free; here it
    is wrong, and the runner reports how many there were.
    """

    name = "letter"
    describe = f"first character after '{ANSWER_PROMPT}', one of A to E; an unreadable letter is wrong"
    needs = "choice letter (A to E)"

    _ALONE = re.compile(rf"([{CHOICE_LETTERS}])(?:[.:,)].*)?", re.DOTALL)

    def parse(self, text: str) -> str | None:
        """The letter after the last answer prompt.

        Where the prompt was read by the model and not written, the text is the answer alone; it must then be
        the letter itself ('A', 'A: bank'), so that a rationale which begins 'A door ...' is not an answer.
        """
        _, prompt, after = text.rpartition(ANSWER_PROMPT)
        if prompt:
            first = after.strip()[:1]
            return first if first and first in CHOICE_LETTERS else None
        alone = self._ALONE.fullmatch(text.strip())
        return alone.group(1) if alone else None

    def parse_gold(self, gold: str) -> str | None:
        """`gold` where it is one letter of A to E."""
        letter = gold.strip()
        return letter if len(letter) == 1 and letter in CHOICE_LETTERS else None


SCORERS: dict[str, Scorer] = {
    scorer.name: scorer for scorer in (CodiScorer(), CoconutScorer(), IcotScorer(), LetterScorer())
}


def get_scorer(name: str) -> Scorer:
    """The scorer called `name`.

    Raises:
        UsageError: no scorer has that name; the message names the nearest and lists them all.
    """
    if name not in SCORERS:
        raise UsageError(
            f"Unknown scorer '{name}'.{nearest(name, SCORERS)} Scorers: {', '.join(sorted(SCORERS))}."
        )
    return SCORERS[name]


def check_gold_answers(examples: Iterable[Example], scorer: Scorer) -> None:
    """Refuse examples whose gold answer `scorer` cannot compare, before any time is spent on answering.

    Raises:
        DataError: naming the first such example and how many there are.
    """
    unusable = [example for example in examples if scorer.parse_gold(example.answer) is None]
    if unusable:
        first = unusable[0]
        count = f" (and {len(unusable) - 1} more)" if len(unusable) > 1 else ""
        raise DataError(
            f"Scorer '{scorer.name}' needs a {scorer.needs} in every gold answer, but example "
            f"'{first.id}'{count} has the answer {first.answer!r}. Correct it, remove it, or choose another "
            f"scorer: {', '.join(sorted(SCORERS))}."
        )
