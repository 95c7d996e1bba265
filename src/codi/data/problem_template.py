"""A problem whose numbers may be others: where each number of its steps comes from.

    Natalia sold clips to 48 friends, and half as many in May. Altogether?   <<48/2=24>> <<48+24=72>>    72
                          q1                                                 q1 / 2 = r1  q1 + r1 = r2   r2

Every number of a step is a quantity of the question, the result of an earlier step, one that nobody has to be
told (the 2 of "half", 60 minutes), or two of these worked out in the head. Where a number could come from two
places and that would make a difference, the problem is left alone.
"""

from __future__ import annotations

import ast
import itertools
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import Any

from codi.data.example import Example
from codi.data.quantities import Mention, decimal_text, fractions, mentions, taken_for_granted

MOST_READINGS = 4096
"""Ways to read a problem's numbers that are compared; one with more is left alone."""
LARGEST_UNTOLD = 12
"""A number that comes from nowhere may be the wheels of a car, not the price of one."""

_STEP = re.compile(r"(?:<<)?\s*(?P<left>[^=<>]+?)\s*=\s*\$?(?P<right>-?[\d,]*\.?\d+)\s*(?:>>)?")
_TOKEN = re.compile(r"\d[\d,]*\.?\d*|\.\d+|[-+*/()]")
_SIGNS = str.maketrans({"×": "*", "÷": "/", "−": "-", "–": "-", "$": None, " ": None})


class NotVariable(Exception):
    """A problem that is left alone; the message is the reason it is counted under."""


# --- where a number of a step comes from


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
_OF_PERCENT = ("q/100", "100-q", "1-q/100", "100+q", "1+q/100")
_TOLD_BY = {"2q": r"\btwice|\bdoubl|\btwo times", "q/2": r"\bhalf\b", "3q": r"\btripl|\bthrice|\bthree times"}
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


@dataclass(frozen=True)
class Template:
    """A problem whose numbers may be others. redrawn: those of the question that the steps use."""

    example: Example
    mentions: tuple[Mention, ...]
    steps: tuple[Step, ...]
    results: tuple[Fraction, ...]
    redrawn: tuple[Fraction, ...]

    def worked_out(self) -> list[tuple[Pair, Fraction]]:
        """What a solver works out in the head, with its value."""
        told = {mention.value: mention.value for mention in self.mentions}
        return [
            (operand, value_of(operand, told, self.results))
            for step in self.steps
            for operand in step.operands()
            if isinstance(operand, Pair)
        ]


# --- reading a problem


def template(example: Example) -> Template:
    """What of a problem may vary. Raises NotVariable with the reason."""
    if not example.steps:
        raise NotVariable("without steps")
    equations = [_equation(step) for step in example.steps]
    results = tuple(right for _, _, right, _ in equations)
    try:
        answer = Fraction(example.answer.replace(",", "").strip().lstrip("$"))
    except (ValueError, ZeroDivisionError):
        raise NotVariable("an answer that is not a number") from None
    if results[-1] != answer:
        raise NotVariable("the last step is not the answer")
    if any(result <= 0 for result in results):
        raise NotVariable("a result that is not above 0")
    found = tuple(mentions(example.question))
    told = _Told.by(example.question, found)
    choices = [
        [told.sources(text, results[:number]) for text in _numbers(tokens)]
        for number, (tokens, _, _, _) in enumerate(equations)
    ]
    steps = _one_reading(equations, choices, len(told.free))
    if any(isinstance(step.operands()[0], Number) for step in steps if len(step.postfix) == 1):
        raise NotVariable("a step that computes nothing")
    if _unlikely(steps, 0)[0]:
        raise NotVariable("a result that no later step uses")
    used = {q for step in steps for o in step.operands() for q in _read_off(o)} & told.free
    if not used:
        raise NotVariable("no number of the question is used in a step")
    if _REMAINS.search(example.question) and any(2 * value in told.told for value in used):
        raise NotVariable("a number that could be two things")
    untold = [
        Fraction(o.text) for s in steps for o in s.operands()
        if isinstance(o, Number) and not o.told and Fraction(o.text) not in told.granted
    ]  # fmt: skip
    if any(_worked_out_unseen(value, used) for value in untold):
        raise NotVariable("a number that stands nowhere")
    return Template(example, found, steps, results, tuple(sorted(used)))


