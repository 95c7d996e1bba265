"""The numbers of items, of any script: 1. 1) (1) Step 1: 1、 １． （一） 一、 ① 第一步："""

from __future__ import annotations

import re
from typing import NamedTuple

_HAN = "一二三四五六七八九十"
_CIRCLED = "①②③④⑤⑥⑦⑧⑨⑩⑪⑫⑬⑭⑮⑯⑰⑱⑲⑳"
_NUMBER = rf"\d{{1,2}}|[{_HAN}]{{1,3}}"
# What needs no space after it, as in Chinese and Japanese.
_EAST_ASIAN = (
    rf"(?:（\s*(?P<bracketed>{_NUMBER})\s*）|\((?P<han>[{_HAN}]{{1,3}})\))|(?P<comma>{_NUMBER})\s*、"
    rf"|(?P<wide>[０-９]{{1,2}}|[{_HAN}]{{1,3}})\s*(?:[．：)）](?![０-９])|[.:](?!\d))|(?P<circled>[{_CIRCLED}])[.、．]?"
    rf"|第\s*(?P<ordinal>{_NUMBER})\s*(?:步|个步骤|ステップ)\s*[：:，,、.．]?"
)
_LABEL = re.compile(
    r"\s*(?P<mark>\*{2}|__|#+\s*)?(?:(?:step|Step|STEP)\s*(?P<step>\d{1,2})\s*(?:[.:)\]]|[-–—](?=\s)|$)"
    rf"|\(?(?P<item>\d{{1,2}})[.)\]:](?=\s)|{_EAST_ASIAN})\s*"
)
_IN_LINE = re.compile(
    r"(?:^|(?<=\s))\(?(?P<item>\d{1,2})\)\s+"
    # Behind a full stop a number may be a sentence's last word: "He has 2. Then ..."
    r"|(?:^\s*|(?<=[\d.;,:!?)>\]])\s+)(?P<point>\d{1,2})\.\s+"
    rf"|(?:^|(?<=[\s。；;，,！？!?.]))(?:{_EAST_ASIAN})"
)
_WIDTHS = re.compile(r"[^\x00-\x7f]")


class ItemNumber(NamedTuple):
    """end: where the item itself begins; mark: the emphasis before the number."""

    number: int
    end: int
    mark: str


def item_number(line: str) -> ItemNumber | None:
    """The number that `line` begins with as an item of a list; None without one."""
    found = _LABEL.match(line)
    return None if found is None else ItemNumber(_value(found), found.end(), (found["mark"] or "").strip())


def in_line_items(line: str) -> list[str]:
    """The items of "1) 3+4=7 2) 7*2=14"; the line itself where there are none."""
    if not (")" in line or ". " in line or _WIDTHS.search(line)):
        return [line]
    labels = list(_IN_LINE.finditer(line))
    if len(labels) < 2 or line[: labels[0].start()].strip():
        return [line]
    kind = labels[0].lastgroup
    labels = [label for label in labels if label.lastgroup == kind]
    if len(labels) < 2 or [_value(label) for label in labels] != list(range(1, len(labels) + 1)):
        return [line]
    if kind == "point" and all(line[: label.start()].rstrip()[-1] in ".!?" for label in labels[1:]):
        return [line]  # sentences, which end by themselves
    ends = [*(label.start() for label in labels[1:]), len(line)]
    return [line[label.end() : end].strip().rstrip("；;") for label, end in zip(labels, ends, strict=True)]


def _value(found: re.Match[str]) -> int:
    text = next(value for name, value in found.groupdict().items() if value and name != "mark")
    if text in _CIRCLED:
        return _CIRCLED.index(text) + 1
    if text[0] not in _HAN:
        return int(text)
    tens, ten, ones = text.rpartition("十")
    return (10 * (_HAN.index(tens) + 1 if tens else 1) if ten else 0) + (_HAN.index(ones) + 1 if ones else 0)
