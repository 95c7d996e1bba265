"""One answer as a text: what can be an answer, what is wrapped around it, whether two say the same."""

from __future__ import annotations

import re

from codi.data.steps import annotation_results, sentences
from codi.data.thinking import holds_thinking

MISSING_ANSWER = "missing answer"

SHORT = 12
"""Characters that no two sentences fit into."""
MOST_WORDS = 15
"""An answer of more words than these is a sentence that was meant to be read, not compared."""


def may_hold_marker(text: str) -> bool:
    """Whether a marker may stand in `text`: a quick look, so that plain texts cost nothing."""
    return (
        "nswer" in text or "###" in text or "box" in text or "ption" in text or "hoice" in text
        or "NSWER" in text or "Ans" in text or "ANS" in text or "</" in text or "<|" in text
        or "espuesta" in text or "ntwort" in text
        or (not text.isascii() and ("答" in text or "твет" in text or "éponse" in text or "ÉPONSE" in text))
        or holds_thinking(text)
    )  # fmt: skip


def answer_defect(answer: str) -> str | None:
    """Why `answer` cannot be an answer, as the reason it is counted under; None where it can."""
    answer = answer.strip()
    if not answer:
        return MISSING_ANSWER
    if _LINE_BREAK.search(answer):
        return "answer with a line break"
    if may_hold_marker(answer) and _MARKER_INSIDE.search(answer):
        return "answer with an answer prompt in it"
    if _ANNOTATED.search(answer) is not None:
        return "answer with a calculator annotation in it"
    if _SUM.search(answer) is not None:
        return "answer with its computation"
    if len(answer) <= SHORT:
        return None
    words = len(WORD.findall(_COMMAND.sub(" ", answer)))
    if words > MOST_WORDS or (words > 3 and COMPUTATION.search(answer)):
        return "answer of whole sentences"
    if words > 1 and sum(WORD.search(sentence) is not None for sentence in sentences(answer)) > 1:
        return "answer of whole sentences"
    return None


def tidy(answer: str, *, full_stop: bool = False) -> str:
    """The answer without what is wrapped around it: emphasis, `$..$`, a box, a full stop.

    full_stop: whether it stays: in a column of answers it is as the writer meant it.
    """
    before, answer = None, answer.strip() if answer.isascii() else answer.strip(_INVISIBLE)
    if answer.replace(".", "").replace("-", "").isalnum() and not answer.endswith("."):
        return answer  # a number, a word: nothing is wrapped around it
    if "<<" in answer and "=" in answer:
        answer = annotation_results(answer).strip()
    while answer != before:
        before = answer
        for wrapping in _WRAPPINGS:
            found = wrapping.fullmatch(answer)
            if found is not None:
                answer = found["inside"].strip()
        boxes = boxes_in(answer) if "box" in answer else []
        if len(boxes) == 1 and boxes[0][:2] == (0, len(answer)):
            answer = boxes[0][2].strip()
        if not full_stop and _ends_in_full_stop(answer):
            answer = answer[:-1].rstrip()
    answer = answer.replace("{,}", ",").replace(",\\!", ",")
    return _ESCAPED.sub(r"\1", answer) if "\\" in answer else answer


def without_thousands_commas(answer: str) -> str:
    """GSM8K writes 70,000; GSM8k-Aug and the models trained on it write 70000."""
    return answer.replace(",", "") if _THOUSANDS.fullmatch(answer) else answer


def same_answer(left: str, right: str) -> bool | None:
    """Whether two ways of writing an answer say the same; None where the texts alone do not tell."""
    shares = left.count("%") != right.count("%")  # 50% and 0.5
    left, right = _compared(left), _compared(right)
    if left == right:
        return True
    values = _value(left), _value(right)
    if values[0] is not None and values[1] is not None and not shares:
        apart, size = abs(values[0] - values[1]), max(abs(values[0]), abs(values[1]))
        # 8.33 may be 25/3 rounded.
        return True if apart <= 1e-9 * size else None if apart <= 0.01 * size else False
    if {left, right} == {"true", "false"}:
        return False
    return False if len(left) == len(right) == 1 and (left + right).isalpha() else None


def boxes_in(text: str) -> list[tuple[int, int, str]]:
    """Start, end and inside of each `\\boxed{..}` that stands in no other; braces are counted."""
    closed: list[tuple[int, int, str]] = []
    opened: list[tuple[int, int] | None] = []  # of each open brace: where its box begins, and its inside
    for found in _BRACE.finditer(text):
        if found["bare"] is not None:  # \boxed 5
            closed.append((found.start(), found.end(), found["bare"]))
        elif found["box"] is not None:
            opened.append((found.start(), found.end()))
        elif found[0] == "{":
            opened.append(None)
        elif found[0] == "}" and opened:
            box = opened.pop()
            if box is not None:
                closed.append((box[0], found.end(), text[box[1] : found.start()]))
    outer: list[tuple[int, int, str]] = []
    for start, end, inside in sorted(closed):
        if not outer or start >= outer[-1][1]:
            outer.append((start, end, inside))
    return outer


