"""Patching: one thought of problem B is fed into problem A. Does A's answer follow the arithmetic?

    A   7  ─+3→ 10 ─*2→ 20 ─-5→ 15         answer 15
    B   2  ─+4→  6 ─...                    s_1 = 6
    A with B's z_k, if z_k carries s_1:    6 ─*2→ 12 ─-5→ 7        the answer should become 7

    different value   B's s_j is another: does the answer become what A's later steps make of it? (`followed`)
    same value        B's s_j is the same, the problem is not: does the answer stay?              (`kept`)

What A's later steps make of another value is computed anew along the chain of its equations (see
`counterfactuals`). Measured for every step j and latent k. Three things can be put into A: B's latent as it
is fed back (`latent`); its keys and values in every layer, whatever was fed (`keys-values`; both questions
must have the same number of tokens, or the position would change with it); all of B's latents up to k
(`latents-up-to`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from codi.data.arithmetic import shown
from codi.data.equations import number_of
from codi.data.example import Example
from codi.errors import DataError, UsageError
from codi.evaluation.benchmarks import format_question
from codi.evaluation.scorers import Scorer, scorer_for
from codi.evaluation.statistics import accuracy_interval
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.counterfactuals import Chain, chain_or_reason
from codi.interpretability.disturbed_answers import Replace
from codi.interpretability.thinking import (
    Thinking,
    finish,
    in_batches,
    refuse_without_thoughts,
    think_through,
)
from codi.interpretability.usable_rows import NO_INTERMEDIATE, Reasons, counted, in_words
from codi.modeling.context import Context
from codi.modeling.model import ThoughtWatcher

WHAT = ("latent", "keys-values", "latents-up-to")


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
        """The cell whose answers followed most: the first of all where none followed, which is no place."""
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
    """The answer if the result of equation `step` (from 1) were `value`: the later ones computed anew.

    None where the steps cannot be computed anew, the answer does not hang on that result, or a number on the
    way is not above 0, or no longer whole (see `counterfactuals`).
    """
    chain, _ = chain_or_reason(example)
    number = number_of(value)
    found = None if chain is None or number is None else chain.answer_if(step, number)
    return None if found is None else shown(found)


def unusable(examples: Sequence[Example]) -> Reasons:
    """The problems whose steps cannot be computed anew, or of which there is one alone, by reason."""
    return counted(_why_unusable(example) for example in examples)


def _why_unusable(example: Example) -> str | None:
    chain, reason = chain_or_reason(example)
    return NO_INTERMEDIATE if chain is not None and len(chain.equations) < 2 else reason


def patch_tables(
    reasoner: LatentReasoner,
    examples: Sequence[Example],
    *,
    what: str = "latent",
    pairs: int = 200,
    scorer: str = "codi",
    latents: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[PatchTable]:
    """One table for every number of steps (2 and more) with enough correctly answered problems.

    A step is an equation; problems whose steps cannot be computed anew are passed over (`unusable` counts
    them). pairs: at most so many for a cell; latents: another number than trained. Raises UsageError for a
    model without thoughts or an unknown `what`, DataError when no pair can be made.
    """
    refuse_without_thoughts(reasoner, latents)
    if what not in WHAT:
        raise UsageError(f"'{what}' cannot be patched; it must be one of {', '.join(WHAT)}.")
    chains = {i: chain for i, example in enumerate(examples) if (chain := chain_or_reason(example)[0])}
    rule = scorer_for(scorer, examples).reading(reasoner.text)
    donors: list[Thinking] = []
    right: list[int] = []
    for batch in in_batches(len(examples), batch_size):
        asked = [format_question(examples[i].question) for i in batch]
        thinking = think_through(reasoner, asked, latents=latents)
        donors.append(thinking)
        for i, text in zip(batch, finish(reasoner, thinking.start), strict=True):
            if rule.correct(text, examples[i].answer):
                right.append(i)
    theirs = torch.cat([thinking.latents for thinking in donors])
    largest = max((value for i in right if (value := number_of(examples[i].answer)) is not None), default=0)
    lengths = {i: len(reasoner.text.question(format_question(examples[i].question))) for i in right}
    groups: dict[int, list[int]] = {}
    for i in right:
        if i in chains and len(chains[i].equations) > 1:
            groups.setdefault(len(chains[i].equations), []).append(i)
    patcher = _Patcher(reasoner, examples, theirs, what, latents, batch_size)
    tables = []
    for done, (steps, members) in enumerate(sorted(groups.items())):
        cells = []
        for step in range(1, steps):
            different, same = _pairs(
                examples, chains, members, step, pairs, seed, largest,
                lengths if what == "keys-values" else None,
            )  # fmt: skip
            if different:
                places = range(theirs.shape[1])
                cells += [_cell(patcher, rule, step, latent, different, same) for latent in places]
        if cells:
            tables.append(PatchTable(steps, what, len(members), cells))
        if on_progress is not None:
            on_progress(done + 1, len(groups))
    if not tables:
        raise DataError(_no_pairs(examples, chains, right))
    return tables


def _no_pairs(examples: Sequence[Example], chains: dict[int, Chain], right: list[int]) -> str:
    reasons = in_words(unusable(examples))
    usable = sum(i in chains for i in right)
    return (
        "No two problems could be paired for patching: it needs correctly answered problems of several "
        "steps, each with an equation (<<48/2=24>> or '48/2 = 24') that goes on from a result before it. Of "
        f"{len(examples):,} problems {len(right):,} were answered correctly, {usable:,} with such steps"
        + (f"; steps that cannot be used: {reasons}." if reasons else ".")
    )


def _pairs(
    examples: Sequence[Example],
    chains: dict[int, Chain],
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
        value = chains[b].result(step)
        answer = chains[a].answer_if(step, value)
        expected = None if answer is None else shown(answer)
        if answer is None or expected is None:
            continue
        if chains[a].result(step) == value:
            same.append(Pair(a, b, expected))
        elif answer != number_of(examples[a].answer) and answer <= largest:
            different.append(Pair(a, b, expected))
    return different[:most], same[:most]


@dataclass(frozen=True)
class _Patcher:
    reasoner: LatentReasoner
    examples: Sequence[Example]
    theirs: Tensor
    what: str
    latents: int | None
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
                watcher = PatchKeysValues(think_through(self.reasoner, given, latents=self.latents), latent)
            else:
                which = frozenset({latent} if self.what == "latent" else range(latent + 1))
                watcher = Replace(self.theirs[[pair.b for pair in chosen]], which)
            thinking = think_through(self.reasoner, asked, latents=self.latents, watcher=watcher)
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
