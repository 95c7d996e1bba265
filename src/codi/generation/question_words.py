"""A question cut where the tokenizer cuts it, each token as it stands in the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from codi.data.encoding import TextEncoder
from codi.generation.decoded_thoughts import token_text
from codi.modeling.model import ThoughtModel

PART_OF_A_CHARACTER = "·"
"""Shown for a token whose bytes belong to the character before it."""


@dataclass(frozen=True, slots=True)
class QuestionToken:
    """A token of the question as it stands there. spaced: after a space; known: to the tokenizer."""

    text: str
    spaced: bool
    known: bool


def question_words(
    model: ThoughtModel, text: TextEncoder, question: str, ids: Sequence[int]
) -> list[QuestionToken]:
    """ids: the question's tokens; one that opens every text goes by its name."""
    source = text.question_text(question)
    coded = text.tokenizer(source, add_special_tokens=False, return_offsets_mapping=True)
    offsets: list[tuple[int, int]] = coded["offset_mapping"]
    opened = len(ids) - len(offsets)
    words = [QuestionToken(token_text(model, text, token), True, True) for token in ids[:opened]]
    end = 0
    for token, (start, stop) in zip(ids[opened:], offsets, strict=True):
        # Tokens of one character's bytes share it: it is shown with the first of them.
        piece = source[max(start, end) : stop]
        spaced = not words or piece[:1].isspace() or source[end:start].isspace()
        words.append(QuestionToken(piece.strip() or PART_OF_A_CHARACTER, spaced, token != text.unknown_id))
        end = max(end, stop)
    return words
