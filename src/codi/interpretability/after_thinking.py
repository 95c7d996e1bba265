"""What the answer may look at once the thinking is over: the context edited between z_n and <eot>.

    thought      Q  <bot>  z_1 .. z_n
    answered     Q  <bot>  z_1 .. z_n   <eot>  The answer is :  12      as always
                 Q' <bot>  z_1 .. z_n   <eot>  The answer is :  ?       SwapQuestion: Q' in Q's place, of as
                                                                        many tokens; the thoughts are Q's
                 .  <bot>  z_1 .. z_n   <eot>  The answer is :  ?       HideQuestion: only its first token
                                                                        can be attended to
                 Q                      <eot>  The answer is :  ?       HideThoughts: nor <bot> and thoughts

The first token stays visible because attention without a purpose rests there (paper, Figure 6): hidden, the
model would miss that too.
"""

from __future__ import annotations

import random
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch

from codi.data.encoding import TextEncoder
from codi.modeling.context import Context, Tokens
from codi.modeling.model import ThoughtWatcher

_TRIES = 20
_DIGITS = re.compile(r"\d+")


class Edit(ABC):
    """A change of the context that holds a question [b, t] and what was thought after it."""

    @abstractmethod
    def __call__(self, context: Context) -> Context:
        """The context as the answer meets it."""


@dataclass(frozen=True)
class HideQuestion(Edit):
    """The question can no longer be attended to, but for each row's first token."""

    question: Tokens

    def __call__(self, context: Context) -> Context:
        """The context with the question's positions masked."""
        mask, width = context.mask.clone(), self.question.mask.shape[1]
        is_first = self.question.mask.cumsum(1) == 1
        mask[:, :width] = self.question.mask * is_first.to(mask.dtype)
        return replace(context, mask=mask)


@dataclass(frozen=True)
class HideThoughts(Edit):
    """<bot> and all thoughts can no longer be attended to."""

    question: Tokens

    def __call__(self, context: Context) -> Context:
        """The context with every position after the question masked."""
        mask = context.mask.clone()
        mask[:, self.question.mask.shape[1] :] = 0
        return replace(context, mask=mask)


@dataclass(frozen=True)
class SwapQuestion(Edit):
    """Another question stands where the one thought about stood. other: its context, as many tokens long.

    Needs a cache that remembers every position (`remembers_all`).
    """

    other: Context

    def __call__(self, context: Context) -> Context:
        """The context with the other question's keys and values, in every layer."""
        width = self.other.mask.shape[1]
        cache = context.forked_cache()
        layer: Any
        theirs: Any
        for layer, theirs in zip(cache.layers, self.other.cache.layers, strict=True):
            layer.keys = torch.cat([theirs.keys, layer.keys[:, :, width:]], 2)
            layer.values = torch.cat([theirs.values, layer.values[:, :, width:]], 2)
        return replace(context, cache=cache)


class AfterThinking(ThoughtWatcher):
    """Edits the context once the last of n thoughts was fed back."""

    def __init__(self, number: int, edit: Edit) -> None:
        self.last, self.edit = number - 1, edit

    def fed(self, number: int, context: Context) -> Context:
        """The edited context, after the last thought."""
        return self.edit(context) if number == self.last else context


def with_other_numbers(text: TextEncoder, question: str, seed: int = 0) -> str | None:
    """The question with other numbers of as many digits, in as many tokens; None where that cannot be.

    Equal numbers stay equal. Numbers that no other of the vocabulary can stand for are left as they are.
    """
    rng = random.Random(f"{seed}/{question}")
    tokens = text.question(question)
    unknown = tokens.count(text.unknown_id) if text.unknown_id is not None else 0
    changed: dict[str, str] = {}

    def fits(candidate: str) -> bool:
        ids = text.question(candidate)
        lost = ids.count(text.unknown_id) if text.unknown_id is not None else 0
        return len(ids) == len(tokens) and lost <= unknown

    def written() -> str:
        return _DIGITS.sub(lambda found: changed.get(found[0], found[0]), question)

    for digits in dict.fromkeys(_DIGITS.findall(question)):
        for _ in range(_TRIES):
            changed[digits] = _other(digits, rng)
            if changed[digits] != digits and fits(written()):
                break
        else:
            del changed[digits]
    return written() if changed else None


def _other(digits: str, rng: random.Random) -> str:
    """A number of as many digits; of one digit from 2, so that it does not become trivial."""
    if len(digits) == 1:
        return str(rng.randint(2, 9))
    return str(rng.randint(1, 9)) + "".join(str(rng.randint(0, 9)) for _ in digits[1:])
