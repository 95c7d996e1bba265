"""What a scorer is: a named rule that reads an answer out of text and compares it with the gold answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, Self

from codi.data.answers import ANSWER_PROMPT
from codi.data.example import Example
from codi.errors import DataError


class AnswerReader(Protocol):
    """How a model writes its answers; `codi.data.encoding.TextEncoder` is one."""

    @property
    def prompt(self) -> str:
        """What stands before an answer."""

    @property
    def suffix(self) -> str:
        """What stands after it."""

    def value(self, text: str) -> str | None:
        """What stands after the last answer prompt in `text`, or None where nothing does."""


@dataclass(frozen=True)
class Scorer(ABC):
    """A named rule that reads an answer out of text and says whether it equals the gold answer.

    Attributes:
        name: the name results are published under.
        describe: the rule in one sentence.
        needs: what every gold answer must be or hold, for the error when it does not.
        numeric: whether gold answers are numbers.
        reader: how the model that is scored writes its answers. None: unknown; the text is read after the
            usual prompt, and where that does not stand, as the answer alone.
    """

    name: ClassVar[str]
    describe: ClassVar[str]
    needs: ClassVar[str]
    numeric: ClassVar[bool] = False

    reader: AnswerReader | None = None

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
                f"The gold answer {gold[:80]!r} is not {self.needs}, which scorer '{self.name}' compares. "
                "Correct the answer, or choose another scorer."
            )
        value = self.parse(text)
        return value is not None and self.equal(value, expected)

    def reading(self, reader: AnswerReader) -> Self:
        """The same rule for a model that writes its answers in that way.

        Raises:
            UsageError: the rule cannot read such a model's answers.
        """
        return replace(self, reader=reader)

    def fitted(self, examples: Iterable[Example]) -> Self:
        """The same rule for a set's questions and gold answers, where it depends on them."""
        return self

    def answer_in(self, text: str) -> str | None:
        """What stands after the model's answer prompt; None where the prompt was never written."""
        if self.reader is None:
            _, prompt, after = text.rpartition(ANSWER_PROMPT)
            return after.strip() if prompt else None
        answer = self.reader.value(text)
        if answer is None and _squeezed(self.reader.prompt) in _squeezed(text):
            return ""
        return answer


def _squeezed(text: str) -> str:
    return "".join(text.split())
