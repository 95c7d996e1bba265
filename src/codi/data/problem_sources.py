"""Where a number of a step may come from: what a problem says, what is read off it or worked out of it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from codi.data.problem_steps import FORMS, Number, Operand, Pair, Quantity, Result, computed
from codi.data.quantities import Mention, fractions, taken_for_granted

LARGEST_UNTOLD = 12
"""A number that comes from nowhere may be the wheels of a car, not the price of one."""

_OF_PERCENT = ("q/100", "100-q", "1-q/100", "100+q", "1+q/100")
_TOLD_BY = {"2q": r"\btwice|\bdoubl|\btwo times", "q/2": r"\bhalf\b", "3q": r"\btripl|\bthrice|\bthree times"}


@dataclass(frozen=True)
class Told:
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
    def by(cls, question: str, found: Sequence[Mention]) -> Told:
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
