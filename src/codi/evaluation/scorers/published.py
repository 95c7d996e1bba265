"""The rules that published numbers were made with, under their names.

A perfect copy matters more here than a good rule: another rule, another accuracy.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import ClassVar, Self

from codi.data.numbers import plain_number, written
from codi.errors import UsageError
from codi.evaluation.scorers.scorer import AnswerReader, Scorer

_NUMBER = re.compile(r"-?\d+\.?\d*")


def _float(text: str) -> float | None:
    """`text` as a finite float, or None. Digits beyond a float's range would all compare equal as inf."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


class CodiScorer(Scorer):
    """The rule of the published CODI numbers. It reads the whole text, wherever the answer prompt stands."""

    name = "codi"
    describe = "last match of -?\\d+\\.?\\d* with commas deleted, compared as floats; no number is wrong"
    needs = "one plain number"
    numeric = True

    def parse(self, text: str) -> str | None:
        """The last number of `text` with its commas deleted, e.g. '-1234.5' for '= -1,234.5'."""
        found = _NUMBER.findall(text.replace(",", ""))
        return found[-1] if found and _float(found[-1]) is not None else None

    def parse_gold(self, gold: str) -> str | None:
        """`gold` where it is one plain number that this rule would read out of a text.

        GSM-Hard has golds such as '2.0107e-06', of which the text rule reads -6: they are taken for what they
        are. Other numbers that the text rule misreads ('−5' with U+2212) are refused; scorer 'number' reads
        them.
        """
        value = plain_number(gold)
        if value is None:
            return None
        read = self.parse(gold)
        if _float(gold.replace(",", "").strip()) is None and (read is None or float(read) != float(value)):
            return None
        return written(value)

    def equal(self, value: str, gold: str) -> bool:
        """Equality of the two as floats: '18', '18.' and '18.0' are the same."""
        return float(value) == float(gold)

    def reading(self, reader: AnswerReader) -> Self:
        """Refuses a prompt or suffix with a digit in it, which the rule would take for an answer."""
        for part, text in (("prompt", reader.prompt), ("suffix", reader.suffix)):
            if re.search(r"\d", text):
                raise UsageError(
                    f"Scorer '{self.name}' reads the last number of all that is written, and this model's "
                    f"answer {part} '{text}' holds one. Choose scorer 'number', which reads what stands "
                    "after the prompt."
                )
        return super().reading(reader)


@dataclass(frozen=True)
class _AfterMark(Scorer):
    """Text after a mark, commas deleted, compared as strings."""

    mark: ClassVar[str]
    needs = "text without '#' in it"

    def parse(self, text: str) -> str | None:
        """What the rule reads after the mark, or, for a model with another prompt, after that."""
        if self.reader is None or not self.reader.prompt.rstrip().endswith(self.mark):
            answer = self.answer_in(text)
            text = text if answer is None else answer
        return self._read(text)

    def parse_gold(self, gold: str) -> str | None:
        """`gold` by the same rule, so '#### 18' and '18' are both accepted in a file."""
        return None if "#" in gold.strip().lstrip("#") else self._read(gold)

    def _read(self, text: str) -> str | None:
        raise NotImplementedError


class CoconutScorer(_AfterMark):
    """The rule of the published Coconut numbers (answers written as '### 18')."""

    name = "coconut"
    mark = "#"
    describe = (
        "text after the last '#' (after the model's own prompt where it writes another; all of it where "
        "there is neither), commas deleted, string equality"
    )

    def _read(self, text: str) -> str | None:
        return text.split("#")[-1].replace(",", "").strip() or None


class IcotScorer(_AfterMark):
    """The rule of the published iCoT numbers (answers written as '#### 18')."""

    name = "icot"
    mark = "####"
    describe = (
        "text after the first '####' (after the model's own prompt where it writes another; all of it where "
        "there is neither), commas deleted, string equality"
    )

    def _read(self, text: str) -> str | None:
        return text.split("####", 1)[-1].replace(",", "").strip() or None
