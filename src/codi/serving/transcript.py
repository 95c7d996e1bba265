"""What an answer says so far: its text up to a stop, its tokens, and what of them can be told already.

All of it takes a time that grows with what is new, not with what there is: the worker does it at every token.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from codi.generation.decoding import Row
from codi.generation.stop_texts import cut_at_stop, settled
from codi.serving.job import Question, ScoredToken
from codi.serving.token_texts import BEFORE, TokenTexts

DECODED_ANEW = 32
"""Tokens at the end of a text that are decoded anew when one is added."""


class Transcript:
    """One answer being written, as text. opening: ids that were read as part of it (the answer prompt)."""

    def __init__(self, texts: TokenTexts, question: Question, opening: list[int]) -> None:
        self._texts, self._stops, self.opening = texts, question.stop, opening
        self.text, self.stopped = "", False
        self.tokens: list[ScoredToken] | None = None if question.logprobs is None else []
        self._begins: list[int] = []  # the place in the text where each token begins
        self._next = len(texts.encoder.decode(opening))
        self._before, self._ids_before = "", 0  # the text of so many ids

    def read(self, row: Row) -> None:
        """Take in what the row has written since."""
        written = self.opening + row.ids
        whole = self._texts.encoder.decode(written) if row.done else self._decoded(written)
        if self.tokens is not None:
            for index in range(len(self.tokens), len(row.ids)):
                before, token = written[: len(self.opening) + index][-BEFORE:], row.ids[index]
                scored = self._texts.scored(before, token, row.scores[index])
                self.tokens.append(scored)
                self._begins.append(self._next)
                self._next += 0 if self._texts.is_special(token) else len(scored.text)
        self.text, self.stopped = cut_at_stop(whole, self._stops)
        if self.stopped and self.tokens is not None:
            self.tokens = self.tokens[: bisect_left(self._begins, len(self.text))]

    def ready(self, done: bool) -> tuple[str, int]:
        """Text that no later token changes, and how many tokens it was written with. done: that is all."""
        everything = 0 if self.tokens is None else len(self.tokens)
        if done or self.stopped:
            return self.text, everything
        text = settled(self.text, self._stops)
        return text, bisect_left(self._begins, len(text))

    def _decoded(self, ids: Sequence[int]) -> str:
        """The text of all ids; what is far behind is not decoded again."""
        decode = self._texts.encoder.decode
        first = max(0, self._ids_before - BEFORE)
        joint, having = decode(list(ids[first : self._ids_before])), decode(list(ids[first:]))
        if not having.startswith(joint):
            return decode(list(ids))  # a later token has changed what stands before it
        text = self._before + having[len(joint) :]
        if len(ids) - self._ids_before >= DECODED_ANEW and not text.endswith("\ufffd"):
            self._before, self._ids_before = text, len(ids)
        return text