# "30 minutes to work, 15 of them gone": the 15 of a step may be what is left.
_REMAINS = re.compile(
    r"\b(?:late|later|earlier|early|away|missing|absent|ago|already|halfway|half way)\b", re.IGNORECASE
)


def _equation(step: str) -> tuple[list[str], tuple[int | str, ...], Fraction, bool]:
    """Tokens of the left side, the order of computing it, the right side, and whether `<<>>` stand around."""
    found = _STEP.fullmatch(step.strip().translate(_SIGNS))
    if found is None:
        raise NotVariable("a step that is not one equation")
    left = found["left"].replace(",", "").removeprefix("+")
    tokens = _TOKEN.findall(left)
    if "".join(tokens) != left:
        raise NotVariable("a step that is not one equation")
    try:
        postfix = tuple(_postfix(ast.parse(left, mode="eval").body, itertools.count()))
        right = Fraction(found["right"].replace(",", ""))
        value = computed(postfix, [Fraction(text) for text in _numbers(tokens)])
    except (SyntaxError, ValueError, ZeroDivisionError):
        raise NotVariable("a step that is not one equation") from None
    # 200/3=66.67: rounded or cut off where it is printed. The variants' own results are exact.
    if abs(value - right) * 10 ** len(found["right"].partition(".")[2]) >= 1:
        raise NotVariable("an equation that is not true")
    return tokens, postfix, right, step.strip().startswith("<<")


_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


def _postfix(node: ast.expr, number: Iterator[int]) -> Iterator[int | str]:
    """An expression in the order of its computation; numbers are counted from the left."""
    if isinstance(node, ast.Constant):
        yield next(number)
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        yield from _postfix(node.left, number)
        yield from _postfix(node.right, number)
        yield _OPERATORS[type(node.op)]
    else:
        raise ValueError("not sums and products of numbers")


def _numbers(tokens: Sequence[str]) -> list[str]:
    return [token for token in tokens if token[0].isdigit() or token[0] == "."]


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


@dataclass(frozen=True)
class _Told:
    """What a problem says.

    told: the values of its numbers, fractions included; free: those that may be others; forms: what is read
    off each of these at once; granted: values that need not be told.
    """

    told: frozenset[Fraction]
    free: frozenset[Fraction]
    forms: dict[Fraction, tuple[str, ...]]
    granted: frozenset[Fraction]
    percents: bool

    @classmethod
    def by(cls, question: str, found: Sequence[Mention]) -> _Told:
        fixed = {m.value for m in found if m.fixed}
        free = {m.value for m in found} - fixed
        lower = question.lower()
        every = tuple(form for form, cue in _TOLD_BY.items() if re.search(cue, lower))
        forms = {}
        for value in free:
            places = [m for m in found if m.value == value]
            forms[value] = every
            if any(m.percent for m in places):
                forms[value] += _OF_PERCENT
            elif any(m.cents for m in places):
                forms[value] += ("q/100",)
        granted = taken_for_granted(question) | fixed
        told = {m.value for m in found if m.value} | fractions(question)
        return cls(frozenset(told), frozenset(free), forms, frozenset(granted), any(m.percent for m in found))

    def sources(self, text: str, earlier: Sequence[Fraction]) -> list[Operand]:
        """Everything that a number of a step may be."""
        value = Fraction(text)
        found: list[Operand] = [Result(step) for step, result in enumerate(earlier) if result == value]
        if value in self.free:
            found.append(Quantity(value))
        if found:
            return [*found, Number(text)] if value in self.granted else found
        pairs = self._pairs(value, earlier) if value > LARGEST_UNTOLD else []
        if value in self.granted:
            return [*pairs, Number(text)]
        for told in sorted(self.free):
            found += [Quantity(told, form) for form in self.forms[told] if FORMS[form](told) == value]
        if self.percents:
            found += [Result(step, "q/100") for step, result in enumerate(earlier) if result == 100 * value]
        return found or pairs or [Number(text)]

    def _pairs(self, value: Fraction, earlier: Sequence[Fraction]) -> list[Operand]:
        """The ways to work a value out in the head, from numbers that would change."""
        known: list[tuple[Fraction, Number | Quantity | Result]] = [
            (told, Quantity(told) if told in self.free else Number(str(told))) for told in sorted(self.told)
        ]
        shares = [told for told in sorted(self.free) if "q/100" in self.forms[told]]
        known += [(told / 100, Quantity(told, "q/100")) for told in shares]
        known += [(result, Result(step)) for step, result in enumerate(earlier)]
        return [
            Pair(left, right, operator)
            for (a, left), (b, right) in itertools.permutations(known, 2)
            for operator in "+-*/"
            if not (isinstance(left, Number) and isinstance(right, Number))
            and (operator in "-/" or a <= b)
            and computed((0, 1, operator), (a, b)) == value
        ]


