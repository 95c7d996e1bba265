"""What a reasoning step computes: its equations, read out of an annotation or out of the sentence itself.

    He sold 48/2 = <<48/2=24>>24 clips in May.        48/2 -> 24          GSM8K
    <<48/2=24>>                                       48/2 -> 24          GSM8k-Aug
    That is 40% of $1,200 = $480, or 480 ÷ 12 = 40.   40%*1200 -> 480     prose, two equations
                                                      480/12 -> 40
    16 - 3 - 4 = 13 - 4 = 9 eggs are left.            16-3-4 -> 9         a chain: its last number
    Let x be the price.                               none

Where a step has annotations they alone are read: the sentence around them says the same again. In a sentence
an equation is `... = number`; what stands before the `=` is its expression where it gives that number,
rounding allowed. Signs in any script (× ÷ − ½), currency, thousands separators, percentages and units are
understood. Values are exact fractions, so that a chain of steps can be computed anew with other numbers.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from codi.data.arithmetic import Expression
from codi.data.example import Example

LONGEST_EXPRESSION = 128
"""More numbers and signs than that are no step of a word problem."""


@dataclass(frozen=True, slots=True)
class Equation:
    """One `expression = result`.

    result: its value; said: the number as it is written, without separators and signs of money or percent
    (`20` for `20 %`); expression: None where it could not be read.
    """

    expression: Expression | None
    result: Fraction
    said: str

    @property
    def exact(self) -> bool:
        """Whether the expression gives the result, without rounding."""
        return self.expression is not None and self.expression.value() == self.result


class UnreadableEquation(ValueError):
    """An annotation `<<...>>` that holds no number as its result."""


def equations(step: str) -> list[Equation]:
    """The equations of one step, in order. Raises UnreadableEquation for an annotation without a result."""
    annotations = _ANNOTATION.findall(step)
    if annotations:
        return [_annotated(text) for text in annotations]
    return _in_prose(step)


def all_equations(example: Example) -> list[Equation]:
    """The equations of all steps, in order. Raises UnreadableEquation as `equations` does."""
    return [equation for step in example.steps for equation in equations(step)]


def intermediate(example: Example) -> list[Equation] | None:
    """The equations before the one whose result is the answer, which is the last of all.

    Where no result is the answer and the last step has no equation ("Then it is three times that."), all come
    before it. None where the last equation gives another number than the answer: a step that was left out, a
    rounding, other units, a check at the end; which results come before the answer is not known then.
    Raises UnreadableEquation as `equations` does.
    """
    found = all_equations(example)
    answer = number_of(example.answer)
    is_answer = [
        answer is not None and answer in (equation.result, number_of(equation.said)) for equation in found
    ]
    if not found or is_answer[-1]:
        return found[:-1]
    return None if any(is_answer) or equations(example.steps[-1]) else found


def number_of(text: str) -> Fraction | None:
    """The value of a text that is one number, with or without currency, separators and percent sign."""
    plain = _plain(text).strip()
    found = _AFTER_EQUALS.match(plain)
    if found is None or plain[found.end() :].strip(" ."):
        return None
    return _value(found)


def numbers_in(text: str) -> list[Fraction]:
    """Every number of a text in order, those written as words (`three`, `dozen`, `half`) among them."""
    found = []
    for part in _PART.finditer(_plain(text)):
        word = (part["word"] or "").lower()
        if part["number"] is not None:
            found.append(_operand(part))
        elif word in _NUMBER_WORDS:
            found.append(Fraction(_NUMBER_WORDS[word]))
    return found


# --- reading ------------------------------------------------------------------------------------------------

_ANNOTATION = re.compile(r"<<(.*?)>>")
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_FRACTION = r"\d+\s*/\s*\d+(?![\d.])"
_MONEY = "$€£¥₹"
_SIGN = rf"~?\s*[-+]?\s*[{_MONEY}]?\s*[-+]?"
# The number right after an equals sign: `-$1,200.50`, `20 %`, `2 1/2`, `1/2`.
_AFTER_EQUALS = re.compile(
    rf"\s*(?P<sign>{_SIGN})\s*(?:(?P<mixed>\d+)\s+(?P<part>{_FRACTION})|(?P<fraction>{_FRACTION})"
    rf"|(?P<number>{_DIGITS}))(?P<percent>\s*%)?"
)
_PART = re.compile(
    rf"(?P<mixed>(?<![\d.,])\d+\s+(?P<part>\d+\s*/\s*\d+)(?![\d.]))|(?P<number>{_DIGITS})"
    r"|(?P<word>[^\W\d_]+(?:['’-][^\W\d_]+)*)|(?P<sign>\*\*|//|[-+*/^()%])|(?P<break>[;:?!,]|\.(?!\d))"
)
# `10h`, `2p/5`, `20 + d`
_UNKNOWN_FOLLOWS = re.compile(r"[^\W\d_](?![^\W\d_])|\s*[-+*/]\s*(?:[\d.]*\s*)[^\W\d_](?![^\W\d_])")
_SAME_SIGN = str.maketrans(
    {
        **dict.fromkeys("×∗⋅·✕✖•", "*"),
        **dict.fromkeys("÷∕⁄", "/"),
        **dict.fromkeys("−–—‒﹣", "-"),
        **dict.fromkeys("[{", "("),
        **dict.fromkeys("]}", ")"),
        "≈": "=",
        "＝": "=",
        "\u00a0": " ",
        "\u202f": " ",
        "\u2009": " ",
    }
)
_SPELT_SIGNS = {"x": "*", "times": "*", "of": "*", "plus": "+", "minus": "-"}
_NUMBER_WORDS = {
    word: value
    for value, words in {
        "0": "zero", "1": "one once single", "2": "two twice double couple pair", "3": "three thrice triple",
        "4": "four", "5": "five", "6": "six", "7": "seven week", "8": "eight", "9": "nine", "10": "ten",
        "11": "eleven", "12": "twelve dozen", "13": "thirteen", "14": "fourteen", "15": "fifteen",
        "16": "sixteen", "17": "seventeen", "18": "eighteen", "19": "nineteen", "20": "twenty",
        "30": "thirty", "40": "forty", "50": "fifty", "60": "sixty", "70": "seventy", "80": "eighty",
        "90": "ninety", "100": "hundred", "1/2": "half", "1/3": "third", "1/4": "quarter",
    }.items()
    for word in words.split()
}  # fmt: skip


def _plain(text: str) -> str:
    """One way to write each sign: × as *, − as -, ½ as 1/2, full-width digits as digits."""
    pieces = []
    for letter in text:
        name = unicodedata.name(letter, "") if unicodedata.category(letter) == "No" else ""
        plain = unicodedata.normalize("NFKC", letter)
        if "FRACTION" in name:
            letter = f" {plain} "  # 2½ is 2 1/2, not 21/2
        elif name.startswith("SUPERSCRIPT"):
            letter = f"^{plain}"
        pieces.append(letter)
    return unicodedata.normalize("NFKC", "".join(pieces)).translate(_SAME_SIGN)


def _value(found: re.Match[str]) -> Fraction:
    if found["mixed"] is not None:
        value = Fraction(found["mixed"]) + _ratio(found["part"])
    elif found["fraction"] is not None:
        value = _ratio(found["fraction"])
    else:
        value = Fraction(found["number"].replace(",", ""))
    value = -value if found["sign"].count("-") % 2 else value
    return value / 100 if found["percent"] else value


def _ratio(text: str) -> Fraction:
    above, below = (int(part) for part in text.split("/"))
    return Fraction(above, below) if below else Fraction(0)


def _operand(part: re.Match[str]) -> Fraction:
    if part["mixed"] is not None:
        return Fraction(part["mixed"].split()[0]) + _ratio(part["part"])
    return Fraction(part["number"].replace(",", ""))


def _said(found: re.Match[str]) -> str:
    negative = "-" if found["sign"].count("-") % 2 else ""
    text = found["number"] or found["fraction"] or f"{found['mixed']} {found['part']}"
    return negative + text.replace(",", "")


def _annotated(text: str) -> Equation:
    """`left=result`, with roundings between: `35*1/3=11.67=11.67`."""
    left, *others = _plain(text).split("=")
    result = _AFTER_EQUALS.match(others[-1]) if others else None
    if result is None or others[-1][result.end() :].strip(" .") or _ends_in_zero_ratio(result):
        raise UnreadableEquation(text)
    expressions = [one for side in (left, *others[:-1]) if (one := _expression(_parts(side))) is not None]
    return _first_that_gives(result, lambda value: (one for one in expressions if _gives(one, value, result)))


def _in_prose(step: str) -> list[Equation]:
    sides = _plain(step).split("=")
    found: list[Equation] = []
    begun = 0  # the first side of the chain under way
    for place in range(1, len(sides)):
        result = _AFTER_EQUALS.match(sides[place])
        if result is None or _ends_in_zero_ratio(result):
            begun = place
            continue
        goes_on = place + 1 < len(sides) and _goes_on(sides[place])
        if goes_on and not _runs_on(sides[place - 1], result):
            continue  # `16 - 3 - 4 = 13 - 4 = 9`: the number is part of an expression
        chain = sides[begun:place]
        equation = _first_that_gives(
            result,
            lambda value, chain=chain, result=result: (  # type: ignore[misc]
                one for side in chain if (one := _before_equals(side, value, result)) is not None
            ),
        )
        if equation.expression is not None or not _is_algebra(sides[place - 1], result):
            found.append(equation)
        begun = place
    return found


def _first_that_gives(result: re.Match[str], fitting: Callable[[Fraction], Iterator[Expression]]) -> Equation:
    """The equation of a result and the first expression that gives it. `100 - 50 = 50%` gives 50, not 0.5."""
    value, said = _value(result), _said(result)
    for meant in (value, value * 100) if result["percent"] else (value,):
        expression = next(fitting(meant), None)
        if expression is not None:
            return Equation(expression, meant, said)
    return Equation(None, value, said)


def _is_algebra(before: str, result: re.Match[str]) -> bool:
    """`2d = 40`, `c = 20 + d`: says something of an unknown, but not what it is (`d = 20` does)."""
    after = result.string[result.end() :]
    if _UNKNOWN_FOLLOWS.match(after):
        return True
    clause: list[re.Match[str]] = []
    for part in _PART.finditer(before):
        clause = [] if part["break"] is not None else [*clause, part]
    unknown = any(len(part["word"] or "") == 1 and part["word"] not in "aAI" for part in clause)
    return unknown and any(part["number"] is not None or part["sign"] is not None for part in clause)


def _ends_in_zero_ratio(found: re.Match[str]) -> bool:
    ratio = found["part"] or found["fraction"]
    return ratio is not None and int(ratio.split("/")[1]) == 0


def _goes_on(side: str) -> bool:
    """Whether all that stands between two equals signs is one expression with an operator."""
    expression = _expression(_parts(side))
    return expression is not None and len(expression.operands) > 1


def _runs_on(before: str, result: re.Match[str]) -> bool:
    """`3*5 = 15+2 = 17`: two equations run together; the first number is a result all the same."""
    whole = _expression(_parts(result.string))
    value = _value(result)
    if whole is None or whole.value() == value:
        return False
    return _before_equals(before, value, result) is not None


def _before_equals(side: str, value: Fraction, result: re.Match[str]) -> Expression | None:
    """The longest end of `side` that is an expression with this value."""
    parts = _parts(side)[-LONGEST_EXPRESSION:]
    for start in range(len(parts)):
        expression = _expression(parts[start:])
        if expression is not None and len(expression.operands) > 1 and _gives(expression, value, result):
            return expression
    return None


def _gives(expression: Expression, value: Fraction, result: re.Match[str]) -> bool:
    """Whether the expression's value is the result, rounded as the result is written."""
    computed = expression.value()
    if computed is None:
        return False
    decimals = len((result["number"] or "").partition(".")[2])
    allowed = Fraction(1, 2 * 10**decimals) / (100 if result["percent"] else 1)
    return abs(computed - value) <= allowed


