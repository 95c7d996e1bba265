"""Whether a set's texts come back from the tokenizer: what is lost on the way, no training brings back.

    text                read        read back
    Tom has 7 apples    a 7 aa      a7aa         letters are lost: refused
    7 Cafés             7 cafes     7 cafes      case and accents are the tokenizer's way: said

White space is left aside: word-level decoders put it where they like.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

from codi.data.encoding import TextEncoder
from codi.data.example import Example
from codi.errors import DataError
from codi.methods.method import Method

MOST_LOST = 0.05
"""Share of a set's characters that the tokenizer may lose."""


def check_text(examples: Sequence[Example], method: Method, text: TextEncoder, source: str) -> list[str]:
    """What is to be said of texts that come back changed. White space never counts, nor does an order.

    Raises DataError where more than `MOST_LOST` of the characters do not come back at all.
    """
    lost = characters = 0
    shown: tuple[str, str] | None = None
    changed: tuple[str, str] | None = None
    for example in examples:
        for written in _texts(example, method, text):
            characters += len("".join(written.split()))
            back = _read_back(written, text)
            if _missing(written, back) == 0:
                continue
            gone = _missing(_plain(written), _plain(back))
            if gone and shown is None:
                shown = written, back
            if not gone:
                changed = changed or (written, back)
            lost += gone
    if shown is not None:
        share, (written, back) = 100 * lost / characters, shown
        told = (
            f"{share:.2g} % of the characters of '{source}' ({lost:,} of {characters:,} in its first "
            f"{len(examples)} examples) do not come back from the tokenizer; the first text, "
            f"{_short(written)}, is read as {_short(back)}."
        )
        if lost > MOST_LOST * characters:
            raise DataError(
                f"{told} The model would never see them. Give a tokenizer that knows these texts "
                "(tokenizer=HUB_ID_OR_FOLDER), that of the base as it was published."
            )
        return [f"WARNING: {told}"]
    if changed is not None:
        written, back = changed
        return [
            f"WARNING: the tokenizer changes letters (case, accents or forms): {_short(written)} is read as "
            f"{_short(back)}. Answers are written so, too."
        ]
    return []


def _texts(example: Example, method: Method, text: TextEncoder) -> Iterator[str]:
    """What is tokenised of an example, without a chat template around it."""
    yield example.question
    steps = example.steps if method.reads_last_step else example.steps[:-1]
    if method.needs_rationales and steps:
        yield text.rationale_text(steps)
    yield text.answer_text(example.answer)


def _read_back(written: str, text: TextEncoder) -> str:
    ids = text.tokenizer.backend_tokenizer.encode(written, add_special_tokens=False).ids
    return str(text.tokenizer.decode(ids, skip_special_tokens=False))


def _missing(written: str, back: str) -> int:
    """Characters of one text that the other lacks, white space aside."""
    return (Counter("".join(written.split())) - Counter("".join(back.split()))).total()


def _plain(text: str) -> str:
    """Without case, accents and compatibility forms."""
    apart = unicodedata.normalize("NFKD", text.casefold())
    return "".join(mark for mark in apart if not unicodedata.combining(mark))


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")
