"""What an answer says so far: its text up to a stop, its tokens, and what of them can be told already."""

from __future__ import annotations

from collections.abc import Sequence

from codi.data.encoding import TextEncoder
from codi.generation.decoding import Row, TokenScore
from codi.generation.stop_texts import cut_at_stop, settled
from codi.serving.job import Question, ScoredToken

BEFORE = 8
"""Tokens looked back at to see what a token adds to the text: some join words, some are half a character."""


class Transcript:
    """One answer being written, as text. opening: ids that were read as part of it (the answer prompt)."""

    def __init__(self, text: TextEncoder, question: Question, opening: list[int]) -> None:
        self._encoder, self._stops, self.opening = text, question.stop, opening
        self.text, self.stopped = "", False
        self.tokens: list[ScoredToken] | None = None if question.logprobs is None else []
        self._begins: list[int] = []  # the place in the text where each token begins

    def read(self, row: Row) -> None:
        """Take in what the row has written since."""
        written = self.opening + row.ids
        whole = self._encoder.decode(written)
        if self.tokens is not None:
            for index in range(len(self.tokens), len(row.ids)):
                before = written[: len(self.opening) + index]
                self._begins.append(len(self._encoder.decode(before).rstrip("�")))
                self.tokens.append(scored_token(self._encoder, before, row.ids[index], row.scores[index]))
        self.text, self.stopped = cut_at_stop(whole, self._stops)
        if self.stopped and self.tokens is not None:
            kept = sum(begin < len(self.text) for begin in self._begins)
            self.tokens = self.tokens[:kept]

    def ready(self, done: bool) -> tuple[str, int]:
        """Text that no later token changes, and how many tokens it was written with. done: that is all."""
        everything = 0 if self.tokens is None else len(self.tokens)
        if done or self.stopped:
            return self.text, everything
        text = settled(self.text, self._stops)
        return text, sum(begin < len(text) for begin in self._begins)


def scored_token(
    encoder: TextEncoder, before: Sequence[int], token: int, score: TokenScore | None
) -> ScoredToken:
    """A token after others, with its score (None: it is a text's first)."""
    if score is None:
        return ScoredToken(token, added_text(encoder, before, token), None)
    top = tuple((id_, added_text(encoder, before, id_), logprob) for id_, logprob in score.top)
    return ScoredToken(token, added_text(encoder, before, token), score.logprob, top)


def added_text(encoder: TextEncoder, before: Sequence[int], token: int) -> str:
    """What a token adds to the text of those before it; a special token's name.

    Half a character adds nothing, and the token that completes it the whole one, so that the texts of all
    tokens joined are the text.
    """
    if token in encoder.tokenizer.all_special_ids:
        return str(encoder.tokenizer.convert_ids_to_tokens(token))
    near = list(before[-BEFORE:])
    without, having = encoder.decode(near).rstrip("�"), encoder.decode([*near, token]).rstrip("�")
    return having[len(without) :]
