"""Log-probabilities of tokens in OpenAI's two forms: chat's list of tokens, and completions' four lists."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from codi.serving.engine import ScoredToken

LOWEST = -9999.0
"""Stands for minus infinity, which JSON does not have."""
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenBytes:
    """The bytes that a token stands for: of a character cut in two, its part."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        decoder = tokenizer.backend_tokenizer.decoder
        state = "" if decoder is None else json.dumps(json.loads(decoder.__getstate__()))
        self._byte_of: dict[str, int] = {}
        if "ByteLevel" in state:
            of_byte: dict[int, str] = bytes_to_unicode()  # type: ignore[no-untyped-call]
            self._byte_of = {char: byte for byte, char in of_byte.items()}
        self._falls_back = "ByteFallback" in state

    def of(self, token: int, text: str) -> list[int]:
        """text: as which the token is shown."""
        if "�" not in text:
            return list(text.encode())
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if self._byte_of and piece is not None and all(char in self._byte_of for char in piece):
            return [self._byte_of[char] for char in piece]
        if self._falls_back and (byte := _BYTE.fullmatch(piece or "")):
            return [int(byte.group(1), 16)]
        return list(text.encode())


def of_chat(tokens: Sequence[ScoredToken], bytes_of: TokenBytes) -> dict[str, Any]:
    """`logprobs` of a chat's choice or chunk."""

    def entry(token: int, text: str, logprob: float | None) -> dict[str, Any]:
        return {"token": text, "logprob": _finite(logprob or 0.0), "bytes": bytes_of.of(token, text)}

    content = [
        {
            **entry(one.id, one.text, one.logprob),
            "top_logprobs": [entry(token, text, logprob) for token, text, logprob in one.top],
        }
        for one in tokens
    ]
    return {"content": content, "refusal": None}


def of_completion(tokens: Sequence[ScoredToken], offsets: Sequence[int]) -> dict[str, Any]:
    """`logprobs` of a completion's choice or chunk. offsets: where each token begins in the choice's text."""
    return {
        "tokens": [one.text for one in tokens],
        "token_logprobs": [None if one.logprob is None else _finite(one.logprob) for one in tokens],
        "top_logprobs": [_likeliest(one) for one in tokens],
        "text_offset": list(offsets),
    }


def offsets_from(begin: int, tokens: Sequence[ScoredToken]) -> list[int]:
    """Where each begins, if the first does at `begin`."""
    return list(accumulate((len(one.text) for one in tokens), initial=begin))[:-1]


def _likeliest(one: ScoredToken) -> dict[str, float] | None:
    """By text, the token itself among them; of tokens that look alike the likeliest."""
    if one.logprob is None:
        return None
    listed: dict[str, float] = {}
    for _, text, logprob in (*one.top, (one.id, one.text, one.logprob)):
        listed[text] = max(_finite(logprob), listed.get(text, LOWEST))
    return listed


def _finite(logprob: float) -> float:
    return max(logprob, LOWEST)
