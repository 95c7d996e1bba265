"""Statements of the answer in Chinese, Japanese, Russian, Spanish, French and German.

    所以答案是7。    答案：7    答えは7です。    Ответ: 7.
    La respuesta es 7.    La réponse est 7.    Die Antwort ist 7.

Other languages than these and English are not known: there the answer belongs behind `####` or into a column.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Statement(NamedTuple):
    """before: what of the sentence is reasoning; answer: what it states."""

    before: str
    answer: str


_OPENS = r"(?P<before>(?:.*[，,；;。]\s*)?)"
_PATTERNS = (
    (
        "答",
        re.compile(
            rf"{_OPENS}[\s*_#]*(?:所以|因此|故而?|那么|那麼|于是|綜上|综上(?:所述)?|总之|即|则|最[终後后])*"
            r"[，,：:\s]*(?:本题|这道题|题目)?(?:的)?"
            r"(?:正确|正確|最终|最終|最后|最後)?(?:的)?(?:答案(?:应该|应当|应|就)?\s*(?:是|为|為|等于|[:：=])|答\s*[:：])"
            r"[\s*_：:]*(?P<answer>[^，,；;]*?)\s*[。．.！!*_]*",
            re.DOTALL,
        ),
    ),
    (
        "答え",
        re.compile(
            r"(?P<before>(?:.*[、，,。]\s*)?)[\s*_#]*(?:したがって|従って|よって|だから|ゆえに|つまり)?"
            r"[、，,\s]*(?:最終的な|正しい)?答え\s*(?:は|[:：])[、\s*_]*(?P<answer>.*?)\s*(?:です|だ|である|になります|となります|となる|になる)?[。．.*_]*",
            re.DOTALL,
        ),
    ),
    (
        "твет",
        re.compile(
            r"(?P<before>)[\s*_#]*(?i:(?:итак|значит|следовательно|таким образом|поэтому)?"
            r"[,\s]*(?:правильный|окончательный|верный)?\s*ответ\s*(?:[:：]|[-–—]\s|равен\b|это\b))[\s*_]*(?P<answer>.*?)\s*[.*_]*",
            re.DOTALL,
        ),
    ),
    (
        "espuesta",
        re.compile(
            r"(?P<before>)[\s*_#]*(?i:(?:por lo tanto|por tanto|así que|entonces|luego|así)?"
            r"[,\s]*(?:la\s+)?respuesta(?:\s+(?:final|correcta))*(?:\s+es\b\s*[:：]?|\s*[:：]))[\s*_]*(?P<answer>.*?)\s*[.*_]*",
            re.DOTALL,
        ),
    ),
    (
        "ponse",
        re.compile(
            r"(?P<before>)[\s*_#]*(?i:(?:donc|ainsi|par conséquent|alors)?"
            r"[,\s]*(?:la\s+)?(?:bonne\s+)?réponse(?:\s+(?:finale|correcte))*(?:\s+est\b\s*[:：]?|\s*[:：]))[\s*_]*(?P<answer>.*?)\s*[.*_]*",
            re.DOTALL,
        ),
    ),
    (
        "ntwort",
        re.compile(
            r"(?P<before>)[\s*_#]*(?i:(?:also|daher|somit|folglich|deshalb)?[,\s]*(?:(?:die|ist die)\s+)?"
            r"(?:(?:richtige|endgültige|korrekte)\s+)*antwort(?:\s+(?:ist|lautet)\b\s*[:：]?|\s*[:：]))[\s*_]*"
            r"(?P<answer>.*?)\s*[.*_]*",
            re.DOTALL,
        ),
    ),
)


def statement_in(sentence: str) -> Statement | None:
    """What `sentence` states as the answer, where it does so in one of these languages."""
    for word, pattern in _PATTERNS:
        found = pattern.fullmatch(sentence) if word in sentence else None
        if found is not None:
            return Statement(found["before"].rstrip("，,；;、 "), found["answer"])
    return None
