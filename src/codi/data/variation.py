"""More problems from few: the same wording with other numbers, every step computed again.

    Natalia sold clips to 48 friends, and half as many in May. Altogether?   <<48/2=24>> <<48+24=72>>    72
    Natalia sold clips to 62 friends, and half as many in May. Altogether?   <<62/2=31>> <<62+31=93>>    93

A problem can be varied where its steps are true equations that end in its answer and where it is known where
each number comes from (`codi.data.problem_template`). What is drawn keeps its kind: whole stays whole, what
was less than a total stays less than it, shares stay within a whole, a week has seven days. Whoever trains on
few problems gains most: GSM8k-Aug itself is fifty variants of each problem of GSM8K.
"""

from __future__ import annotations

import itertools
import os
import random
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from math import ceil
from typing import Any

from codi.data.example import Example
from codi.data.problem_steps import (
    FORMS,
    NotVariable,
    Number,
    Operand,
    Pair,
    Result,
    computed,
    results_of,
    value_of,
)
from codi.data.problem_template import Template, template
from codi.data.quantities import LARGEST_WORD, Mention, decimal_text
from codi.data.sources import folded

TRIES = 400
"""Draws for one variant, before there are no more; the first one gets five times as many."""
AT_A_TIME = 64
"""Problems that a process is handed at once."""


