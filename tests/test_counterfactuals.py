"""What the answer would be if one result were another: the chain computed anew, in every shape it has."""

from __future__ import annotations

import random
import re
from fractions import Fraction

import pytest

from codi.data.example import Example
from codi.interpretability.counterfactuals import INEXACT, OPEN_END, chain_or_reason
from codi.interpretability.patching import follow_on, unusable
from codi.interpretability.usable_rows import (
    NO_EQUATION,
    NO_INTERMEDIATE,
    NO_STEPS,
    NOT_THE_ANSWER,
    UNREADABLE,
)


def example(*steps: str, question: str = "How many?", answer: str = "0") -> Example:
    return Example("x", question, steps, answer)


def last_number(step: str) -> str:
    return re.findall(r"[\d.]*\d", step)[-1]


@pytest.mark.parametrize(
    ("steps", "question", "step", "value", "expected"),
    [
        (("<<3+3=6>>", "<<6+6=12>>"), "Twice as many as 3 and 3.", 1, "5", "10"),  # both are the result
        (("<<3+3=6>>", "<<6+6=12>>"), "3 and 3, then 6 more.", 1, "5", "11"),  # one is the question's 6
        (("<<3+3=6>>", "<<6*6=36>>", "<<36-6=30>>"), "3 and 3; squared, less 6.", 1, "4", None),  # which 6?
        (("<<3+3=6>>", "<<6*6=36>>", "<<36-9=27>>"), "3 and 3; squared; without 9.", 1, "4", "7"),
        (("<<3+3=6>>", "<<6*2=12>>", "<<6+12=18>>"), "3 and 3, 6 more", 1, "5", None),  # either 6
        (("<<48/2=24>>", "<<3*4=12>>", "<<24+12=36>>"), "How many?", 1, "10", "22"),  # not the next step
        (("<<48/2=24>>", "<<3*4=12>>", "<<24+12=36>>"), "How many?", 2, "10", "34"),
        (("<<2+2=4>>", "<<3+1=4>>", "<<4+4=8>>"), "How many?", 1, "7", "11"),  # each result used once
        (("5*2 = 10 of hers", "10 - 4 = 6 are left.", "So it is 6."), "5, 2, 4", 1, "9", "5"),
        (("$3.50 × 2 = $7", "$7 + $1 = $8"), "How much?", 1, "4", "5"),
        (("<<5/2=2.5>>", "<<2.5*4=10>>"), "How much?", 1, "3.5", "14"),
        (("<<5/2=2.5>>", "<<2.5*4=10>>"), "How much?", 1, "3.3", None),  # was whole, is not
        (("<<4+4=8>>", "<<3+3=6>>"), "How many?", 1, "2", None),  # the answer does not hang on it
    ],
)
def test_follow_on(
    steps: tuple[str, ...], question: str, step: int, value: str, expected: str | None
) -> None:
    told = example(*steps, question=question, answer=last_number(steps[-1]))
    assert follow_on(told, step, value) == expected


def test_a_chain_that_does_not_end_in_the_answer_says_nothing_of_it() -> None:
    """What its steps give with another number is not what the answer would be."""
    assert follow_on(example("<<3+3=6>>", "<<6*2=12>>", answer="13"), 1, "5") is None
    assert follow_on(example("<<3+3=6>>", "<<6*2=12>>", answer="12"), 1, "5") == "10"
    assert follow_on(example("<<3+12=15>>", "<<12/15=.8>>", answer="80"), 1, "20") is None  # not in percent


Shape = list[tuple[list[int | Fraction], str]]
"""Per step its two operands (an int: the result of that step) and its sign."""


def random_chain(draw: random.Random) -> tuple[Shape, list[Fraction]]:
    """Steps of which no two numbers of the question are alike, and their results."""
    numbers = iter(draw.sample(range(2, 4000), 40))
    results: list[Fraction] = []
    unused: list[int] = []
    shape: Shape = []
    for place in range(draw.randint(2, 5)):
        operands: list[int | Fraction] = [*unused[-2:]] if place and draw.random() < 0.6 else []
        unused = [u for u in unused if u not in operands] + [place]
        while len(operands) < 2:
            operands.append(Fraction(next(numbers)))
        shape.append((operands, draw.choice("+*")))
        results.append(_made(shape[-1], results))
    return shape, results


def computed(shape: Shape, changed: int, value: Fraction) -> Fraction:
    """The last result, where that of one step is another."""
    found: list[Fraction] = []
    for place, step in enumerate(shape):
        found.append(value if place == changed else _made(step, found))
    return found[-1]


def _made(step: tuple[list[int | Fraction], str], results: list[Fraction]) -> Fraction:
    operands, sign = step
    left, right = (results[o] if isinstance(o, int) else o for o in operands)
    return left + right if sign == "+" else left * right


def test_a_result_put_back_gives_the_answer() -> None:
    """Random trees of steps whose numbers are all different: the reading is known, so is every answer."""
    draw = random.Random(3)
    for _ in range(150):
        shape, results = random_chain(draw)
        if len(set(results)) < len(results):
            continue
        steps = []
        for (operands, sign), result in zip(shape, results, strict=True):
            left, right = (results[o] if isinstance(o, int) else o for o in operands)
            steps.append(f"<<{left}{sign}{right}={result}>>")
        chain, _ = chain_or_reason(example(*steps, answer=str(results[-1])))
        assert chain is not None
        for place, result in enumerate(results):
            hangs = computed(shape, place, result) != computed(shape, place, result + 1)
            assert chain.answer_if(place + 1, result) == (results[-1] if hangs else None)
            if hangs:
                assert chain.answer_if(place + 1, Fraction(7)) == computed(shape, place, Fraction(7))


def test_why_a_problem_cannot_be_used() -> None:
    rows = [
        example(),
        example("She adds five."),
        example("<<x=>>", "<<1+1=2>>"),
        example("<<1+1=2>>", answer="2"),
        example("<<1+1=3>>", "<<3*2=6>>"),
        example("<<x=3>>", "<<3*2=6>>"),
        example("<<1+2=3>>", "Then it doubles.", answer="6"),
        example("<<1+2=3>>", "<<3*2=6>>", answer="7"),
        example("<<1+2=3>>", "<<3*2=6>>", answer="6"),
    ]
    reasons = [chain_or_reason(row)[1] for row in rows]
    assert reasons == [NO_STEPS, NO_EQUATION, UNREADABLE, None, INEXACT, INEXACT, OPEN_END,
                       NOT_THE_ANSWER, None]  # fmt: skip
    assert unusable(rows) == {
        INEXACT: 2, NO_STEPS: 1, NO_EQUATION: 1, UNREADABLE: 1, NO_INTERMEDIATE: 1, OPEN_END: 1,
        NOT_THE_ANSWER: 1,
    }  # fmt: skip