_LINE_BREAK = re.compile(r"[\r\n\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
WORD = re.compile(r"[^\W\d_]{2,}")
_COMMAND = re.compile(r"\\[A-Za-z]+")
COMPUTATION = re.compile(r"\d[^=]*(?:[-+*/×÷]|\\(?:times|cdot|div)\b)[^=]*\d[^=]*=\s*[^=]*\d")
_ANNOTATED = re.compile(r"<<[^<>]*=|=[^<>]*>>")  # "8 >> 1" is a shift
# "3+4=7", "Total = 3+4 = 7"; "3x+4y=12" is an equation that may be asked for.
_SUM = re.compile(
    r"(?:^|=)[^=A-Za-z\\]*\d[^=A-Za-z\\]*[-−+*/×÷][^=A-Za-z\\]*\d[^=A-Za-z\\]*=\s*[-−]?[$€£]?\s*\.?\d[\d.,]*\W*$"
)
_INVISIBLE = " \t\r\n\u00a0\u200b\u200c\u200d\u200e\u200f\u2060\u3000\ufeff"
_THOUSANDS = re.compile(r"[-−]?\$?\d{1,3}(,\d{3})+(\.\d+)?")
_BRACE = re.compile(
    r"(?P<box>\\(?:boxed|fbox|framebox)\s*\{)|\\(?:boxed|fbox)\s+(?P<bare>[^\s{}$\\]*[^\s{}$\\.,;:])|\\.|[{}]",
    re.DOTALL,
)
_MARKER_INSIDE = re.compile(
    r"\banswer\s+is\b|\banswer\s*[:：]|####|\\boxed\b|\\fbox\b|</?(?:think|answer)\b|答案\s*[是为為:：]|答えは|"
    r"\b(?:ответ|respuesta|réponse|antwort)(?:\s+(?:es|est|ist|lautet)\b|\s*[:：])",
    re.IGNORECASE,
)
_WRAPPINGS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"(?P<inside>.*?)(?:</s>|<\|\w+\|>|\*\*|`)+",
        r"\*\*(?P<inside>.+)",
        r"(?P<mark>[*_`])(?P<inside>.+)(?P=mark)",
        r"\$\$(?P<inside>(?:[^$\\]|\\.)+)\$\$",
        r"\$(?P<inside>(?:[^$\\]|\\.)+)\$",
        r"\\\((?P<inside>(?:(?!\\\)).)*)\\\)",
        r"\\\[(?P<inside>(?:(?!\\\]).)*)\\\]",
        r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{(?P<inside>[^{}]*)\}",
        r"\\textbf\{\(?(?P<inside>[A-E])\)?\}.+",  # the options of a contest: \textbf{(C)}\ 20
        r"\((?P<inside>[A-Za-z])\)",
        r"\[(?P<inside>[A-Za-z])\]",
        r"(?:[Oo]ption|[Cc]hoice)\s+\(?(?P<inside>[A-Z])\b\W*",
        r"[\"“](?P<inside>[^\"“”]+)[\"”]",
    )
)
_ESCAPED = re.compile(r"\\+([$%])")
_ABBREVIATION = re.compile(
    r"(?:.*\s)?(?:(?:[A-Za-z]\.){2,}|(?:Jr|Sr|St|Inc|Ltd|Co|Corp|Dr|etc|No)\.)", re.DOTALL
)


def _ends_in_full_stop(answer: str) -> bool:
    """Whether the full stop at the end is none of the answer's own ("U.S.", "1, 2, ...")."""
    if not answer.endswith((".", "。")) or answer.endswith("...") or len(answer) == 1:
        return False
    if answer.endswith(".."):  # "U.S." at the end of a sentence
        return True
    return _ABBREVIATION.fullmatch(answer) is None


def _compared(answer: str) -> str:
    """An answer as it is compared: case, space, units of LaTeX and the name before '=' folded."""
    answer = without_thousands_commas(tidy(answer)).replace("−", "-").replace("\\dfrac", "\\frac")
    answer = re.sub(r"\\(?:left|right|,|;|!| )|\\text\{[^{}]*\}|\^\\circ|[\s$%]", "", answer)
    answer = re.sub(r"^[a-zA-Z]=", "", answer).casefold()
    return {"yes": "true", "no": "false"}.get(answer, answer)


def _value(answer: str) -> float | None:
    """The value of a plain number or fraction."""
    found = re.fullmatch(r"(-?)(?:\\frac\{(\d+)\}\{(\d+)\}|(\d+)/(\d+)|(\d*\.?\d+|\d+\.))", answer)
    if found is None:
        return None
    above, below = found[2] or found[4] or found[6], found[3] or found[5] or "1"
    return float(f"{found[1]}1") * float(above) / float(below) if float(below) else None
