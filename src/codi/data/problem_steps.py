"""The steps of a problem whose numbers may be others: what each number is, and what the steps come to.

48 / 2 = 24      Quantity(48) / Number("2"): Result(0)
48 + 24 = 72     Quantity(48) + Result(0)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any


class NotVariable(Exception):
    """A problem that is left alone; the message is the reason it is counted under."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number that stays: the 2 of 'half', the 60 of an hour. told: it stands in the question, and stays."""

    text: str
    told: bool = False


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number of the question, or what is read off it at once: 0.2 and 80 of 20 %, half of it, twice it.

    value: as the question has it; form: a name of `FORMS`.
    """

    value: Fraction
    form: str = "q"


@dataclass(frozen=True, slots=True)
class Result:
    """What an earlier step came to. step: its number, from 0; form: `q`, or `q/100` of a percentage."""

    step: int
    form: str = "q"


FORMS: dict[str, Callable[[Any], Any]] = {
    "q": lambda q: q,
    "q/100": lambda q: q / 100,
    "100-q": lambda q: 100 - q,
    "1-q/100": lambda q: 1 - q / 100,
    "100+q": lambda q: 100 + q,
    "1+q/100": lambda q: 1 + q / 100,
    "2q": lambda q: 2 * q,
    "q/2": lambda q: q / 2,
    "3q": lambda q: 3 * q,
}
"""What may be read off a number at once, for floats and fractions alike."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two numbers worked out in the head: the 18 of a ticket at $12 and a tour at $6."""

    left: Number | Quantity | Result
    right: Number | Quantity | Result
    operator: str


Operand = Number | Quantity | Result | Pair


@dataclass(frozen=True, slots=True)
class Step:
    """An equation: its left side as texts and operands, and the order in which it is computed.

    wrapped: stands in `<<...>>`; postfix: indices of operands, and operators.
    """

    parts: tuple[str | Operand, ...]
    postfix: tuple[int | str, ...]
    wrapped: bool

    def operands(self) -> list[Operand]:
        """In their order on the left side."""
        return [part for part in self.parts if not isinstance(part, str)]


def computed(postfix: Sequence[int | str], values: Sequence[Any]) -> Any:
    """Of floats or fractions. Raises ZeroDivisionError."""
    stack: list[Any] = []
    for item in postfix:
        if isinstance(item, int):
            stack.append(values[item])
            continue
        right, left = stack.pop(), stack.pop()
        if item == "+":
            stack.append(left + right)
        elif item == "-":
            stack.append(left - right)
        elif item == "*":
            stack.append(left * right)
        else:
            stack.append(left / right)
    return stack[0]


def results_of(steps: Sequence[Step], values: dict[Fraction, Fraction]) -> list[Fraction]:
    """What the steps come to, exactly, for other values of the quantities."""
    results: list[Fraction] = []
    for step in steps:
        numbers = [value_of(operand, values, results) for operand in step.operands()]
        results.append(computed(step.postfix, numbers))
    return results


def value_of(operand: Operand, values: Mapping[Fraction, Fraction], results: Sequence[Fraction]) -> Fraction:
    """What an operand stands for. values: of each quantity; results: of the steps before."""
    if isinstance(operand, Number):
        return Fraction(operand.text)
    if isinstance(operand, Pair):
        pair = [value_of(part, values, results) for part in (operand.left, operand.right)]
        return Fraction(computed((0, 1, operand.operator), pair))
    value = results[operand.step] if isinstance(operand, Result) else values[operand.value]
    return Fraction(FORMS[operand.form](value))


def read_off(operand: Operand) -> tuple[Fraction, ...]:
    """The values of the question that an operand stands on."""
    if isinstance(operand, Quantity):
        return (operand.value,)
    if isinstance(operand, Pair):
        return read_off(operand.left) + read_off(operand.right)
    return ()


def results_in(operand: Operand) -> tuple[int, ...]:
    """The steps whose results an operand stands on."""
    if isinstance(operand, Pair):
        return results_in(operand.left) + results_in(operand.right)
    return (operand.step,) if isinstance(operand, Result) else ()
