"""Words of a tokenizer as matplotlib can draw them: nothing taken for mathematics, a font for every script.

    axis.set_xticks(places, [shown(word) for word in words], **lettering(words))
    say_what_is_missing(figure, words)

`$`, `_`, `^` and the backslash are letters here. A character that matplotlib's own font lacks is drawn with
an installed font that has it, found by what fonts can draw, not by name; where there is none it becomes □,
and the figure says which characters those are. Right-to-left scripts are set by matplotlib (from 3.11 on in
their own direction; before that letter by letter from the left).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import Any

from matplotlib import font_manager
from matplotlib.figure import Figure

OWN_FONT = "DejaVu Sans"
"""It comes with matplotlib, so it is always there."""
LABEL_CELLS = 16
"""Most cells of a label; a wide character takes two."""
NO_GLYPH, CUT = "□", "…"
MOST_NAMED = 6
_MARKS_IN_A_ROW = 4
_CONTROL = {"\n": "↵", "\r": "↵", "\t": "⇥"}


def shown(text: str, cells: int = LABEL_CELLS) -> str:
    """The text as it is drawn: control characters visible, what has no font as □, cut to so many cells."""
    pieces: list[str] = []
    used = marks = 0
    for letter in text:
        piece = _drawn(letter)
        is_mark = unicodedata.category(letter).startswith("M")
        marks = marks + 1 if is_mark else 0
        if marks > _MARKS_IN_A_ROW:
            continue
        width = 0 if is_mark else sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in piece)
        if used + width > cells:
            while pieces and used + 1 > cells:
                used -= max(1, len(pieces.pop()))
            return "".join(pieces) + CUT
        pieces.append(piece)
        used += width
    return "".join(pieces)


def lettering(texts: Iterable[str]) -> dict[str, Any]:
    """Options of matplotlib's text for these texts: their fonts, and no mathematics."""
    found = (_font_with(letter) for letter in sorted(_letters(texts)))
    others = dict.fromkeys(family for family in found if family not in (None, OWN_FONT))
    return {"fontfamily": [OWN_FONT, *others], "parse_math": False}


def undrawable(texts: Iterable[str]) -> list[str]:
    """The characters of these texts that no installed font has, each once."""
    return [letter for letter in sorted(_letters(texts)) if _drawn(letter) == NO_GLYPH]


def say_what_is_missing(figure: Figure, texts: Iterable[str]) -> None:
    """Write below the figure which characters it could not draw, if any."""
    missing = undrawable(texts)
    if missing:
        figure.supxlabel(
            f"{NO_GLYPH}: no font here has {in_code_points(missing)}", fontsize=7, color="#5b6b7b"
        )


def in_code_points(letters: list[str]) -> str:
    """`U+4E2D, U+6587 and 12 more`."""
    named = ", ".join(f"U+{ord(letter):04X}" for letter in letters[:MOST_NAMED])
    more = len(letters) - MOST_NAMED
    return named + (f" and {more} more" if more > 0 else "")


def _letters(texts: Iterable[str]) -> set[str]:
    return {letter for text in texts for letter in text}


def _drawn(letter: str) -> str:
    """One character as it is drawn, maybe by several or none."""
    if letter in _CONTROL:
        return _CONTROL[letter]
    kind = unicodedata.category(letter)
    if kind == "Cc":
        return f"\\x{ord(letter):02x}"
    if kind == "Cs":
        return f"\\u{ord(letter):04x}"
    if kind == "Cf" or "\ufe00" <= letter <= "\ufe0f":
        return ""  # direction marks, joiners and the like have no look of their own
    return NO_GLYPH if _font_with(letter) is None else letter


@cache
def _font_with(letter: str) -> str | None:
    """The family of a font that can draw the letter; matplotlib's own if it can."""
    if letter in " \u00a0" or ord(letter) in _letters_of(font_manager.findfont(OWN_FONT)):
        return OWN_FONT
    for family, path in _other_fonts():
        if ord(letter) in _letters_of(path):
            return family
    return None


@cache
def _other_fonts() -> list[tuple[str, str]]:
    """(family, file) of the installed fonts, upright and sans serif ones first."""

    def rank(entry: font_manager.FontEntry) -> tuple[bool, bool, bool, bool, str]:
        upright = entry.style == "normal" and entry.weight in (400, "normal", "regular")
        name = entry.name
        return (not upright, not name.startswith("Noto Sans"), "Sans" not in name, "Mono" in name, name)

    left_out = ("Last Resort", "DejaVu Sans", "cm", "STIXNonUnicode", "STIXSize")
    entries = [e for e in font_manager.fontManager.ttflist if not e.name.startswith(left_out)]
    return list(dict.fromkeys((entry.name, entry.fname) for entry in sorted(entries, key=rank)))


@cache
def _letters_of(path: str) -> frozenset[int]:
    """The code points a font file has outlines for; none where it cannot be read or holds pictures only."""
    try:
        font = font_manager.get_font(path)
    except (OSError, RuntimeError):  # a damaged file among the installed ones is passed over
        return frozenset()
    return frozenset(font.get_charmap()) if font.scalable else frozenset()
