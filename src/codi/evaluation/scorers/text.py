"""Short texts: names, yes and no, true and false."""

from __future__ import annotations

import re
import unicodedata

from codi.evaluation.scorers.scorer import Scorer

_ARTICLE = re.compile(r"\b(?:an?|the)\s+(?=\w)")
_SPACE_INSIDE = re.compile(r"\s+(?=[,.;:!?)\]])|(?<=[(\[])\s+")


def folded(text: str) -> str:
    """`text` without what does not matter: case, white space, the final full stop, articles, Unicode's forms.

    'yes' and 'true' stay two answers: a set uses one of them.
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = _SPACE_INSIDE.sub("", " ".join(text.split()))
    text = text.rstrip(" .。")
    while (without := _ARTICLE.sub("", text)) != text:  # "the a" would leave one
        text = without
    return text


class TextScorer(Scorer):
    """The whole of what stands after the answer prompt."""

    name = "text"
    describe = (
        "all that stands after the answer prompt; case, white space, the final full stop, articles and "
        "Unicode forms folded; compared as strings; without a prompt unreadable"
    )
    needs = "a text"

    def parse(self, text: str) -> str | None:
        """The answer, folded. A model that never wrote its prompt gave none."""
        answer = self.answer_in(text)
        if answer is None:
            if self.reader is not None:
                return None
            answer = text
        return folded(answer) or None

    def parse_gold(self, gold: str) -> str | None:
        """`gold`, folded; None where nothing is left."""
        return folded(gold) or None
