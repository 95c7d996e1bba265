"""What each token adds to a text: of those written, and of the likeliest in their place.

With log-probabilities there are twenty and more of them at every place, so what was worked out is remembered
where it can be: most tokenizers write a token the same way wherever it stands.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from codi.data.encoding import TextEncoder
from codi.generation.decoding import TokenScore
from codi.serving.job import ScoredToken

BEFORE = 8
"""Tokens looked back at to see what a token adds to the text: some join words, some are half a character."""
_PLAIN = {"ByteLevel", "Sequence", "ByteFallback", "Fuse", "Strip", "Metaspace"}
"""Decoders that write a token the same way wherever it stands, but at the beginning and in a character."""


class TokenTexts:
    """The texts of one tokenizer's tokens. encoder: whose they are."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder
        self._special = {
            token: str(encoder.tokenizer.convert_ids_to_tokens(token))
            for token in encoder.tokenizer.all_special_ids
        }
        self._known: dict[int, str] | None = {} if writes_plainly(encoder.tokenizer) else None

    def is_special(self, token: int) -> bool:
        """Whether it is no part of the text."""
        return token in self._special

    def scored(self, before: Sequence[int], token: int, score: TokenScore | None) -> ScoredToken:
        """A token after others, with its score (None: it is a text's first)."""
        added = self.after(before)
        if score is None:
            return ScoredToken(token, added(token), None)
        top = tuple((id_, added(id_), logprob) for id_, logprob in score.top)
        return ScoredToken(token, added(token), score.logprob, top)

    def after(self, before: Sequence[int]) -> Callable[[int], str]:
        """What a token adds to the text of those before it; a special token's name.

        Half a character adds nothing, and the token that completes it the whole one, so that the texts of all
        tokens joined are the text.
        """
        near = list(before[-BEFORE:])
        text = self.encoder.decode(near)
        without = text.rstrip("\ufffd")
        known = self._known if text and text == without else {}

        def added(token: int) -> str:
            if token in self._special:
                return self._special[token]
            found = None if known is None else known.get(token)
            if found is None:
                found = self.encoder.decode([*near, token]).rstrip("\ufffd")[len(without) :]
                if known is not None:
                    known[token] = found
            return found

        return added


def writes_plainly(tokenizer: Any) -> bool:
    """Whether a token within a text is written the same way whatever stands before it."""
    decoder = tokenizer.backend_tokenizer.decoder
    if decoder is None or getattr(tokenizer, "clean_up_tokenization_spaces", False):
        return False
    kinds: set[str] = set()

    def look(part: dict[str, Any]) -> None:
        # Word boundaries that are written as spaces: that is the same everywhere.
        if part["type"] != "Replace" or part["pattern"] != {"String": "\u2581"}:
            kinds.add(part["type"])
        for one in part.get("decoders", ()):
            look(one)

    look(json.loads(decoder.__getstate__()))
    return kinds <= _PLAIN
