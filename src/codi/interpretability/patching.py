"""Patching: one thought of problem B is fed into problem A. Does A's answer follow the arithmetic?

    A   7  ─+3→ 10 ─*2→ 20 ─-5→ 15         answer 15
    B   2  ─+4→  6 ─...                    s_1 = 6
    A with B's z_k, if z_k carries s_1:    6 ─*2→ 12 ─-5→ 7        the answer should become 7

    different value   B's s_j is another: does the answer become what A's later steps make of it? (`followed`)
    same value        B's s_j is the same, the problem is not: does the answer stay?              (`kept`)

Measured for every step j and latent k. Three things can be put into A: B's latent as it is fed back
(`latent`); its keys and values in every layer, whatever was fed (`keys-values`; both questions must have the
same number of tokens, or the position would change with it); all of B's latents up to k (`latents-up-to`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from codi.data.example import Example
from codi.errors import DataError, UsageError
from codi.evaluation.benchmarks import format_question
from codi.evaluation.scorers import Scorer, scorer_for
from codi.evaluation.statistics import accuracy_interval
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.interventions import Replace
from codi.interpretability.thinking import (
    Thinking,
    finish,
    in_batches,
    refuse_without_thoughts,
    think_through,
)
from codi.modeling.context import Context
from codi.modeling.model import ThoughtWatcher

WHAT = ("latent", "keys-values", "latents-up-to")
_STEP = re.compile(r"<<(-?[\d.]+)\s*([-+*/])\s*(-?[\d.]+)=(-?[\d.]+)>>")


@dataclass(frozen=True, slots=True)
class Pair:
    """a: who is asked; b: whose thought it gets; expected: A's answer with B's value at that step."""

    a: int
    b: int
    expected: str


@dataclass(frozen=True)
class PatchCell:
    """One step and one latent (both from 1).

    n: pairs; followed: share of the pairs with different values whose answer became the expected one (its
    Wilson interval in ci95); stayed: share of them whose answer stayed A's; kept: share of the pairs with the
    same value (n_same of them) whose answer stayed.
    """

    step: int
    latent: int
    n: int
    followed: float
    ci95: tuple[float, float]
    stayed: float
    n_same: int
    kept: float | None


@dataclass(frozen=True)
class PatchTable:
    """Cells for problems of one number of steps. what: what was patched (`WHAT`)."""

    steps: int
    what: str
    problems: int
    cells: list[PatchCell]

    def best(self) -> PatchCell:
        """The cell whose answers followed most."""
        return max(self.cells, key=lambda cell: cell.followed)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


class PatchKeysValues(ThoughtWatcher):
    """Puts the donor's keys and values of thought `number` in place of the recipient's, in every layer."""

    def __init__(self, donor: Thinking, number: int) -> None:
        self.donor, self.number = donor, number

    def fed(self, number: int, context: Context) -> Context:
        """The context with the donor's last position, where this is the thought to patch."""
        if number != self.number:
            return context
        contexts = [*self.donor.contexts, self.donor.start.context]
        later = contexts[number + 1]
        place = context.mask.shape[1] - 1
        cache = context.forked_cache()
        layer: Any
        theirs: Any
        for layer, theirs in zip(cache.layers, later.cache.layers, strict=True):
            keys, values = theirs.keys[:, :, place : place + 1], theirs.values[:, :, place : place + 1]
            layer.keys = torch.cat([layer.keys[:, :, :-1], keys], 2)
            layer.values = torch.cat([layer.values[:, :, :-1], values], 2)
        return replace(context, cache=cache)


def follow_on(example: Example, step: int, value: str) -> str | None:
    """The answer if the result of step `step` (from 1) were `value`: the later steps, done on from there.

    None where a later step does not use the result before it, uses it twice, or is not whole and above 0.
    """
    current, before = Fraction(value), _result(example.steps[step - 1])
    for later in example.steps[step:]:
        found = _STEP.fullmatch(later.strip())
        if found is None or before is None:
            return None
        left, sign, right = Fraction(found[1]), found[2], Fraction(found[3])
        if left == before:
            left = current
        elif right == before:
            right = current
        else:
            return None
        if sign == "/" and right == 0:
            return None
        current = _done(left, sign, right)
        before = Fraction(found[4])
        if current.denominator != 1 or current < 1:
            return None
    return str(current)


