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
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from codi.data.example import Example
from codi.data.problem_readings import Equation, one_reading, unlikely
from codi.data.problem_sources import LARGEST_UNTOLD, Told
from codi.data.problem_steps import NotVariable, Number, Pair, Step, computed, read_off, value_of
from codi.data.quantities import Mention, mentions

_STEP = re.compile(r"(?:<<)?\s*(?P<left>[^=<>]+?)\s*=\s*\$?(?P<right>-?[\d,]*\.?\d+)\s*(?:>>)?")
_TOKEN = re.compile(r"\d[\d,]*\.?\d*|\.\d+|[-+*/()]")
_SIGNS = str.maketrans({"×": "*", "÷": "/", "−": "-", "–": "-", "$": None, " ": None})


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
    told = Told.by(example.question, found)
    choices = [
        [told.sources(text, results[:number]) for text in _numbers(tokens)]
        for number, (tokens, _, _, _) in enumerate(equations)
    ]
    steps = one_reading(equations, choices, len(told.free))
    if any(isinstance(step.operands()[0], Number) for step in steps if len(step.postfix) == 1):
        raise NotVariable("a step that computes nothing")
    if unlikely(steps, 0)[0]:
        raise NotVariable("a result that no later step uses")
    used = {q for step in steps for o in step.operands() for q in read_off(o)} & told.free
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


def _equation(step: str) -> Equation:
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


def _worked_out_unseen(value: Fraction, used: set[Fraction]) -> bool:
    """Whether a number that stands nowhere may have been worked out from those that would change."""
    if value > LARGEST_UNTOLD or value.denominator != 1:
        return True
    near = {q + d for q in used for d in (-1, 1)} | {q * 2 for q in used} | {q / 2 for q in used}
    near |= {x for a, b in itertools.permutations(sorted(used), 2) for x in (a + b, a - b, a * b, a / b)}
    return value in near
