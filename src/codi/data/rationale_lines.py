"""The lines of a rationale, as its writer laid them out: line breaks of any kind, LaTeX, numbers, bullets.

    1. Add 2 and 3.             Add 2 and 3.
    2. Double                   Double the result.
       the result.
    \\begin{align*}             x = 2 + 3 = 5
    x &= 2 + 3 \\\\             y = 10
      &= 5 \\\\
    y &= 10 \\end{align*}

Headings ("## The rolls", "**Step 2**") and "Let's think step by step." are left out. A formula
(`$..$`, `\\[..\\]`, a matrix) is never cut.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from codi.data.item_numbers import in_line_items, item_number
from codi.data.titles import is_frame, is_opening, is_title, numbered, without_titles

# White space and characters of no width show nothing.
VISIBLE = re.compile(r"[^\s\u200b\u200c\u200d\u2060\ufeff]")
# As Pandoc reads dollars: amounts of money ("$5 and $6") are no formula; nor is what holds three words.
FORMULA = re.compile(
    r"\$\$.+?\$\$|\\\((?:(?!\\\().)+?\\\)|\\\[(?:(?!\\\[).)+?\\\]"
    r"|(?<![\\$])\$(?=[^\s$])(?!(?:[^$\\]|\\.)*?(?<![\\A-Za-z{])[A-Za-z]{3,}[ ,]+[A-Za-z]{2,} )"
    r"(?:[^$\\]|\\.)*?(?<=[^\s])\$(?!\d)",
    re.DOTALL,
)
# No digit follows the `$` that ends a formula, as one follows that of an amount.
_FORMULA_END = re.compile(r"\$(?!\d)(?<=\S\$)|\\[(\[]")
_BLOCK = re.compile(
    r"\$\$.+?\$\$|\\\((?:(?!\\\().)+?\\\)|\\\[(?:(?!\\\[).)+?\\\]|\\begin\{(?P<name>\w+)\*?\}(?P<body>(?:(?!\\begin\{(?P=name)).)*?)\\end\{(?P=name)\*?\}",
    re.DOTALL,
)
_ALIGNED = frozenset(
    ("align", "aligned", "alignat", "flalign", "eqnarray", "gather", "gathered", "split", "multline")
)
_END = re.compile(rf"\\end\{{(?:{'|'.join(sorted(_ALIGNED))})\*?\}}(?=\S)")
_ROW_END = re.compile(r"\\\\(?:\[[^\]]*\])?(?=\s|$)")
_LAYOUT = re.compile(r"^\s*\{\d+\}|&|\\(?:nonumber|notag)\b|\\(?:label|tag)\{[^}]*\}")
_RELATION = re.compile(r"\s*(?:[=<>≤≥≈]|\\(?:leq?|geq?|approx|equiv|sim|to|iff|implies|Rightarrow)\b)")
_TAG = re.compile(r"<\s*/?\s*(?:br|p|li|ul|ol|div)\s*/?\s*>", re.IGNORECASE)
# Two characters, as a bad export leaves them; `\\neq` and `\\nabla` are commands.
_WRITTEN_BREAK = re.compile(r"(?:\\r)?\\n(?=\s|[A-Z0-9$(*#<\\-]|$)(?!Left|Right|VDash|Vdash)")
_BULLET = re.compile(r"\s*(?P<mark>[-*•‣◦–·])\s+(?=.*(?:[^\W\d_]|=))")


def rationale_lines(text: str) -> list[str]:
    """The lines of `text` that are not blank, without what only lays them out."""
    text = with_line_breaks(text)
    if "\\" in text or "$" in text:
        text = _unfolded(text)
    lines = [line for line in text.splitlines() if not is_frame(line)]  # U+2028 and its like as well
    if len(lines) > 1:
        lines = _untitled(lines)
    elif lines:
        lines = in_line_items(lines[0])
    lines = [line for line in map(str.strip, lines) if line]
    return lines if text.isascii() else [line for line in lines if VISIBLE.search(line)]


def _untitled(lines: Sequence[str]) -> list[str]:
    """The steps of lines, without titles; the number of one says where a step begins."""
    titles = [is_title(line) for line in lines]
    if not any(titles) or not any(
        line.strip() and not (title or is_opening(line)) for line, title in zip(lines, titles, strict=True)
    ):
        return _items([line for line in lines if not is_opening(line)])
    left = [numbered(line) if title else line for line, title in zip(lines, titles, strict=True)]
    return without_titles(_items([line for line in left if not is_opening(line)]))


def formulas_in(line: str) -> list[tuple[int, int]]:
    """Where the formulas of a text begin and end; amounts of money are none."""
    if ("$" not in line and "\\" not in line) or _FORMULA_END.search(line) is None:
        return []
    return [formula.span() for formula in FORMULA.finditer(line)]


def with_line_breaks(text: str) -> str:
    """`text` with a line break for each `<br>`, each `\\n` that was written out, and after each `align`."""
    if "<" in text:
        text = _TAG.sub("\n", text)
    if "\\end" in text:
        text = _END.sub(r"\g<0>\n", text)
    return _WRITTEN_BREAK.sub("\n", text) if "\\n" in text else text


def _unfolded(text: str) -> str:
    """LaTeX whose line breaks are line breaks, and whose formulas have none."""
    if "\\\\" in text or "\n" in text:
        text = _BLOCK.sub(_block, text) if "\\" in text or "$$" in text else text
        if _FORMULA_END.search(text) is not None:
            text = FORMULA.sub(lambda formula: _one_line(formula[0]), text)
        text = _ROW_END.sub("\n", text).replace("\0", "\\\\")
    return text


def _block(found: re.Match[str]) -> str:
    if found["name"] not in _ALIGNED:
        return _one_line(found[0])
    rows: list[str] = []
    for row in re.split(r"\\\\(?:\[[^\]]*\])?", found["body"]):
        row = " ".join(_LAYOUT.sub("", row).split())
        if rows and _RELATION.match(row):
            rows[-1] += f" {row}"
        elif row:
            rows.append(row)
    return "\n" + "\n".join(rows) + "\n"


def _one_line(formula: str) -> str:
    """With \\0 for the row ends of a matrix, which end no line."""
    return " ".join(formula.split()).replace("\\\\", "\0")


def _items(lines: Sequence[str]) -> list[str]:
    """Numbered lines with those that carry them on, and bulleted ones; other lines as they are."""
    labels = [item_number(line) for line in lines]
    numbers = [label.number for label in labels if label]
    if len(numbers) < 2 or numbers != list(range(1, len(numbers) + 1)):
        bullets = [_BULLET.match(line) for line in lines]
        marks = {bullet["mark"] for bullet in bullets if bullet}
        if len(marks) != 1 or 2 * sum(b is not None for b in bullets) <= sum(
            bool(ln.strip()) for ln in lines
        ):
            return list(lines)
        return [line[b.end() :] if b else line for line, b in zip(lines, bullets, strict=True)]
    items: list[str] = []
    seen, after_blank = 0, False
    for line, label in zip(lines, labels, strict=True):
        if label is not None:
            seen += 1
            rest = line[label.end :]
            items.append(rest.replace(label.mark, "", 1) if label.mark in ("**", "__") else rest)
        elif not line.strip():
            after_blank = True
            continue
        elif seen and items[-1:] and not (seen == len(numbers) and after_blank and items[-1].strip()):
            items[-1] = f"{items[-1].strip()} {line.strip()}"
        else:
            items.append(line)
        after_blank = False
    return items
