"""Lines that only say what the next ones are about: "## Step 1: the rolls", "**Step 2**", "Solution:", and
"Let's think step by step." They are no steps of a reasoning, and belong to none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

HEADING = re.compile(r"\s{0,3}#{1,6}\s+(?P<title>.*?)\s*#*\s*")
_NO_HEADING = re.compile(r"\s*#\s+(?:of\b|[\d\W])")  # "# of apples: 5"
_ALL_BOLD = re.compile(
    r"\s*(?:\d{1,2}[.)]\s+)?(?P<mark>\*\*|__)(?P<title>(?:(?!(?P=mark)).)+)(?P=mark)\s*(?P<colon>:?)\s*"
)
_LABEL = re.compile(
    r"[\s*_#]*(?:(?:here(?:'s| is| are)\s+)?(?:(?:the|my|a|detailed|step[- ]by[- ]step|final)\s+)*"
    r"(?:reasoning|rationale|solution|explanation|thought process|calculations?|steps?|working|analysis|"
    r"answer)(?:\s+(?:process|steps?|by step))?|step\s*\d{1,2})\s*[:.]?[\s*_]*",
    re.IGNORECASE,
)
_ANNOUNCED = re.compile(
    r"[\s*_#]*let['’]?s (?:think|solve|work|break|go)\b[^.:=\d]*[:.]?[\s*_]*", re.IGNORECASE
)
_STEP = re.compile(r"step\s*\d", re.IGNORECASE)
_NUMBER = re.compile(r"[\s#*_]*(?:step\s*(?P<step>\d{1,2})\b|\(?(?P<item>\d{1,2})[.)\]:]\s)", re.IGNORECASE)
_OPENING = re.compile(
    r"[\s*_#>]*(?:(?:A|Answer|Assistant|Solution)\s*:\s*)?[*_]*(?:(?:okay|ok|sure|alright|now)[,.!]?\s+)?"
    r"let(?:['’]s| us)\s+(?:think|work|solve|reason|break|go|do|take)\b[^.:=!?\d]*?"
    r"\bstep[- ]by[- ]step\s*[.:!…]*[\s*_]*",
    re.IGNORECASE,
)


# What frames other lines in Markdown: fences of code, rules, and the line below a table's head.
_FRAME = re.compile(
    r"\s*(?:(?:>\s*)?(?:`{3,}|~{3,})\s*[\w+#-]*|(?:-\s*){3,}|(?:\*\s*){3,}|(?:_\s*){3,}|={3,}|"
    r"\|?\s*:?-{2,}:?\s*(?:\|\s*:?-{2,}:?\s*)*\|?)\s*"
)


def is_frame(line: str) -> bool:
    """Whether a line only frames others: `---`, three backticks, `|---|---|`."""
    return _FRAME.fullmatch(line) is not None


def is_title(line: str) -> bool:
    """Whether a line only says what the next ones are about. One with an equation says more."""
    heading = HEADING.fullmatch(line)
    if heading is not None:
        title = heading["title"]
        return "=" not in title and any(map(str.isalpha, title)) and _NO_HEADING.match(line) is None
    if _LABEL.fullmatch(line):
        return True
    bold = _ALL_BOLD.fullmatch(line)
    if bold is None or "=" in line:
        return False
    title = bold["title"].strip()
    return bool(bold["colon"]) or title.endswith(":") or _STEP.match(title) is not None


def is_opening(line: str) -> bool:
    """Whether a line is "Let's think step by step." and no more, which asks for a reasoning and is none."""
    return "tep" in line and _OPENING.fullmatch(line) is not None


def is_announcement(line: str) -> bool:
    """Whether a line only says that something follows: "Let's work this out:"."""
    return _ANNOUNCED.fullmatch(line) is not None


def numbered(title: str) -> str:
    """What is left of a title: "Step 2:" of the second step's, nothing of one without a number."""
    found = _NUMBER.match(title)
    return "" if found is None else f"Step {found['step'] or found['item']}:"


def without_titles(steps: Sequence[str]) -> list[str]:
    """Steps, or lines, without titles and openings; where nothing else stands, the titles are kept."""
    steps = [step for step in steps if not (is_opening(step) or is_frame(step))]
    kept = [step for step in steps if not is_title(step)]
    return kept if any(map(str.strip, kept)) else steps