@dataclass(frozen=True, slots=True)
class _Part:
    """A number, a sign, or (both None) something that an expression cannot go across."""

    number: Fraction | None = None
    sign: str | None = None


def _parts(side: str) -> list[_Part]:
    """Numbers and signs; units and other words left out, `x`, `times` and `of` between numbers as signs."""
    found = list(_PART.finditer(side))
    parts: list[_Part] = []
    for place, part in enumerate(found):
        following = found[place + 1] if place + 1 < len(found) else None
        if part["number"] is not None or part["mixed"] is not None:
            parts.append(_Part(number=_operand(part)))
        elif part["sign"] is not None:
            if not _is_unit_sign(side, part):
                parts.append(_Part(sign={"**": "^"}.get(part["sign"], part["sign"])))
        elif part["break"] is not None:
            parts.append(_Part())
        elif (sign := _SPELT_SIGNS.get(part["word"].lower())) and _between_numbers(parts, following):
            parts.append(_Part(sign=sign))
    return parts


def _is_unit_sign(side: str, part: re.Match[str]) -> bool:
    """`GB/minute`, `3-year`: a sign that joins words, not numbers."""
    return part["sign"] in "-/" and side[part.end() : part.end() + 1].isalpha()


def _between_numbers(parts: list[_Part], following: re.Match[str] | None) -> bool:
    before = parts[-1] if parts else _Part()
    ends = before.number is not None or before.sign in (")", "%")
    if following is None or not ends:
        return False
    return following["number"] is not None or following["mixed"] is not None or following["sign"] == "("


def _expression(parts: Sequence[_Part]) -> Expression | None:
    """The parts as one expression; None where they are none."""
    if not 0 < len(parts) <= LONGEST_EXPRESSION or any(
        part.number is None and part.sign is None for part in parts
    ):
        return None
    signs = tuple("#" if part.number is not None else str(part.sign) for part in parts)
    expression = Expression(signs, tuple(part.number for part in parts if part.number is not None))
    return expression if expression.value() is not None else None
