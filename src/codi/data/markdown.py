"""Markdown, as chat models write it, read as the plain lines that its writer meant.

    ### Step 1: the rolls
    - There are **6 trays** of *8*.         There are 6 trays of 8.
    ```                                     6 * 8 = 48
    6 * 8 = 48
    ```

Line breaks stay where they are: they are the writer's own marks of where a step ends. Numbers of lists stay
for `codi.data.steps`, which reads them; titles are left out where anything else stands. Products (2*3*4),
powers (2**3), names_with_underscores and formulas are no marks.
"""

from __future__ import annotations

import html
import re

from codi.data.rationale_lines import formulas_in
from codi.data.titles import HEADING, is_announcement, is_frame, is_title

_QUOTE = re.compile(r"\s{0,3}(?:>\s?)+(?=\s*[^\W\d_]|\s*$|.*[=*_`#-])")
_LEADING_LABEL = re.compile(
    r"[\s*_]*(?:reasoning|rationale|solution|explanation|thought process)\s*[*_]*\s*:[\s*_]+", re.IGNORECASE
)
_BULLET = re.compile(r"\s*(?P<mark>[-*+•‣◦–·▪●])\s+(?=\S)")
_TABLE_FRAME = re.compile(r"\s*\|?\s*:?-{2,}:?\s*(?:\|\s*:?-{2,}:?\s*)*\|?\s*")
_ROW_NUMBER = re.compile(r"(?:step\s*)?\d{1,2}[.)]?", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[\da-f]{1,6}|[a-z]{2,8}\d?);", re.IGNORECASE)
_TAG = re.compile(
    r"</?(?:b|i|u|s|em|strong|code|mark|span|small|details|summary|pre)\b[^<>]*>", re.IGNORECASE
)

_BEFORE, _AFTER = r"(?<![A-Za-z0-9)\]}*_])", r"(?![A-Za-z0-9(*_])"
_INLINE = (
    (re.compile(r"!\[[^\]]*\]\([^()\s]*\)"), ""),
    (re.compile(r"\[(?P<inside>[^\[\]]+)\]\((?:https?:|#|/)[^()\s]*\)"), r"\g<inside>"),
    (re.compile(r"(?P<ticks>`+)(?P<inside>[^`]+)(?P=ticks)"), r"\g<inside>"),
    (re.compile(rf"{_BEFORE}\*{{3}}(?=[^\s*])(?P<inside>.+?)(?<=[^\s*])\*{{3}}{_AFTER}"), r"\g<inside>"),
    (re.compile(rf"{_BEFORE}\*\*(?=[^\s*])(?P<inside>.+?)(?<=[^\s*])\*\*(?![A-Za-z0-9(])"), r"\g<inside>"),
    (re.compile(rf"{_BEFORE}\*(?=[^\s*])(?P<inside>[^*]+?)(?<=[^\s*])\*{_AFTER}"), r"\g<inside>"),
    (re.compile(r"(?<!\w)__(?=[^\s_])(?P<inside>.+?)(?<=[^\s_])__(?!\w)"), r"\g<inside>"),
    (re.compile(r"(?<!\w)_(?=[^\s_])(?P<inside>[^_]+?)(?<=[^\s_])_(?!\w)"), r"\g<inside>"),
    (re.compile(r"~~(?=\S)(?P<inside>.+?)(?<=\S)~~"), r"\g<inside>"),
    # A pair that lost its other half; `2 ** 3` and `2**3` are powers.
    (re.compile(r"(?<![\w)*\]])(?<![\w)]\s)\*{2,3}(?!\*)"), ""),
    (re.compile(r"(?<=\S)\*{2,3}(?=\s*$)|(?<=[.!?:;,])\*{2,3}(?=\s)"), ""),
    (re.compile(r"\\(?=[*`~])"), ""),
)  # fmt: skip


def plain_text(text: str) -> str:
    """`text` without Markdown: no emphasis, headings, bullets, fences, rules, quotes, tables or links.

    A row of a table is one line, its cells set apart by commas; a heading and a line that only says what
    follows ("Solution:") are left out, unless nothing else would be left.
    """
    lines = _without_tables([_unquoted(line) for line in text.splitlines()])
    lines = [line for line in lines if not is_frame(line)]
    kept = [line for line in lines if not (is_title(line) or is_announcement(line))]
    if not any(map(str.strip, kept)):
        kept = lines
    marks = [bullet["mark"] for bullet in map(_BULLET.match, kept) if bullet]
    plain = [_inline(_without_bullet(line, marks)).rstrip() for line in kept]
    first = next((index for index, line in enumerate(plain) if line.strip()), None)
    if first is not None:
        plain[first] = _LEADING_LABEL.sub("", plain[first], count=1) or plain[first]
    return "\n".join(plain).strip("\n")


def _unquoted(line: str) -> str:
    return _QUOTE.sub("", line, count=1) if line.lstrip().startswith(">") else line


def _heading_text(line: str) -> str:
    heading = HEADING.fullmatch(line)
    return line if heading is None else heading["title"]


def _without_bullet(line: str, marks: list[str]) -> str:
    """A lone "- 30 = 18" takes 30 away; with words, or among others of its kind, it is an item."""
    line = _heading_text(line)
    bullet = _BULLET.match(line)
    if bullet is None:
        return line
    rest = line[bullet.end() :]
    several = marks.count(bullet["mark"]) > 1
    if bullet["mark"] in "+-*–" and not several and re.search(r"[^\W\d_]{2,}", rest) is None:
        return line
    return rest


def _without_tables(lines: list[str]) -> list[str]:
    """Each row of a table as a line of its cells; its head and its frame left out."""
    found: list[str] = []
    inside = False
    for line in lines:
        if "|" in line and "-" in line and _TABLE_FRAME.fullmatch(line):
            if not inside and found and "|" in found[-1]:
                found.pop()
            inside = True
        elif inside and "|" in line:
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
            if len(cells) > 1 and _ROW_NUMBER.fullmatch(cells[0].strip("*_ ")):
                cells = cells[1:]
            found.append(", ".join(filter(None, cells)))
        else:
            inside = False
            found.append(line)
    return found


def _inline(line: str) -> str:
    """A line without emphasis, code marks, links and tags; what stands in formulas stays."""
    formulas = [line[start:end] for start, end in formulas_in(line)]
    for number, formula in enumerate(formulas):
        line = line.replace(formula, f"\0{number}\0", 1)
    line = _TAG.sub("", line)
    line = _ENTITY.sub(lambda entity: html.unescape(entity[0]), line)
    for pattern, replacement in _INLINE:
        line = pattern.sub(replacement, line)
    for number, formula in enumerate(formulas):
        line = line.replace(f"\0{number}\0", formula, 1)
    return line
