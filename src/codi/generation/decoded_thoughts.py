"""What a thought says: its top tokens through the LM head, before the projection (paper, Figure 6).

The paper's reading stops at one token, and a number of several tokens shows only its first (its section 7).
A context can be forked, so there is a second reading: branch at the thought, take each of its top tokens, and
let the model go on writing until the number ends.

    thought  ──►  35           the paper's reading: one token
             └─►  35 649       whole: forked there, and written on greedily while the number lasts

All that show a thought read it here: `LatentReasoner.decode_thoughts`, the server, the page, the reports.
Probabilities are the LM head's own, at temperature 1 whatever an answer is sampled with. The head gives the
base's vocabulary alone, so `<bot>` and `<eot>` are never among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from codi.data.encoding import TextEncoder
from codi.errors import UsageError
from codi.modeling.context import Context, Tokens
from codi.modeling.model import ThoughtModel

TOP_TOKENS = 5
"""As many as the paper shows and counts (Figure 6, Table 3)."""
LONGEST_NUMBER = 8
"""Tokens a number may have; beyond it the reading is cut."""
_WHITE_SPACE = {" ": "␣", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


@dataclass(frozen=True, slots=True)
class DecodedToken:
    """One token a thought decodes to. share: its probability, 0..1; whole: the number it begins."""

    token: str
    share: float
    whole: str


@torch.no_grad()
def top_tokens(model: ThoughtModel, hidden: Tensor, top_k: int = TOP_TOKENS) -> torch.return_types.topk:
    """hidden: [.., d] after the final norm. Probabilities and ids of the likeliest tokens, [.., k].

    Raises UsageError for a top_k below 1 or above the vocabulary.
    """
    vocabulary = model.bot_id  # the rows of the base
    if not 1 <= top_k <= vocabulary:
        raise UsageError(f"{top_k} tokens were asked for; the number must be 1 to {vocabulary}.")
    return model.logits(hidden).float().softmax(-1).topk(top_k)


def named_tokens(
    model: ThoughtModel, text: TextEncoder, hidden: Tensor, top_k: int = TOP_TOKENS
) -> list[list[tuple[str, float]]]:
    """hidden: [n, d], n thoughts. Per thought its likeliest tokens by name, with their probabilities.

    Raises UsageError as `top_tokens` does.
    """
    return _named(model, text, top_tokens(model, hidden, top_k))


def decoded_tokens(
    model: ThoughtModel,
    text: TextEncoder,
    thoughts: Tensor,
    contexts: Sequence[Context] | None = None,
    top_k: int = TOP_TOKENS,
) -> list[list[list[DecodedToken]]]:
    """thoughts: [b, n, d]. For every question and thought its `top_k` tokens, the likeliest first.

    contexts: one per thought, ending in it, to read each number to its end, which takes a forward pass per
    further token; without them `whole` is the token. Raises UsageError as `top_tokens` does.
    """
    rows, number, width = thoughts.shape
    top = top_tokens(model, thoughts.reshape(rows * number, width), top_k)
    named = _named(model, text, top)
    wholes = None
    if contexts is not None:
        ids = top.indices.view(rows, number, top_k)
        wholes = [whole_readings(model, text, context, ids[:, i]) for i, context in enumerate(contexts)]
    return [
        [
            [
                DecodedToken(token, share, token if wholes is None else wholes[i][row][k])
                for k, (token, share) in enumerate(named[row * number + i])
            ]
            for i in range(number)
        ]
        for row in range(rows)
    ]


@torch.no_grad()
def whole_readings(model: ThoughtModel, text: TextEncoder, context: Context, ids: Tensor) -> list[list[str]]:
    """ids: [b, k], tokens that may follow the context. Each, written on greedily while the number lasts.

    All b * k branches go side by side, in one forked context; a branch that has ended leaves.
    """
    rows, width = ids.shape
    written = [[int(token)] for token in ids.flatten().tolist()]
    active = [branch for branch in range(rows * width) if _is_numeric(text, written[branch])]
    if _splits_numbers(text) and active:
        _write_on(model, text, context, written, active, width)
    names = [
        token_text(model, text, tokens[0]) if len(tokens) == 1 else text.decode(tokens).strip()
        for tokens in written
    ]
    return [names[row * width : (row + 1) * width] for row in range(rows)]


def token_text(model: ThoughtModel, text: TextEncoder, token: int) -> str:
    """A token as a person reads it: special tokens by name, white space and parts of characters by a sign.

    A row of the base's embedding that the tokenizer has no token for goes by its number, as `<50300>`.
    """
    if token >= model.bot_id:
        return model.row_names[token - model.bot_id]
    shown = text.decode([token])
    if shown.strip() and "�" not in shown:
        return shown.strip()
    if shown and not shown.strip():
        return "".join(_WHITE_SPACE.get(letter, letter) for letter in shown)
    piece = text.tokenizer.convert_ids_to_tokens(token)
    if not piece:
        return f"<{token}>"
    return _bytes_shown(piece) if "�" in shown else str(piece)


def _named(
    model: ThoughtModel, text: TextEncoder, top: torch.return_types.topk
) -> list[list[tuple[str, float]]]:
    return [
        [(token_text(model, text, token), share) for token, share in zip(ids, shares, strict=True)]
        for ids, shares in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]


def _bytes_shown(piece: str) -> str:
    """A piece of a byte-level vocabulary that is part of a character: its bytes, as `<0xE4><0xB8>`."""
    if not set(piece) <= _byte_of().keys():
        return piece
    values = [_byte_of()[letter] for letter in piece]
    return "".join(f"<0x{value:02X}>" for value in values if value != ord(" "))


@cache
def _byte_of() -> dict[str, int]:
    """The bytes that the letters of a byte-level vocabulary stand for."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {letter: value for value, letter in bytes_to_unicode().items()}  # type: ignore[no-untyped-call]


