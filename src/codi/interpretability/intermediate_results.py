"""Do the thoughts say the intermediate results? (paper, Table 3)

The matching rule, written down because the paper leaves it open:

    1  Only correctly answered problems count.
    2  The intermediate results are the results of all equations but the last, whose result is the answer. A
       step may be an annotation, a sentence with one or several, or a sentence that says `48/2 = 24` itself
       (see `codi.data.equations`); a step without an equation says no result. Where the last step's result
       is another number than the answer, nobody knows which results are intermediate: see rule 5.
    3  A problem matches when each of them equals, as a number, one of the top-5 decoded tokens of one of its
       thoughts: any thought, in any order, the same token for two equal results.
    4  The paper reads one token; `whole_numbers` reads a number to its end (see `decoded_thoughts`).
    5  Problems without an intermediate result, or whose are not known, are in no row; they are counted with
       the reason.

Six thoughts with five tokens each say up to thirty things, so some results are met by luck. `by_chance` is
how often a problem matches the thoughts of *another* problem with as many results: the figure to beat. A row
of one problem has no other, and no such figure.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from codi.data.equations import number_of
from codi.data.example import Example
from codi.errors import DataError
from codi.evaluation.benchmarks import format_question
from codi.evaluation.scorers import scorer_for
from codi.evaluation.statistics import accuracy_interval
from codi.generation.decoded_thoughts import TOP_TOKENS, decoded_tokens
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.thinking import finish, in_batches, refuse_without_thoughts, think_through
from codi.interpretability.usable_rows import (
    NO_STEPS,
    Reasons,
    in_words,
    intermediate_or_reason,
    without_results,
)

Decoded = list[list[str]]
"""Per thought, what its top tokens say."""


@dataclass(frozen=True)
class MatchRow:
    """Problems with one number of intermediate results.

    results: that number; n: correctly answered problems; matched: those whose results all appear; share and
    ci95: of n (Wilson); by_chance: share against another problem's thoughts, None where n is 1; top_1: share
    when only each thought's first token counts.
    """

    results: int
    n: int
    matched: int
    share: float
    ci95: tuple[float, float]
    by_chance: float | None
    top_1: float


@dataclass(frozen=True)
class Table3:
    """The table, and what it was made from: problems asked, right answers, tokens looked at per thought.

    left_out: of the problems asked, those that have no intermediate result to look for, by reason.
    """

    rows: list[MatchRow]
    asked: int
    correct: int
    top_k: int
    whole_numbers: bool
    left_out: Reasons

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def intermediate_results(example: Example) -> list[str]:
    """The results before the answer's, as they are written; none where the steps say none (rule 5)."""
    return [equation.said for equation in intermediate_or_reason(example)[0]]


def matches(results: Sequence[str], decoded: Decoded) -> bool:
    """Whether every result is said by some thought (rule 3)."""
    said = {number for tokens in decoded for token in tokens if (number := _number(token)) is not None}
    return all(_number(result) in said for result in results)


_number = cache(number_of)  # a thousand problems say the same few tokens


def check_results(examples: Sequence[Example], what: str) -> None:
    """Raise DataError where no problem has an intermediate result. what: wants them, in words."""
    left_out = without_results(examples)
    if sum(left_out.values()) < len(examples):
        return
    if left_out.get(NO_STEPS) == len(examples):
        raise DataError(
            f"{what} compares thoughts with the steps of a rationale, but none of these problems has steps. "
            "Give a set with a rationale, such as gsm8k or the generated in_domain."
        )
    raise DataError(
        f"{what} compares thoughts with the results that a rationale's steps say before the answer, but none "
        f"of these {len(examples):,} problems has one: {in_words(left_out)}. A step says its result as "
        "<<48/2=24>> or as '48/2 = 24'. Give a set with such steps, such as gsm8k or the generated in_domain."
    )


def table3(
    reasoner: LatentReasoner,
    examples: Sequence[Example],
    *,
    scorer: str = "codi",
    top_k: int = TOP_TOKENS,
    whole_numbers: bool = False,
    latents: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Table3:
    """Share of correctly answered problems whose intermediate results the thoughts decode to.

    latents: another number than trained. Raises DataError where no example has an intermediate result;
    UsageError for a model without thoughts.
    """
    refuse_without_thoughts(reasoner, latents)
    check_results(examples, "Table 3")
    rule = scorer_for(scorer, examples).reading(reasoner.text)
    results = [intermediate_results(example) for example in examples]
    found: list[tuple[list[str], Decoded]] = []
    for batch in in_batches(len(examples), batch_size):
        rows = [examples[number] for number in batch]
        thinking = think_through(reasoner, [format_question(row.question) for row in rows], latents=latents)
        texts = finish(reasoner, thinking.start)
        contexts = thinking.contexts if whole_numbers else None
        tokens = decoded_tokens(reasoner.model, reasoner.text, thinking.thoughts, contexts, top_k)
        for number, row, text, decoded in zip(batch, rows, texts, tokens, strict=True):
            if results[number] and rule.correct(text, row.answer):
                said = [
                    [token.whole if whole_numbers else token.token for token in thought]
                    for thought in decoded
                ]
                found.append((results[number], said))
            elif rule.correct(text, row.answer):
                found.append(([], []))
        if on_progress is not None:
            on_progress(batch.stop, len(examples))
    counts = sorted({len(wanted) for wanted, _ in found if wanted})
    table = [_row(count, [pair for pair in found if len(pair[0]) == count], seed) for count in counts]
    return Table3(table, len(examples), len(found), top_k, whole_numbers, without_results(examples))


def _row(count: int, pairs: list[tuple[list[str], Decoded]], seed: int) -> MatchRow:
    matched = sum(matches(wanted, decoded) for wanted, decoded in pairs)
    first = sum(matches(wanted, [tokens[:1] for tokens in decoded]) for wanted, decoded in pairs)
    n = len(pairs)
    by_chance: float | None = None
    if n > 1:
        shift = random.Random(seed).randrange(1, n)
        others = [pairs[(place + shift) % n][1] for place in range(n)]
        by_chance = sum(matches(wanted, other) for (wanted, _), other in zip(pairs, others, strict=True)) / n
    return MatchRow(count, n, matched, matched / n, accuracy_interval(matched, n), by_chance, first / n)
