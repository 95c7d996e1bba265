"""Which problems a measurement can use, and for what reason not the others.

Real sets have problems without steps, steps without an equation, questions longer than the model. Such a row
is passed over and counted under its reason; it never ends the measurement of the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from codi.data.equations import Equation, UnreadableEquation, all_equations, intermediate
from codi.data.example import Example
from codi.errors import UsageError
from codi.evaluation.benchmarks import format_question
from codi.generation.latent_reasoner import LatentReasoner

NO_STEPS = "no steps"
NO_EQUATION = "no step says `... = number`"
UNREADABLE = "an annotation <<...>> without a number as its result"
NO_INTERMEDIATE = "no intermediate result: one equation gives the answer"
NOT_THE_ANSWER = "the last equation's result is not the answer"
TOO_LONG = "too long for the model"
NO_QUESTION = "no question"

Reasons = dict[str, int]
"""How many rows were left out, by reason; the commonest first."""


def intermediate_or_reason(example: Example) -> tuple[list[Equation], str | None]:
    """The problem's equations before the answer's; where there is none, why."""
    if not example.steps:
        return [], NO_STEPS
    try:
        found, all_of_them = intermediate(example), all_equations(example)
    except UnreadableEquation:
        return [], UNREADABLE
    if found is None:
        return [], NOT_THE_ANSWER
    if found:
        return found, None
    return [], NO_INTERMEDIATE if all_of_them else NO_EQUATION


def without_results(examples: Sequence[Example]) -> Reasons:
    """The problems that have no intermediate result, counted by reason."""
    return counted(intermediate_or_reason(example)[1] for example in examples)


def rows_that_fit(
    reasoner: LatentReasoner, examples: Sequence[Example], latents: int | None = None
) -> tuple[list[Example], Reasons]:
    """The problems whose question the model can take in with so many thoughts, and how many it cannot."""
    mode = reasoner.method.mode(None)
    kept: list[Example] = []
    reasons: list[str] = []
    for example in examples:
        question = format_question(example.question)
        try:
            reasoner.question_ids(question, "It", mode, latents)
        except UsageError:
            reasons.append(TOO_LONG if question else NO_QUESTION)
        else:
            kept.append(example)
    return kept, counted(reasons)


def counted(reasons: Iterable[str | None]) -> Reasons:
    """How often each reason was given (None is none)."""
    return dict(Counter(reason for reason in reasons if reason is not None).most_common())


def in_words(reasons: Reasons) -> str:
    """`12 no steps, 3 too long for the model`; empty where nothing was left out."""
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