def _write_on(
    model: ThoughtModel, text: TextEncoder, context: Context, written: list[list[int]], active: list[int],
    width: int,
) -> None:  # fmt: skip
    """Append to each of the `active` branches (row * width + k) what it writes while its number lasts."""
    branches = context.select(torch.tensor([branch // width for branch in active], device=model.device))
    following = torch.tensor([written[branch][-1] for branch in active], device=model.device)
    was_training = model.training
    model.eval()
    for _ in range(LONGEST_NUMBER - 1):
        tokens = following.unsqueeze(1)
        branches = model.read(Tokens(tokens, torch.ones_like(tokens), padded=False), after=branches).context
        following = model.logits(branches.last_hidden).argmax(-1)
        going_on = [
            place
            for place, (branch, token) in enumerate(zip(active, following.tolist(), strict=True))
            if _continues(text, written[branch], token)
        ]
        for place in going_on:
            written[active[place]].append(int(following[place]))
        if not going_on:
            break
        keep = torch.tensor(going_on, device=model.device)
        branches, following = branches.select(keep), following[keep]
        active = [active[place] for place in going_on]
    model.train(was_training)


def _is_numeric(text: TextEncoder, ids: list[int]) -> bool:
    shown = text.decode(ids).strip()
    return bool(shown) and shown.lstrip("-").replace(".", "", 1).replace(",", "").isdigit()


def _continues(text: TextEncoder, ids: list[int], token: int) -> bool:
    """Whether the token belongs to the number: still one, and with nothing between (a space ends it)."""
    if token in (text.eos_id, text.pad_id):
        return False
    before, after = text.decode(ids).strip(), text.decode([*ids, token]).strip()
    added = after[len(before) :]
    return after.startswith(before) and bool(added) and all(c.isdigit() or c in ".," for c in added)


def _splits_numbers(text: TextEncoder) -> bool:
    """Whether a number can have several tokens at all (each has one in a word-level vocabulary)."""
    return text.unknown_id is None or len(text.tokenizer("987654321")["input_ids"]) > 1
