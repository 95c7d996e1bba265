"""Short texts: names, yes and no, true and false."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

from codi.data.example import Example
from codi.evaluation.scorers.scorer import Scorer

# At the beginning alone, and "a" only before a word: in "A and B" it is a label, in "a + b" a name.
_ARTICLE = re.compile(r"(?:(?:the|an)\s+(?=\w)|a\s+(?=\w{2})(?!(?:and|or|nor|is|to)\b))+")
_TRUTH = {
    **dict.fromkeys(("yes", "true", "y", "t"), "yes"), **dict.fromkeys(("no", "false", "n", "f"), "no"),
}  # fmt: skip
_SPACE_INSIDE = re.compile(r"\s+(?=[,.;:!?)\]])|(?<=[(\[])\s+")


def folded(text: str) -> str:
    """`text` without what does not matter: case, white space, the final full stop, an article at the
    beginning, Unicode's forms.

    'yes' and 'true' stay two answers here.
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = _SPACE_INSIDE.sub("", " ".join(text.split()))
    text = text.rstrip(" .。")
    return text[article.end() :] if (article := _ARTICLE.match(text)) else text


def are_truth_words(answers: Iterable[str]) -> bool:
    """Whether answers are all one of yes, no, true and false, or their initials.

    Initials alone are, where they are both of a pair: 'n' and 'f' may be the names of functions.
    """
    found = {folded(answer) for answer in answers}
    return (
        bool(found)
        and found <= _TRUTH.keys()
        and (any(len(word) > 1 for word in found) or found in ({"y", "n"}, {"t", "f"}))
    )


@dataclass(frozen=True)
class TextScorer(Scorer):
    """The whole of what stands after the answer prompt.

    truth: whether the set asks for yes or no: 'yes', 'true', 'y' and 't' are then one answer.
    """

    name = "text"
    describe = (
        "all that stands after the answer prompt; case, white space, the final full stop, an article "
        "before it and Unicode forms folded; compared as strings; yes and true are one in a set of nothing "
        "else; without a prompt unreadable"
    )
    needs = "a text"

    truth: bool = False

    def parse(self, text: str) -> str | None:
        """The answer, folded. A model that never wrote its prompt gave none."""
        answer = self.answer_in(text)
        if answer is None:
            if self.reader is not None:
                return None
            answer = text
        return self._folded(answer)

    def parse_gold(self, gold: str) -> str | None:
        """`gold`, folded; None where nothing is left."""
        return self._folded(gold)

    def fitted(self, examples: Iterable[Example]) -> Self:
        """Reading yes, true and their initials as one where every gold answer is such a word."""
        return replace(self, truth=are_truth_words(example.answer for example in examples))

    def _folded(self, text: str) -> str | None:
        text = folded(text)
        return (_TRUTH.get(text, text) if self.truth else text) or None
