"""Which of the ways to read a problem's numbers is meant: the one that makes sense, or several that agree."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from math import prod

from codi.data.problem_steps import (
    NotVariable,
    Number,
    Operand,
    Pair,
    Quantity,
    Result,
    Step,
    read_off,
    results_in,
    results_of,
    value_of,
)
from codi.data.quantities import decimal_text

MOST_READINGS = 4096
"""Ways to read a problem's numbers that are compared; one with more is left alone."""

Equation = tuple[list[str], tuple[int | str, ...], Fraction, bool]
"""Tokens of the left side, the order of computing it, the right side, and whether `<<>>` stand around."""


def one_reading(
    equations: Sequence[Equation],
    choices: Sequence[Sequence[list[Operand]]],
    told: int,
) -> tuple[Step, ...]:
    """The steps with each number's source: the one reading that makes sense, or several that agree.

    Raises NotVariable where readings differ in what they compute.
    """
    flat = [options for step in choices for options in step]
    if prod(len(options) for options in flat) > MOST_READINGS:
        raise NotVariable("numbers that could be too many things")
    readings = [_steps(equations, iter(picked)) for picked in itertools.product(*flat)]
    # A step is there for a later one, and a number of the question for a step: readings that leave fewer of
    # them unused are likelier, and among those the ones that use each result once.
    best = min(unlikely(reading, told) for reading in readings)
    readings = [reading for reading in readings if unlikely(reading, told) == best]
    rng = random.Random(0)
    if len({_result_places(reading) for reading in readings}) == 1:  # equal results: the later step's
        soonest = min(map(_waiting, readings))
        readings = [reading for reading in readings if _waiting(reading) == soonest]
    running = max(map(_running, readings))  # "<<39-31=8>> <<8+24=32>>": a chain goes on with what it came to
    readings = [reading for reading in readings if _running(reading) == running]
    while not _agree(readings, rng):
        pinned = _told_and_granted(readings)
        if pinned is None:
            raise NotVariable("a number that could be two things")
        # The 2 of "2 boxes" and of "twice": as long as it stays 2, it does not matter which is meant.
        readings = [_with_number(reading, pinned) for reading in readings]
    return readings[0]


def _result_places(steps: tuple[Step, ...]) -> tuple[bool, ...]:
    return tuple(bool(results_in(operand)) for step in steps for operand in step.operands())


def _running(steps: tuple[Step, ...]) -> int:
    """How many steps begin with the result right before them."""
    firsts = [step.operands()[0] for step in steps[1:]]
    return sum(first == Result(before) for before, first in enumerate(firsts))


def _waiting(steps: tuple[Step, ...]) -> int:
    """How many steps the results wait, all together, until they are used."""
    used = [(n, r) for n, step in enumerate(steps) for o in step.operands() for r in results_in(o)]
    return sum(number - step for step, number in {step: number for number, step in reversed(used)}.items())


def _steps(equations: Sequence[Equation], picked: Iterator[Operand]) -> tuple[Step, ...]:
    return tuple(
        Step(
            tuple(next(picked) if token[0].isdigit() or token[0] == "." else token for token in tokens),
            postfix,
            wrapped,
        )
        for tokens, postfix, _, wrapped in equations
    )


def unlikely(steps: tuple[Step, ...], told: int) -> tuple[int, ...]:
    """How many results and quantities no step uses, results are used again, and is worked out in the head."""
    operands = [(number, operand) for number, step in enumerate(steps) for operand in step.operands()]
    used = [(number, step) for number, operand in operands for step in results_in(operand)]
    first = {step: number for number, step in reversed(used)}
    quantities = {q for _, operand in operands for q in read_off(operand)}
    return (
        len(steps) - 1 - len(first),
        told - len(quantities),
        len(used) - len(first),
        sum(isinstance(operand, Pair) for _, operand in operands),
    )


def _agree(readings: Sequence[tuple[Step, ...]], rng: random.Random) -> bool:
    """Whether all readings compute the same, whatever the numbers of the question are."""
    quantities = {q for r in readings for step in r for o in step.operands() for q in read_off(o)}
    for _ in range(3):
        values = {q: q * Fraction(rng.randint(3, 97), rng.choice((1, 7, 11))) for q in sorted(quantities)}
        try:
            outcomes = {tuple(results_of(reading, values)) for reading in readings}
        except ZeroDivisionError:
            continue
        if len(outcomes) > 1:
            return False
    return True


def _told_and_granted(readings: Sequence[tuple[Step, ...]]) -> Fraction | None:
    """A value of the question that readings take for different things, none of them a result."""
    for operands in zip(*([o for step in r for o in step.operands()] for r in readings), strict=True):
        told = {o.value for o in operands if isinstance(o, Quantity)}
        if len(set(operands)) > 1 and told and not any(isinstance(o, Result | Pair) for o in operands):
            return min(told)
    return None


def _with_number(steps: tuple[Step, ...], value: Fraction) -> tuple[Step, ...]:
    """The steps with every use of a quantity as a number that stays."""

    def fixed(part: str | Operand) -> str | Operand:
        if not isinstance(part, str) and part == Quantity(value, getattr(part, "form", "")):
            return Number(decimal_text(value_of(part, {value: value}, ())), told=True)
        return part

    return tuple(replace(step, parts=tuple(map(fixed, step.parts))) for step in steps)