def _one_reading(
    equations: Sequence[tuple[list[str], tuple[int | str, ...], Fraction, bool]],
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
    best = min(_unlikely(reading, told) for reading in readings)
    readings = [reading for reading in readings if _unlikely(reading, told) == best]
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
    return tuple(bool(_results_in(operand)) for step in steps for operand in step.operands())


def _running(steps: tuple[Step, ...]) -> int:
    """How many steps begin with the result right before them."""
    firsts = [step.operands()[0] for step in steps[1:]]
    return sum(first == Result(before) for before, first in enumerate(firsts))


def _waiting(steps: tuple[Step, ...]) -> int:
    """How many steps the results wait, all together, until they are used."""
    used = [(n, r) for n, step in enumerate(steps) for o in step.operands() for r in _results_in(o)]
    return sum(number - step for step, number in {step: number for number, step in reversed(used)}.items())


def _steps(
    equations: Sequence[tuple[list[str], tuple[int | str, ...], Fraction, bool]], picked: Iterator[Operand]
) -> tuple[Step, ...]:
    return tuple(
        Step(
            tuple(next(picked) if token[0].isdigit() or token[0] == "." else token for token in tokens),
            postfix,
            wrapped,
        )
        for tokens, postfix, _, wrapped in equations
    )


def _unlikely(steps: tuple[Step, ...], told: int) -> tuple[int, ...]:
    """How many results and quantities no step uses, results are used again, and is worked out in the head."""
    operands = [(number, operand) for number, step in enumerate(steps) for operand in step.operands()]
    used = [(number, step) for number, operand in operands for step in _results_in(operand)]
    first = {step: number for number, step in reversed(used)}
    quantities = {q for _, operand in operands for q in _read_off(operand)}
    return (
        len(steps) - 1 - len(first),
        told - len(quantities),
        len(used) - len(first),
        sum(isinstance(operand, Pair) for _, operand in operands),
    )


def _agree(readings: Sequence[tuple[Step, ...]], rng: random.Random) -> bool:
    """Whether all readings compute the same, whatever the numbers of the question are."""
    quantities = {q for r in readings for step in r for o in step.operands() for q in _read_off(o)}
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


def _read_off(operand: Operand) -> tuple[Fraction, ...]:
    """The values of the question that an operand stands on."""
    if isinstance(operand, Quantity):
        return (operand.value,)
    if isinstance(operand, Pair):
        return _read_off(operand.left) + _read_off(operand.right)
    return ()


def _results_in(operand: Operand) -> tuple[int, ...]:
    """The steps whose results an operand stands on."""
    if isinstance(operand, Pair):
        return _results_in(operand.left) + _results_in(operand.right)
    return (operand.step,) if isinstance(operand, Result) else ()


def _with_number(steps: tuple[Step, ...], value: Fraction) -> tuple[Step, ...]:
    """The steps with every use of a quantity as a number that stays."""

    def fixed(part: str | Operand) -> str | Operand:
        if not isinstance(part, str) and part == Quantity(value, getattr(part, "form", "")):
            return Number(decimal_text(value_of(part, {value: value}, ())), told=True)
        return part

    return tuple(replace(step, parts=tuple(map(fixed, step.parts))) for step in steps)


def _worked_out_unseen(value: Fraction, used: set[Fraction]) -> bool:
    """Whether a number that stands nowhere may have been worked out from those that would change."""
    if value > LARGEST_UNTOLD or value.denominator != 1:
        return True
    near = {q + d for q in used for d in (-1, 1)} | {q * 2 for q in used} | {q / 2 for q in used}
    near |= {x for a, b in itertools.permutations(sorted(used), 2) for x in (a + b, a - b, a * b, a / b)}
    return value in near


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
