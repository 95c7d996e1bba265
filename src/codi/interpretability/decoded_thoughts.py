"""What a thought says: its top tokens through the LM head, before the projection (paper, Figure 6).

The paper's reading stops at one token, and a number of several tokens shows only its first (its section 7).
A context can be forked, so there is a second reading: branch at the thought, take each of its top tokens, and
let the model go on writing until the number ends.

    thought  ──►  35           the paper's reading: one token
             └─►  35 649       whole: forked there, and written on greedily while the number lasts
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from codi.errors import UsageError
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.thinking import Thinking
from codi.modeling.context import Context, Tokens

TOP_TOKENS = 5
"""As many as the paper shows and counts (Figure 6, Table 3)."""
LONGEST_NUMBER = 8
"""Tokens a number may have; beyond it the reading is cut."""


@dataclass(frozen=True, slots=True)
class DecodedToken:
    """One token a thought decodes to. share: its probability, 0..1; whole: the number it begins."""

    token: str
    share: float
    whole: str


def decoded_tokens(
    reasoner: LatentReasoner, thinking: Thinking, top_k: int = TOP_TOKENS, *, whole_numbers: bool = True
) -> list[list[list[DecodedToken]]]:
    """For every question and thought, its `top_k` tokens, the likeliest first.

    whole_numbers: also read each number to its end, which takes a forward pass per further token.
    Raises UsageError when top_k is below 1.
    """
    top = top_tokens(reasoner, thinking.thoughts, top_k)
    wholes: list[list[list[str]]] = []
    for thought, context in enumerate(thinking.contexts):
        ids = top.indices[:, thought]
        wholes.append(whole_readings(reasoner, context, ids) if whole_numbers else _texts(reasoner, ids))
    shares = top.values.tolist()
    names = [_texts(reasoner, row) for row in top.indices]
    return [
        [
            [
                DecodedToken(*parts)
                for parts in zip(names[b][i], shares[b][i], wholes[i][b], strict=True)
            ]
            for i in range(thinking.number)
        ]
        for b in range(len(names))
    ]  # fmt: skip


@torch.no_grad()
def top_tokens(reasoner: LatentReasoner, hidden: Tensor, top_k: int = TOP_TOKENS) -> torch.return_types.topk:
    """hidden: [.., d] after the final norm. Probabilities and ids of the likeliest tokens, [.., k]."""
    vocabulary = reasoner.model.bot_id  # the rows of the base
    if not 1 <= top_k <= vocabulary:
        raise UsageError(f"{top_k} tokens were asked for; the number must be 1 to {vocabulary}.")
    return reasoner.model.logits(hidden).float().softmax(-1).topk(top_k)


@torch.no_grad()
def whole_readings(reasoner: LatentReasoner, context: Context, ids: Tensor) -> list[list[str]]:
    """ids: [b, k], tokens that may follow the context. Each, written on greedily while the number lasts.

    All b * k branches go side by side, in one forked context; a branch that has ended leaves.
    """
    rows, width = ids.shape
    model, written = reasoner.model, [[int(token)] for token in ids.flatten().tolist()]
    active = [branch for branch in range(rows * width) if _is_numeric(reasoner, written[branch])]
    if not _splits_numbers(reasoner) or not active:
        return [
            [reasoner.text.decode(written[b * width + k]).strip() for k in range(width)] for b in range(rows)
        ]
    at = torch.tensor([branch // width for branch in active], device=model.device)
    branch_context = context.select(at)
    following = torch.tensor([written[branch][-1] for branch in active], device=model.device)
    was_training = model.training
    model.eval()
    for _ in range(LONGEST_NUMBER - 1):
        tokens = following.unsqueeze(1)
        branch_context = model.read(Tokens(tokens, torch.ones_like(tokens)), after=branch_context).context
        following = model.logits(branch_context.last_hidden).argmax(-1)
        going_on = [
            place
            for place, (branch, token) in enumerate(zip(active, following.tolist(), strict=True))
            if _continues(reasoner, written[branch], token)
        ]
        for place in going_on:
            written[active[place]].append(int(following[place]))
        if not going_on:
            break
        keep = torch.tensor(going_on, device=model.device)
        branch_context, following = branch_context.select(keep), following[keep]
        active = [active[place] for place in going_on]
    model.train(was_training)
    return [[reasoner.text.decode(written[b * width + k]).strip() for k in range(width)] for b in range(rows)]


def _texts(reasoner: LatentReasoner, ids: Tensor) -> list[list[str]]:
    return [[token_text(reasoner, token) for token in row] for row in ids.tolist()]


def token_text(reasoner: LatentReasoner, token: int) -> str:
    """A token as a person reads it; the model's special tokens by name."""
    if token == reasoner.model.bot_id:
        return "<bot>"
    if token == reasoner.model.eot_id:
        return "<eot>"
    shown = reasoner.text.decode([token]).strip()
    return shown or str(reasoner.tokenizer.convert_ids_to_tokens(token) or f"<{token}>")


def _is_numeric(reasoner: LatentReasoner, ids: list[int]) -> bool:
    text = reasoner.text.decode(ids).strip()
    return bool(text) and text.lstrip("-").replace(".", "", 1).replace(",", "").isdigit()


def _continues(reasoner: LatentReasoner, ids: list[int], token: int) -> bool:
    """Whether the token belongs to the number: still one, and with nothing between (a space ends it)."""
    if token in (reasoner.text.eos_id, reasoner.text.pad_id):
        return False
    before, after = reasoner.text.decode(ids).strip(), reasoner.text.decode([*ids, token]).strip()
    added = after[len(before) :]
    return after.startswith(before) and bool(added) and all(c.isdigit() or c in ".," for c in added)


def _splits_numbers(reasoner: LatentReasoner) -> bool:
    """Whether a number can have several tokens at all (each has one in a word-level vocabulary)."""
    return reasoner.text.unknown_id is None or len(reasoner.tokenizer("987654321")["input_ids"]) > 1
