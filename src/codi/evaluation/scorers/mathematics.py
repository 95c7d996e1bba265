"""Mathematical answers, compared by math-verify: fractions, LaTeX, sets, intervals, expressions."""

from __future__ import annotations

import atexit
import re
import unicodedata
from functools import lru_cache

from codi.data.numbers import plain_number, written
from codi.evaluation.scorers.scorer import Scorer
from codi.evaluation.scorers.verifier import Verifier

_DATE = re.compile(r"\d{1,4}([/.-])\d{1,2}\1\d{1,4}")
_NOT_WORDS = re.compile(r"\\(?:text|textrm|textbf|mathrm|mbox|operatorname)\s*\{[^{}]*\}|\\[a-zA-Z]+")
_FUNCTIONS = frozenset({"and", "or", "in", "pi", "inf", "sqrt", "sin", "cos", "tan", "log", "ln", "exp"})
_LOOKS = re.compile(
    r"\\[a-zA-Z]+|\\[{%]|[√π∞∪∩±≤≥∈¼-¾⅐-⅞²³]|\^|(?<![a-zA-Z])(?:sqrt|pi)\b"  # LaTeX and the like
    r"|^[-+−]?(?:\d+\s+)?\d+\s*/\s*\d+$"  # 1/2, 3 1/2
    r"|^[(\[{].*\d.*,.*[)\]}]$"  # (2,3), [0, 1), {1, 2}
    r"|^[-+−]?\d+(?:\.\d+)?(?:,\s+[-+−]?\d+(?:\.\d+)?)+$"  # 1, 2
)
_ALGEBRA = re.compile(  # x = 5, 2x + 3: a digit, a letter that stands alone, and what joins them
    r"(?=.*\d)(?=.*(?:\b|\d)[a-z]\b)(?=.*(?:[=<>+*/^-]|\d[a-z]\b))[-+−*/=<>^()\d.,\sa-zA-Z]+"
)
_AS_LATEX = (
    (re.compile(r"(?<![\d.,/])(\d+)\s+(\d+)\s*/\s*(\d+)"), r"\1\\frac{\2}{\3}"),  # 3 1/2
    (re.compile(r"√\s*(\d+|[a-zA-Z])"), r"\\sqrt{\1}"),
    (re.compile(r"√\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![\\a-zA-Z])pi\b|π"), r"\\pi "),
    (re.compile(r"\*\*"), "^"),
    (re.compile("∞"), r"\\infty "),
    (re.compile("∪"), r"\\cup "),
    (re.compile("∩"), r"\\cap "),
    (re.compile("°"), r"^{\\circ}"),
    (re.compile("[−–]"), "-"),
)


def looks_mathematical(text: str) -> bool:
    """Whether `text` is written as mathematics is: LaTeX, a fraction, a tuple, a set, an equation.

    Words and dates are not, whatever digits are in them.
    """
    text = text.strip()
    looks = _LOOKS.search(text) or _ALGEBRA.fullmatch(text)
    return looks is not None and _DATE.fullmatch(text) is None and not _has_words(text)


def _has_words(text: str) -> bool:
    letters = "".join(c if c.isalpha() else " " for c in _NOT_WORDS.sub(" ", text))
    return any(len(word) > 1 and word.casefold() not in _FUNCTIONS for word in letters.split())


class MathScorer(Scorer):
    """Equal where math-verify finds them equal: 3/8, 0.375 and \\frac{3}{8}; (x+1)(x-1) and x^2-1."""

    name = "math"
    describe = "what stands after the answer prompt, compared by math-verify (pip install 'codi[math]')"
    needs = "a mathematical expression"

    def parse(self, text: str) -> str | None:
        """The expression as it was written; None where it is none."""
        answer = self.answer_in(text)
        if answer is None:
            if self.reader is not None and "\\boxed" not in text:
                return None
            answer = text
        answer = answer.strip().rstrip(".").strip()
        return answer if answer and _readable(answer) else None

    def parse_gold(self, gold: str) -> str | None:
        """`gold` where it is a mathematical expression that equals itself; words and dates are none."""
        gold = gold.strip().rstrip(".").strip()
        if not gold or _DATE.fullmatch(gold) or _has_words(gold):
            return None
        return gold if _readable(gold) else None

    def equal(self, value: str, gold: str) -> bool:
        """Plain numbers are compared exactly, everything else by math-verify, to six decimals."""
        ours, theirs = _plain(value), _plain(gold)
        if ours is not None and theirs is not None:
            return ours == theirs
        if value == gold:
            return True
        expected, given = _as_latex(gold), _as_latex(value)
        return expected is not None and given is not None and _VERIFIER.ask(expected, given)


_VERIFIER = Verifier()
atexit.register(_VERIFIER.end)


@lru_cache(maxsize=65536)
def _readable(text: str) -> bool:
    if _plain(text) is not None:
        return True
    latex = _as_latex(text)
    return latex is not None and _VERIFIER.ask(latex)


def _plain(text: str) -> str | None:
    """A plain number written out. 12% is left to math-verify, to which it is 12 as well as 0.12."""
    value = None if "%" in text else plain_number(text)
    return None if value is None else written(value)


def _as_latex(text: str) -> str | None:
    """What people type ('3 1/2', '√2', 'x²', '½') as LaTeX has it.

    None where digits stand apart, as in '1 000': LaTeX would multiply them.
    """
    text = _plain(text) or "".join(map(_spelled, text))
    for pattern, replacement in _AS_LATEX:
        text = pattern.sub(replacement, text)
    return None if re.search(r"\d\s+\d", text) else text


def _spelled(character: str) -> str:
    kind, _, spelled = unicodedata.decomposition(character).partition(" ")
    if kind == "<fraction>":
        over, _, under = unicodedata.normalize("NFKC", character).partition("⁄")
        return rf"\frac{{{over}}}{{{under}}}"
    return f"^{{{chr(int(spelled, 16))}}}" if kind == "<super>" and character in "⁰¹²³⁴⁵⁶⁷⁸⁹" else character
