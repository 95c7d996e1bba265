"""Numbers of any set: the paper's rule, with what it misreads read."""

from __future__ import annotations

from codi.data.numbers import last_number, plain_number, written
from codi.evaluation.scorers.scorer import Scorer


class NumberScorer(Scorer):
    """The last number after the answer prompt, in scientific notation or with U+2212 too.

    Unlike the published rule it takes commas for thousands separators only, and reads no number out of what
    is none: 1/2, 3:30, 3,5.
    """

    name = "number"
    describe = (
        "last number after the answer prompt (of the text where there is none); scientific notation, U+2212 "
        "and thousands separators read; compared as decimals"
    )
    needs = "one plain number"
    numeric = True

    def parse(self, text: str) -> str | None:
        """The number in its plain form, '1234.5' for '$1,234.50'."""
        answer = self.answer_in(text)
        answer = text if answer is None else answer
        value = plain_number(answer)
        value = last_number(answer) if value is None else value
        return None if value is None else written(value)

    def parse_gold(self, gold: str) -> str | None:
        """`gold` where it is one plain number."""
        value = plain_number(gold)
        return None if value is None else written(value)