def patch_tables(
    reasoner: LatentReasoner,
    examples: Sequence[Example],
    *,
    what: str = "latent",
    pairs: int = 200,
    scorer: str = "codi",
    batch_size: int = 64,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[PatchTable]:
    """One table for every number of steps (2 and more) with enough correctly answered problems.

    pairs: at most so many for a cell. Raises UsageError for a model without thoughts or an unknown `what`,
    DataError when no pair can be made.
    """
    refuse_without_thoughts(reasoner)
    if what not in WHAT:
        raise UsageError(f"'{what}' cannot be patched; it must be one of {', '.join(WHAT)}.")
    rule = scorer_for(scorer, examples).reading(reasoner.text)
    donors: list[Thinking] = []
    right: list[int] = []
    for batch in in_batches(len(examples), batch_size):
        thinking = think_through(reasoner, [format_question(examples[i].question) for i in batch])
        donors.append(thinking)
        for i, text in zip(batch, finish(reasoner, thinking.start), strict=True):
            if rule.correct(text, examples[i].answer):
                right.append(i)
    latents = torch.cat([thinking.latents for thinking in donors])
    largest = max((Fraction(examples[i].answer) for i in right if examples[i].answer.isdigit()), default=0)
    lengths = {i: len(reasoner.text.question(format_question(examples[i].question))) for i in right}
    groups = {
        steps: [i for i in right if len(examples[i].steps) == steps]
        for steps in sorted({len(examples[i].steps) for i in right})
        if steps > 1
    }
    patcher = _Patcher(reasoner, examples, latents, what, batch_size)
    tables = []
    for done, (steps, members) in enumerate(groups.items()):
        cells = []
        for step in range(1, steps):
            different, same = _pairs(
                examples, members, step, pairs, seed, largest, lengths if what == "keys-values" else None
            )
            if different:
                places = range(latents.shape[1])
                cells += [_cell(patcher, rule, step, latent, different, same) for latent in places]
        if cells:
            tables.append(PatchTable(steps, what, len(members), cells))
        if on_progress is not None:
            on_progress(done + 1, len(groups))
    if not tables:
        raise DataError(
            "No two problems could be paired for patching: it needs correctly answered problems of several "
            "steps, each an equation `<<left=result>>` that goes on from the result before it."
        )
    return tables


def _pairs(
    examples: Sequence[Example],
    members: list[int],
    step: int,
    most: int,
    seed: int,
    largest: Fraction | int,
    lengths: dict[int, int] | None,
) -> tuple[list[Pair], list[Pair]]:
    """Pairs with different and with the same value at `step`; the expected answer is another, in range."""
    rng = random.Random(f"{seed}/{step}/{len(members)}")
    different, same, seen = list[Pair](), list[Pair](), set[tuple[int, int]]()
    tries = 40 * most
    while tries and (len(different) < most or len(same) < most) and len(members) > 1:
        tries -= 1
        a, b = rng.sample(members, 2)
        if (a, b) in seen or (lengths is not None and lengths[a] != lengths[b]):
            continue
        seen.add((a, b))
        mine, theirs = _result(examples[a].steps[step - 1]), _result(examples[b].steps[step - 1])
        if mine is None or theirs is None:
            continue
        expected = follow_on(examples[a], step, str(theirs))
        if expected is None:
            continue
        if mine == theirs:
            same.append(Pair(a, b, expected))
        elif expected != examples[a].answer and Fraction(expected) <= largest:
            different.append(Pair(a, b, expected))
    return different[:most], same[:most]


@dataclass(frozen=True)
class _Patcher:
    reasoner: LatentReasoner
    examples: Sequence[Example]
    latents: Tensor
    what: str
    batch_size: int

    def texts(self, pairs: list[Pair], latent: int) -> list[str]:
        """A's answers with B's thought number `latent` (from 0)."""
        texts: list[str] = []
        for batch in in_batches(len(pairs), self.batch_size):
            chosen = [pairs[i] for i in batch]
            asked = [format_question(self.examples[pair.a].question) for pair in chosen]
            watcher: ThoughtWatcher
            if self.what == "keys-values":
                given = [format_question(self.examples[pair.b].question) for pair in chosen]
                watcher = PatchKeysValues(think_through(self.reasoner, given), latent)
            else:
                which = frozenset({latent} if self.what == "latent" else range(latent + 1))
                watcher = Replace(self.latents[[pair.b for pair in chosen]], which)
            thinking = think_through(self.reasoner, asked, watcher=watcher)
            texts += finish(self.reasoner, thinking.start)
        return texts


def _cell(
    patcher: _Patcher, rule: Scorer, step: int, latent: int, different: list[Pair], same: list[Pair]
) -> PatchCell:
    texts = patcher.texts(different, latent)
    followed = sum(rule.correct(text, pair.expected) for text, pair in zip(texts, different, strict=True))
    stayed = sum(
        rule.correct(text, patcher.examples[pair.a].answer)
        for text, pair in zip(texts, different, strict=True)
    )
    kept = [
        rule.correct(text, patcher.examples[pair.a].answer)
        for text, pair in zip(patcher.texts(same, latent), same, strict=True)
    ]
    n = len(different)
    return PatchCell(
        step=step,
        latent=latent + 1,
        n=n,
        followed=followed / n,
        ci95=accuracy_interval(followed, n),
        stayed=stayed / n,
        n_same=len(kept),
        kept=sum(kept) / len(kept) if kept else None,
    )


def _done(left: Fraction, sign: str, right: Fraction) -> Fraction:
    if sign == "+":
        return left + right
    if sign == "-":
        return left - right
    return left * right if sign == "*" else left / right


def _result(step: str) -> Fraction | None:
    found = _STEP.fullmatch(step.strip())
    return Fraction(found[4]) if found else None