def variants(problem: Template, times: int, rng: random.Random) -> Iterator[Example]:
    """Up to `times` different variants; fewer where no more are found."""
    draw, seen = _Draw(problem), {problem.redrawn}
    number = 0
    for attempt in range((times + 4) * TRIES):
        if number == times or attempt >= (number + 1 if number else 5) * TRIES:
            return
        values = draw.values(rng, together=attempt % 2 == 1, some=attempt % TRIES >= TRIES // 2)
        key = tuple(values[q] for q in problem.redrawn)
        if key in seen or not draw.sensible(values):
            continue
        seen.add(key)
        try:
            results = results_of(problem.steps, values)
            number += 1
            yield _written(problem, values, results, f"{problem.example.id}~{number}")
        except ValueError:  # a result whose decimals do not end: what was sensible in floats is not exact
            number -= 1


class _Draw:
    """Other values for a problem's quantities, and whether they make sense there.

    What makes sense is told in floats, for speed; the steps themselves are computed exactly.
    """

    def __init__(self, problem: Template) -> None:
        self._redrawn = problem.redrawn
        places = {q: [m for m in problem.mentions if m.value == q] for q in problem.redrawn}
        self._ranges = {q: _range(q, at) for q, at in places.items()}
        self._finer = {q: _range(q, at, finer=True) for q, at in places.items()}
        told = sorted({m.value for m in problem.mentions})
        self._told = [(float(value), value) for value in told]
        self._order = [(a, b) for a, b in itertools.combinations(told, 2) if {a, b} & set(problem.redrawn)]
        self._percents = [q for q, at in places.items() if any(m.percent for m in at)]
        self._below_hundred = sum(self._percents) <= 100
        self._shares = sum(self._percents) == 100 and len(self._percents) > 1
        money = "$" in problem.example.question
        self._steps = [
            (
                step.postfix,
                [_floating(operand) for operand in step.operands()],
                float(result),
                max(_places(result), 2 if money and result.denominator > 1 else 0),
            )
            for step, result in zip(problem.steps, problem.results, strict=True)
        ]
        self._unseen = [
            (_floating(operand), float(value).is_integer()) for operand, value in problem.worked_out()
        ]
        self._compares = _COMPARES.search(problem.example.question) is not None

    def values(self, rng: random.Random, together: bool, some: bool) -> dict[Fraction, Fraction]:
        """A new value for each quantity.

        together: all grow or shrink alike, which keeps their order; some: several may stay as they were, and
        the others need not be as round.
        """
        drawn = dict[Fraction, Fraction]()
        factor = 2 ** rng.uniform(-0.9, 0.9)
        for q, (low, high, grain) in (self._finer if some else self._ranges).items():
            if some and len(self._ranges) > 1 and rng.random() < 0.4:
                drawn[q] = q
            elif together:
                wanted = round(float(q / grain) * factor * rng.uniform(0.75, 1.33))
                drawn[q] = min(max(wanted, low), high) * grain
            else:
                drawn[q] = rng.randint(low, high) * grain
        return drawn

    def sensible(self, values: dict[Fraction, Fraction]) -> bool:
        """Whether numbers stand in the same order, shares within a whole, and results are of their kind."""
        if any(values.get(a, a) > values.get(b, b) for a, b in self._order):
            return False
        shares = sum(values[q] for q in self._percents)
        if shares != 100 if self._shares else (self._below_hundred and shares > 100):
            return False
        told = [(old, float(values.get(value, value))) for old, value in self._told]
        floats = {q: float(value) for q, value in values.items()}
        results: list[float] = []
        for postfix, operands, old, decimals in self._steps:
            numbers = [_float_value(kind, operand, floats, results) for kind, operand in operands]
            try:
                new = computed(postfix, numbers)
            except ZeroDivisionError:
                return False
            if not _alike(new, old, decimals):
                return False
            # What was less than a total stays less than it.
            if any((old < a and new > b) or (old > a and new < b) for a, b in told):
                return False
            if self._compares:
                told.append((old, new))
            results.append(new)
        return all(
            not whole or _float_value(*operand, floats, results).is_integer()
            for operand, whole in self._unseen
        )


_COMPARES = re.compile(
    r"\b(?:who|which|whichever|whoever|most|least|fewest|cheap\w*|better|best|larg\w+|small\w+|fast\w+|"
    r"slow\w+|old(?:er|est)|young\w+|tall\w+|short\w+|winner|lower|higher|highest|lowest|more|less|fewer|"
    r"difference)\b",
    re.IGNORECASE,
)


def _floating(operand: Operand) -> tuple[type, Any]:
    """Its kind, and itself; of a number that stays its value."""
    return type(operand), float(Fraction(operand.text)) if isinstance(operand, Number) else operand


def _float_value(kind: type, operand: Any, values: dict[Fraction, float], results: list[float]) -> float:
    if kind is Number:
        return float(operand)
    if kind is Pair:
        pair = [_float_value(*_floating(part), values, results) for part in (operand.left, operand.right)]
        return float(computed((0, 1, operand.operator), pair))
    value = results[operand.step] if kind is Result else values[operand.value]
    return float(value if operand.form == "q" else FORMS[operand.form](value))


def _alike(new: float, old: float, decimals: int) -> bool:
    """Of the same kind: above 0, whole or not, of like size."""
    if new <= 0 or not old / 6 <= new <= max(6 * old, 20):
        return False
    scaled = new * 10**decimals
    if abs(scaled - round(scaled)) > 1e-6:
        return False
    return (abs(new - round(new)) < 1e-9) == (old == round(old))


_DECIMAL_GRAINS = tuple(Fraction(1, n) for n in (2, 4, 10, 20, 100, 1000, 10**4, 10**5, 10**6))


def _range(value: Fraction, places: Sequence[Mention], finer: bool = False) -> tuple[int, int, Fraction]:
    """The least and the most multiple of a grain that may stand for `value`, and the grain.

    finer: numbers need not be as round as `value`.
    """
    most = min((m.most for m in places if m.most is not None), default=None)
    if value.denominator != 1:
        grain = next(grain for grain in _DECIMAL_GRAINS if (value / grain).denominator == 1)
        least = Fraction(grain)
    else:
        grain = Fraction(_grain(int(value), percent=any(m.percent for m in places)))
        if finer:
            grain = Fraction(max(1, int(grain) // 10))
        least = max(Fraction(2), grain)
    low, high = max(least, value / 2), max(2 * value, value + 3 * grain)
    if most is not None:
        high = min(high, Fraction(most))
        low = min(low, Fraction(max(2, most // 3)) if value.denominator == 1 else low)
    if any(m.spelled for m in places):
        high = min(high, Fraction(LARGEST_WORD))
    return ceil(low / grain), max(ceil(low / grain), int(high / grain)), grain


def _grain(value: int, percent: bool) -> int:
    """How round a whole number is: prices of 200 become 300, not 217."""
    if percent and value % 5 == 0:
        return 5
    for grain in (1000, 500, 100, 50, 10, 5):
        if (value >= 4 * grain and value % grain == 0) or (grain in (100, 1000) and value % grain == 0):
            return grain
    return 1


def _places(value: Fraction) -> int:
    return 0 if value.denominator == 1 else len(decimal_text(value).partition(".")[2])


def _written(
    problem: Template, values: dict[Fraction, Fraction], results: list[Fraction], name: str
) -> Example:
    """The variant in words and equations."""
    pieces, last = list[str](), 0
    question = problem.example.question
    for mention in problem.mentions:
        if mention.fixed or mention.value not in values:
            continue
        before, new = question[last : mention.start], mention.written(values[mention.value])
        pieces += [_with_article(before, new), new]
        last = mention.end
    pieces.append(question[last:])
    steps = []
    for step, result in zip(problem.steps, results, strict=True):
        left = "".join(
            part if isinstance(part, str) else decimal_text(value_of(part, values, results))
            for part in step.parts
        )
        equation = f"{left}={decimal_text(result)}"
        steps.append(f"<<{equation}>>" if step.wrapped else equation)
    return Example(name, "".join(pieces), tuple(steps), decimal_text(results[-1]))


_ARTICLE = re.compile(r"\b([Aa])n?(?=[ ]$)")
_VOWEL_SOUND = re.compile(r"8|1[18](?!\d)|eight|eleven|eighteen", re.IGNORECASE)


def _with_article(before: str, number: str) -> str:
    """'an 8-inch pizza', but 'a 9-inch' one."""
    return _ARTICLE.sub(lambda m: m[1] + ("n" if _VOWEL_SOUND.match(number) else ""), before)


@dataclass
class VariationReport:
    """How many problems were varied, how many variants came of it, and why the others were left alone."""

    read: int = 0
    varied: int = 0
    variants: int = 0
    left_alone: dict[str, int] = field(default_factory=dict)
    excluded: int = 0

    def leave(self, reason: str) -> None:
        """Count a problem that stays as it is."""
        self.left_alone[reason] = self.left_alone.get(reason, 0) + 1


def vary(
    examples: Sequence[Example],
    times: int,
    seed: int,
    taken: set[str],
    report: VariationReport,
    processes: int | None = None,
) -> Iterator[list[Example]]:
    """For each example its variants (an empty list where it is left alone), in order.

    What a problem becomes depends on it and the seed alone. taken: questions, white space folded, that no
    variant may equal; one that equals a given or an earlier question is left out too. processes: None is one
    for each core.
    """
    taken = taken | {folded(example.question) for example in examples}
    make = partial(_made, times, seed)
    workers = min(processes or os.cpu_count() or 1, 1 + len(examples) // AT_A_TIME)
    with ProcessPoolExecutor(workers) as pool:
        outcomes = pool.map(make, examples, chunksize=AT_A_TIME) if workers > 1 else map(make, examples)
        for outcome in outcomes:
            report.read += 1
            made = list[Example]()
            for variant in outcome if isinstance(outcome, list) else ():
                key = folded(variant.question)
                if key in taken:
                    report.excluded += 1
                else:
                    taken.add(key)
                    made.append(variant)
            report.variants += len(made)
            report.varied += bool(made)
            if not made:
                report.leave(outcome if isinstance(outcome, str) else "no other numbers were found")
            yield made


def _made(times: int, seed: int, example: Example) -> list[Example] | str:
    """The variants of one problem, or why it is left alone."""
    try:
        problem = template(example)
    except NotVariable as reason:
        return str(reason)
    return list(variants(problem, times, random.Random(f"{seed} {example.question}")))
