"""Arithmetic in exact fractions: an expression that can be computed again with other numbers in its places.

Expression(("#", "*", "(", "#", "+", "#", ")"), (2, 3, 4)).value()             14
...                                            .value((2, 5, 4))              18
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

LARGEST_EXPONENT = 64
"""`2^9999999` is no step of a word problem."""


@dataclass(frozen=True, slots=True)
class Expression:
    """An arithmetic expression. signs: its parts in order, `#` for each of the operands."""

    signs: tuple[str, ...]
    operands: tuple[Fraction, ...]

    def value(self, operands: Sequence[Fraction] | None = None) -> Fraction | None:
        """Its value, or with other operands in their places; None where it has none (a division by zero)."""
        return _Evaluation(self.signs, self.operands if operands is None else operands).whole()


def shown(value: Fraction) -> str | None:
    """A value as a person writes it (`7`, `3.5`); None where its decimals never end."""
    if value.denominator == 1:
        return str(value.numerator)
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return None if rest > 1 else f"{float(value):.12g}"


class _NoValue(Exception):
    """The signs are no expression, or it has no value."""


class _Evaluation:
    """Signs and operands by precedence: brackets, %, powers, signs, * and /, + and -."""

    def __init__(self, signs: Sequence[str], operands: Sequence[Fraction]) -> None:
        self.signs, self.operands = signs, operands
        self.place = self.used = 0

    def whole(self) -> Fraction | None:
        """The value of all of it; None where there is none."""
        try:
            value = self._sum()
        except _NoValue:
            return None
        return value if self.place == len(self.signs) else None

    def _next(self) -> str:
        return self.signs[self.place] if self.place < len(self.signs) else ""

    def _take(self) -> str:
        sign = self._next()
        self.place += 1
        return sign

    def _sum(self) -> Fraction:
        value = self._product()
        while self._next() in ("+", "-"):
            value = value + self._product() if self._take() == "+" else value - self._product()
        return value

    def _product(self) -> Fraction:
        value = self._signed()
        while self._next() in ("*", "/", "//", "("):
            sign = "*" if self._next() == "(" else self._take()  # 2(3 + 4)
            right = self._signed()
            if sign == "*":
                value *= right
            elif right == 0:
                raise _NoValue
            else:
                value = value / right if sign == "/" else Fraction(value // right)
        return value

    def _signed(self) -> Fraction:
        if self._next() in ("-", "+"):
            return -self._signed() if self._take() == "-" else self._signed()
        return self._power()

    def _power(self) -> Fraction:
        base = self._atom()
        if self._next() != "^":
            return base
        self._take()
        exponent = self._signed()
        if exponent.denominator != 1 or abs(exponent) > LARGEST_EXPONENT or (base == 0 and exponent < 0):
            raise _NoValue
        power: Fraction = base ** int(exponent)
        return power

    def _atom(self) -> Fraction:
        sign = self._take()
        if sign == "#":
            value = self.operands[self.used]
            self.used += 1
        elif sign == "(":
            value = self._sum()
            if self._take() != ")":
                raise _NoValue
        else:
            raise _NoValue
        while self._next() == "%":
            self._take()
            value /= 100
        return value
