"""What the answer would be if one result were another: the steps computed anew, from that result on.

    <<3+3=6>>  <<6+6=12>>  <<12-4=8>>          if the first result were 5:  5 + 5 = 10,  10 - 4 = 6

Each operand of a later step is a number of the question or the result of an earlier step, and two of them may
be equal: `6+6` above could be twice the result, or the result and a 6 that the question names. The readings
that leave the fewest results and then the fewest of the question's numbers unused are taken; where those do
not agree on the answer there is no counterfactual. Nor is there one where the last result is not the answer:
what follows from another value would be the chain's number, not the answer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import product

from codi.data.arithmetic import Expression
from codi.data.equations import (
    Equation,
    UnreadableEquation,
    all_equations,
    equations,
    number_of,
    numbers_in,
)
from codi.data.example import Example
from codi.interpretability.usable_rows import NO_EQUATION, NO_STEPS, NOT_THE_ANSWER, UNREADABLE

INEXACT = "a step whose expression cannot be read or does not give its result"
OPEN_END = "the last step has no equation, and no result is the answer"

_MOST_READINGS = 4096
Reading = tuple[tuple[int | None, ...], ...]
"""By equation and operand, whose result it is (from 0); None for a number of the question or a constant."""


@dataclass(frozen=True)
class Chain:
    """The equations of one problem, and where their operands may come from: the readings taken."""

    equations: tuple[Equation, ...]
    readings: tuple[Reading, ...]

    def result(self, step: int) -> Fraction:
        """The result of step `step` (from 1)."""
        return self.equations[step - 1].result

    def answer_if(self, step: int, value: Fraction) -> Fraction | None:
        """The last result if that of step `step` (from 1) were `value`.

        None where it does not depend on the step, where the readings differ, or where a recomputed result is
        not above 0, or no whole number though it was one.
        """
        answers = {self._computed(reading, step - 1, value) for reading in self.readings}
        return answers.pop() if len(answers) == 1 else None

    def _computed(self, reading: Reading, changed: int, value: Fraction) -> Fraction | None:
        results: dict[int, Fraction] = {changed: value}  # of the steps that the change reaches
        for place in range(changed + 1, len(self.equations)):
            sources, equation = reading[place], self.equations[place]
            if not any(source in results for source in sources):
                continue
            operands = [
                operand if source is None else results.get(source, operand)
                for source, operand in zip(sources, _operands(equation), strict=True)
            ]
            computed = _expression(equation).value(operands)
            if computed is None or computed <= 0:
                return None
            if equation.result.denominator == 1 != computed.denominator:
                return None
            results[place] = computed
        return results.get(len(self.equations) - 1)


@lru_cache(maxsize=10_000)
def chain_or_reason(example: Example) -> tuple[Chain | None, str | None]:
    """The problem as a chain that can be computed anew; where it cannot, why."""
    if not example.steps:
        return None, NO_STEPS
    try:
        found = tuple(all_equations(example))
    except UnreadableEquation:
        return None, UNREADABLE
    if not found:
        return None, NO_EQUATION
    if not all(equation.exact for equation in found):
        return None, INEXACT
    if found[-1].result != number_of(example.answer):  # what is computed anew would be another number
        return None, NOT_THE_ANSWER if equations(example.steps[-1]) else OPEN_END
    return Chain(found, tuple(_readings(found, numbers_in(example.question)))), None


def _readings(chain: Sequence[Equation], asked: Sequence[Fraction]) -> Iterator[Reading]:
    """The readings that leave least unused."""
    there = Counter(asked)
    options: list[list[int | None]] = []
    operands: list[Fraction] = []
    for place, equation in enumerate(chain):
        for operand in _operands(equation):
            sources: list[int | None] = [i for i in range(place) if chain[i].result == operand]
            options.append([*sources, None] if operand in there or not sources else sources)
            operands.append(operand)
    if math.prod(map(len, options)) > _MOST_READINGS:
        return
    contested = {operand for operand, choice in zip(operands, options, strict=True) if len(choice) > 1}
    best: tuple[int, int] | None = None
    taken: list[tuple[int | None, ...]] = []
    for choice in product(*options):
        left_over = set(range(len(chain) - 1)) - set(choice)
        named = Counter(value for value, source in zip(operands, choice, strict=True) if source is None)
        unnamed = sum(max(0, there[value] - named[value]) for value in contested)
        score = len(left_over), unnamed
        if best is None or score < best:
            best, taken = score, []
        if score == best:
            taken.append(choice)
    for choice in taken:
        rest = iter(choice)
        yield tuple(tuple(next(rest) for _ in _operands(equation)) for equation in chain)


def _expression(equation: Equation) -> Expression:
    assert equation.expression is not None, "a chain has exact equations only"
    return equation.expression


def _operands(equation: Equation) -> tuple[Fraction, ...]:
    return _expression(equation).operands
