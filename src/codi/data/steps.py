"""Splitting a written rationale into its reasoning steps.

CODI's teacher reads the rationale without its last step (paper, Section 4.1), so where one step ends and the
next begins decides what is learned. The published code splits at single characters, which breaks decimals
and abbreviations in natural language; its rules are kept under their own names for the exact recipe.

Joining the steps with one space gives the rationale again, white space folded (for the published rules:
unchanged). What only lays a list out is left out: commas and semicolons between equations, the numbers and
bullets of lines, headings, "Let's think step by step.", the frame of an `align` environment; and under
'equations' all other text.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

from codi.data.rationale_lines import VISIBLE, formulas_in, rationale_lines
from codi.data.titles import is_opening
from codi.errors import UsageError, nearest

StepsRule = Literal["auto", "equations", "sentences", "published-spaces", "published-sentences"]
STEPS_RULES: tuple[str, ...] = get_args(StepsRule)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_EQUATION = re.compile(r"<<(?:[^<>\n]++|<(?!<)|>(?!>))*+>>")

# Where a sentence may end: its punctuation, closing quotes or brackets, then space and what follows. The full
# stops of other alphabets need no space after them.
_POSSIBLE_END = re.compile(r"""(?P<mark>[.!?]+|…)(?P<closing>(?:["'”’)\]*$]|\\[)\]])*)\s+(?=(?P<next>\S+))""")
_ANY_END = re.compile(
    _POSSIBLE_END.pattern + r"""|(?:[。！？｡।॥؟۔።။។]|．(?!\d))+["'”’)\]」』）》]*+\s*+(?=[^\sと])"""
)

# Always followed by what they belong to; titles only with a capital ("Rep. Lee", but "one more rep. Then").
_TITLES = _words("Mr Mrs Ms Mx Dr Prof Rev Hon Gen Col Capt Lt Sgt Gov Sen Rep St Mt")
_LEADING = _words("e.g i.e eg ie vs approx ca cf mr mrs ms dr ans")
# May end a sentence; then the next one starts with a capital.
_TRAILING = _words(
    "etc jr sr inc ltd co corp dept est a.m p.m am pm hr hrs min mins sec secs wk wks mo yr yrs lb lbs oz ft "
    "in yd yds mi sq cu gal qt pt pts tsp tbsp km cm mm kg mg ml kcal cal doz no nos vol pp ave blvd rd jan "
    "fig eq feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri sat sun"
)
# Initials (U.S., J.) stand before names as often as at the end: only these words open a sentence after them.
_OPENERS = _words(
    "a after all also an and as at because before but by each finally first for from he hence her his how if "
    "in it its let next no now on one since so that the their then there therefore these they this thus to "
    "we when with you your she"
)
_INITIALS = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]|[A-Z]")
# "1. Add the eggs.": a number that opens a sentence counts it.
_LIST_MARKER = re.compile(r"(?:step\s+)?\d{1,2}", re.IGNORECASE)
# "3+4=7, 7*2=14": equations without brackets and with nothing but commas, semicolons or space between.
_NUMBER = r"(?:\d{1,3}(?:,\d{3})++(?!\d)(?:\.\d++)?|\d++(?:\.\d++)?|\.\d++)"
_TERM = rf"[-−+(]*+[$€£]?(?:{_NUMBER}[A-Za-z]?|[A-Za-z])%?\)*+"
_SIDE = rf"{_TERM}(?:\s*[-−+*/×÷·^x]\s*{_TERM})*"
_PLAIN_EQUATION = re.compile(rf"{_SIDE}(?:\s*[=≈]\s*{_SIDE})+")
_PLAIN_EQUATIONS = re.compile(
    rf"\s*{_PLAIN_EQUATION.pattern}(?:(?:\s*[,;|→]\s*|\s+)(?:and\s+|then\s+|[-=]>\s*)?{_PLAIN_EQUATION.pattern})+\s*[,;]?\s*"
)
# "5! = 120", "3 . + 4": what follows carries on a formula.
_CONTINUES_FORMULA = tuple("=+*/×÷^%,;:)]")


def split_steps(rationale: str, rule: StepsRule = "auto") -> tuple[str, ...]:
    """Split `rationale` into its reasoning steps.

    Args:
        rationale: the written chain of thought; nothing but white space gives no steps.
        rule: how to split:
            'auto': 'equations' where the text holds only `<<..>>` equations, one a step where it holds only
            plain ones (3+4=7, 7*2=14), else 'sentences';
            'equations': each `<<..>>`, with or without spaces between; other text is left out;
            'sentences': lines where there are several, else sentences, so that decimals (3.5), amounts
            ($4.50.), abbreviations (Mr., e.g., U.S.) and ellipses survive;
            'published-spaces': the published code's rule for GSM8k-Aug: split at every single space;
            'published-sentences': its rule for natural language: split at every '. ', wherever it stands
            (the full stop stays with its step, so that steps join with a space).

    Raises:
        UsageError: unknown rule.
    """
    if rule not in STEPS_RULES:
        raise UsageError(
            f"Unknown rule '{rule}' for splitting steps.{nearest(rule, STEPS_RULES)} "
            f"Rules: {', '.join(STEPS_RULES)}."
        )
    if not rationale.strip():
        return ()
    if rule == "published-spaces":
        return tuple(rationale.split(" "))
    if rule == "published-sentences":
        return tuple(re.split(r"(?<=\.) ", rationale))
    rationale = _without_brackets(rationale)
    if rule == "equations" or (rule == "auto" and _only_equations(rationale)):
        return tuple(_EQUATION.findall(rationale))
    if rule == "auto" and "=" in rationale and _PLAIN_EQUATIONS.fullmatch(rationale):
        return tuple(found[0].strip() for found in _PLAIN_EQUATION.finditer(rationale))
    lines = rationale_lines(rationale)
    # Line breaks are the writer's own marks (GSM8K puts one step on each line), surer than punctuation.
    steps = tuple(lines) if len(lines) > 1 else sentences(lines[0]) if lines else ()
    steps = tuple([step for step in steps if not is_opening(step)])
    return steps if rationale.isascii() else tuple(filter(VISIBLE.search, steps))


def _without_brackets(rationale: str) -> str:
    """What stands in "[3+4=7, 7*2=14]", a list of equations without quotes; else the text as it is."""
    text = rationale.strip()
    if not (text.startswith("[") and text.endswith("]") and "=" in text):
        return rationale
    inside = text[1:-1]
    plain = _PLAIN_EQUATIONS.fullmatch(inside) or _PLAIN_EQUATION.fullmatch(inside)
    return inside if plain or _only_equations(inside) else rationale


def without_annotations(step: str) -> str:
    """GSM8K's step without its calculator annotations: "= <<48/2=24>>24 clips" is "= 24 clips".

    A result that the sentence does not repeat takes the place of its annotation; a step that is nothing but
    equations stays.
    """
    if "<<" not in step or _only_equations(step):
        return step
    return _ANNOTATION.sub(_result_where_missing, step)


def annotation_results(text: str) -> str:
    """`text` with the results of its annotations in place of them: '<<3+4=7>>7 pens' and '<<3+4=7>> pens' are
    '7 pens'."""
    return _ANNOTATION.sub(_result_where_missing, text)


def _result_where_missing(found: re.Match[str]) -> str:
    result = found["equation"].rpartition("=")[2].strip()
    repeated = found["after"] is not None or found.string[: found.start()].rstrip().endswith(result)
    return "" if repeated else result


_ANNOTATION = re.compile(
    r"<<(?P<equation>(?:[^<>\n]++|<(?!<)|>(?!>))*+)>>(?P<after>(?=\s*[-−]?[$€£]?\s*\.?\d))?"
)


def _only_equations(text: str) -> bool:
    return text.lstrip().startswith("<<") and not _EQUATION.sub("", text).strip(" \t\r\n,;|")


def sentences(line: str) -> tuple[str, ...]:
    """The sentences of one line; joined with a space they are the line, white space folded."""
    found: list[str] = []
    start = 0
    formulas = iter(formulas_in(line))
    begin, stop = next(formulas, (-1, -1))
    for end in (_POSSIBLE_END if line.isascii() else _ANY_END).finditer(line):
        while 0 <= stop <= end.start():
            begin, stop = next(formulas, (-1, -1))
        if begin < end.start() < stop - 2:
            continue
        if end["mark"] is None or _ends_sentence(
            line[start : end.start()], end["mark"], end["closing"], end["next"]
        ):
            found.append(line[start : end.end()].strip())
            start = end.end()
    return (*found, line[start:])


def _ends_sentence(before: str, mark: str, closing: str, following: str) -> bool:
    """Whether `mark` ends the sentence `before`, given the next word."""
    if following.startswith(_CONTINUES_FORMULA):
        return False
    opens_with = following.lstrip("\"'“‘([$<")[:1]
    if mark == "…" or len(mark) > 1 or (mark != "." and closing):  # 1, 2, ... 10; "How many?" he asked
        return opens_with.isupper()
    if mark != "." or closing:
        return not opens_with.islower()
    if _LIST_MARKER.fullmatch(before.strip()):
        return False
    if before[-1:].isspace() and before.rstrip()[-1:].isdigit() and following[:1].isdigit():
        return False  # "3 . 5": a decimal taken apart, or two sentences
    word = before.rsplit(maxsplit=1)[-1].lstrip("\"'“‘([$") if before.strip() else ""
    # "12ft.", "3lbs.": the unit without its number.
    bare = word.lower().lstrip("0123456789.,/")
    if word in _TITLES or bare in _LEADING:
        return False
    if bare in _TRAILING:
        # "No. 5" numbers; "No. Five" answers.
        return opens_with.isupper()
    if _INITIALS.fullmatch(word):
        return re.sub(r"\W+$", "", following).lower() in _OPENERS and opens_with.isupper()
    return True
