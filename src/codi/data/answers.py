"""What is the answer in a text, and what is its rationale: the one place that decides.

    6*8 = 48 rolls.             rationale
    48 - 30 = 18 are left.      rationale
    #### 18                     marker
    The answer is: 18           marker; the last one that stands gives the answer

Markers are `####`, "The answer is", "Answer:", `\\boxed{}` and their like, in any decoration
(`**Answer:** 18`, `The answer is: $\\boxed{18}$.`). What only states the answer leaves the rationale; a box
around a result in the middle of a reasoning is opened, and its sentence stays. `<think>..</think>` is the
rationale where the text after it holds nothing but the answer. What says goodbye after the answer, and a note
or a check there, is no reasoning that leads to it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from codi.data.answer_text import (
    COMPUTATION,
    WORD,
    answer_defect,
    boxes_in,
    may_hold_marker,
    tidy,
    without_thousands_commas,
)
from codi.data.other_languages import statement_in
from codi.data.rationale_lines import with_line_breaks
from codi.data.steps import sentences, split_steps, without_annotations
from codi.data.thinking import holds_thinking, split_thinking

__all__ = ["ANSWER_PROMPT", "Separated", "answer_defect", "separate", "without_statement"]

ANSWER_PROMPT = "The answer is:"


class Separated(NamedTuple):
    """A text taken apart. `marker` names what the answer stood behind; both are None without a marker."""

    rationale: str
    answer: str | None
    marker: str | None


def separate(text: str, *, summary: bool = False) -> Separated:
    """Take the rationale and the answer of `text` apart at the last marker that stands in it.

    The rationale loses what only states the answer, and keeps the rest to the letter (white space around
    it apart). Without a marker it is the whole text. The answer is '' where nothing follows the marker.

    summary: whether one sentence after `</think>` only sums it up, so that the thinking is the rationale.
    """
    if not may_hold_marker(text):
        return Separated(text.strip(), None, None)
    if not holds_thinking(text):
        return _separate(text)
    said, thought = split_thinking(text)
    said = _TAGS.sub("", said).strip()
    if not said:
        return _separate(thought)
    separated = _separate(said)
    if separated.answer is None and answer_defect(tidy(said)) is None:
        separated = Separated("", tidy(said), "</think>")
    if separated.rationale and not (summary and len(split_steps(separated.rationale)) < 2):
        return separated
    return separated._replace(rationale=_separate(thought).rationale or separated.rationale)


def without_statement(step: str, *, last: bool) -> Separated:
    """One step of a list without what only states the answer: its rationale is '' where nothing is left."""
    if not may_hold_marker(step):
        return Separated(step, None, None)
    separated = _separate(step, last=last, clauses=False)
    return separated if separated.marker is not None else Separated(step, None, None)


_DISPLAY = re.compile(r"\\\[(?:(?!\\\[).)*?\\\]|\$\$.*?\$\$", re.DOTALL)
_TAGGED = re.compile(r"<answer>\s*(?P<answer>.*?)\s*</answer>", re.DOTALL)
_TAGS = re.compile(r"<\|(?:begin|end)_of_solution\|>|</?solution>")
_FAREWELL = re.compile(
    r"(?<!\s)\s*I hope (?:it|this|that) (?:is correct|help(?:s|ed)|makes sense)\b[^.!?\n]*[.!]?\s*$"
    # as a sentence of its own alone: "see if you have any questions left" is none
    r"|(?<=[.!?*_}$)\d])\s+(?:hope (?:this|it|that) helps\b[^.!?\n]*[.!]?"
    r"|(?:please )?(?:let me know|feel free to (?:ask|reach))\b[^.!?\n]*[.!?]?"
    r"|if you have (?:any|more|further|other) (?:\w+ )?(?:questions|doubts)\b[^.!?\n]*[.!]?)\s*$",
    re.IGNORECASE,
)
_AFTERWARDS = re.compile(
    r"(?:(?<=\n)|(?<=[.!?*}\d]\s))[*_(\s]*"
    r"(?:note|check|checking|double[- ]check|verification|verify|remark|p\.?\s?s\.?)[*_\s]*:.*\Z",
    re.IGNORECASE | re.DOTALL,
)

_DECORATION = r"[\s\ufeff\u200b>#*_`•-]*(?:\\text(?:bf|it)?\{)?"
_LEAD = (
    r"(?:(?:so|thus|hence|therefore|then|finally|and|now|consequently|as a result|in conclusion|overall|∴)"
    r"\b[\s,:]*)*"
)
_NOUN = (
    r"(?:(?:the|our|my)\s+)?(?:(?:final|correct|right|numerical|exact|required|overall|best|"
    r"step[- ]by[- ]step)\s+)*"
    r"(?:answer|ans)s?\b(?:\s+(?:to|for)\s+(?:this|the)\s+(?:question|problem|exercise)\b)?"
)
_LETTER = r"[(\[*]*[A-Z][)\]*]*"
_STATEMENT = re.compile(
    rf"{_DECORATION}{_LEAD}{_NOUN}[*_`]*\s*+(?:"
    r"(?:is|are|would\s+be|will\s+be|must\s+be|should\s+be|equals)\b"
    r"(?:\s+(?:therefore|thus|then|hence|simply|just|equal\s+to)\b)?\s*(?P<colon>[:：]?)"
    rf"|(?P<label>[:：=])|\.?\s*+[-–—]?\s*+(?=(?-i:{_LETTER}|\(?[a-e]\)?)\W*$)|(?P<heading>[*_`}}\s]*$))[*_`\s}}]*",
    re.IGNORECASE,
)  # fmt: skip
_CLOSING = (  # what states the answer in a text's last sentence only
    re.compile(
        rf"{_DECORATION}(?i:{_LEAD})(?:(?i:option|choice)\s*)?(?P<answer>{_LETTER}|[-$\d.,]+%?)\s+"
        r"(?i:is\s+(?:(?:the|our)\s+)?(?:(?:final|correct|right|best)\s*)*(?:answer|option|choice|correct|right))\W*"
    ),
    re.compile(
        rf"{_DECORATION}(?i:{_LEAD}(?:the\s+)?(?:(?:correct|right|best)\s+)*(?:option|choice)\s*+(?:is|:|=|-|–)?)\s*+"
        rf"(?P<answer>{_LETTER})\W*"
    ),
)
_CLAUSE = re.compile(
    r"(?<!\s),?\s+(?:(?:and|so|thus|hence|therefore|then)\s+)*(?:the|our)\s+(?:(?:final|correct)\s+)?answer\s+is\b\s*[:：]?\s*",
    re.IGNORECASE,
)
# "C. Light moves in lines." is no name with an initial.
_LETTER_AND_REASON = re.compile(
    r"[(\[]?(?P<answer>[A-Z])[)\]]?\.\s+(?P<reason>[A-Z]\w*(?:\s+\S+){2,}[.!])", re.DOTALL
)
# "The answer is obtained by adding 3": tells how, not what.
_NO_VALUE = re.compile(
    r"(?:not|never|that|in|given|found|as follows|the (?:sum|product|difference|total|result|same|number)|"
    r"\w+ed (?:by|from|as|to|in|using|when))\b",
    re.IGNORECASE,
)
# "The answer is 4 times 3.", with more behind it, says how as well.
_TELLS_HOW = re.compile(
    r"\b(?:times|plus|minus|than|divided|multiplied|twice|half of|double)\b|[\d%]\s+of\b|"
    r"\d\s*[*×+÷]\s*\d|\d\s+[-−/]\s+\d",
    re.IGNORECASE,
)
_REASON = re.compile(r"(?<!\s)[,;]?\s+(?:because|since|as (?:it|the|we))\b.*", re.IGNORECASE | re.DOTALL)
_HASHES = re.compile(r"[\s*_>]*(?P<hashes>#{3,})(?P<answer>.*)", re.DOTALL)
# Without a full stop before it: "... = 18 #### 18", "... = 18 The answer is 18".
_NEXT_STATEMENT = re.compile(
    r"(?:(?<=[^\s#>*_])|(?<=>>))(?<!Final)(?<!final)(?<!Correct)(?<!correct)(?<![Tt]he)(?<!Step)(?<!step)"
    r"\s+(?=#{4}|[*_(]*(?:(?:So|Thus|Hence|Therefore),?\s+the|The|Final|Correct)\s+(?:\w+\s+)?[Aa]nswer\b|"
    r"[*_]*(?:Answer|ANSWER|Ans)\s*:)"
)
# What may stand beside a box without saying more than the box does.
_FILLER = re.compile(
    r"(?:[\s$.,:;*_`!]|\\[\[\](), ;!]|\\q?quad\b|\\text\s*\{\s*(?:and|or)\s*\}|"
    r"\b(?:or|so|thus|hence|therefore|then|finally|and|we|get|have|obtain|is|the|our|"
    r"final|answer|which|gives)\b)*",
    re.IGNORECASE,
)


def _separate(text: str, *, last: bool = True, clauses: bool = True) -> Separated:
    """`separate` without tags of thinking. last: whether nothing else follows the text."""
    answer: str | None = None
    marker: str | None = None
    whole, text = text, _without_afterwards(with_line_breaks(text), last)
    tagged = list(_TAGGED.finditer(text))
    if tagged:
        answer, marker = _clean(tagged[-1]["answer"]), "<answer>"
        text = _TAGGED.sub("", text)
    if "box" in text:
        text = _on_one_line(text)
    kept: list[str] = []  # the lines that stay, from the last to the first
    below: list[int] = []  # those of them that hold something
    labelled = mended = False
    for line in reversed(text.splitlines(keepends=True)):
        stays = "" if may_hold_marker(line) else line
        for piece in reversed(_pieces(line)) if stays == "" else ():
            judged = _judge(piece.strip(), last and not below and not stays.strip(), clauses)
            if judged is None:
                stays = piece + stays
                continue
            rest, said, mark = judged
            if said == "" and len(below) == 1 and not stays.strip():  # the answer is the line below
                under = _clean(kept[below[0]])
                if answer_defect(under) is None:
                    said, kept[below.pop()] = under, ""
            if mark is not None and not answer:
                answer, marker = said, mark
            labelled, mended = True, mended or bool(rest)
            stays = f"{rest} {stays.lstrip(' ')}" if rest and stays.strip() else rest + stays
        below += [len(kept)] if stays.strip() else []
        kept.append(stays if stays.strip() or not line.strip() else "")
    rationale = ("".join(reversed(kept)) if labelled or tagged else whole).strip()
    if mended and len(rationale) < len(whole):  # what stood behind one marker may be another
        rationale = _separate(rationale, last=last, clauses=clauses).rationale
    return Separated(rationale, answer, marker)


def _without_afterwards(text: str, last: bool) -> str:
    """`text` without what stands behind the answer and leads to none: a farewell, a note, a check."""
    while (shorter := _FAREWELL.sub("", text)) != text:
        text = shorter
    found = _AFTERWARDS.search(text) if last and ":" in text else None
    if found is None or may_hold_marker(found[0]):
        return text
    before = text[: found.start()].rstrip()
    ends = [piece.strip() for piece in _pieces(before.splitlines()[-1])] if before else []
    judged = _judge(ends[-1], True, True) if ends else None
    reasoned = judged is not None and judged[1] and len(before) > len(ends[-1])
    return before if reasoned else text


def _pieces(line: str) -> list[str]:
    """The sentences of a line, each with the white space after it."""
    pieces: list[str] = []
    start = 0
    starts = [0]
    for sentence in sentences(line.strip()):
        for part in _NEXT_STATEMENT.split(sentence):
            at = line.index(part, start)
            starts += [at] if at else []
            start = at + len(part)
    for begin, end in zip(starts, [*starts[1:], len(line)], strict=True):
        pieces.append(line[begin:end])
    return pieces


def _clean(answer: str) -> str:
    return without_thousands_commas(tidy(answer))


def _judge(piece: str, last: bool, clauses: bool) -> tuple[str, str | None, str | None] | None:
    """What a piece says of the answer: what stays of it, the answer, the marker. None: nothing.

    last: whether no reasoning follows. clauses: whether "..., so the answer is 5" may be cut off a sentence.
    """
    if not piece:
        return None
    hashes = _HASHES.match(piece)
    if hashes is not None and not _STATEMENT.match(piece):
        said = hashes["answer"].strip(" :")
        # "Nora is a sterpus." is a sentence of its own.
        said = without_thousands_commas(tidy(said, full_stop=said[:1].isupper() and said.count(" ") >= 2))
        if (last and len(hashes["hashes"]) >= 4) or (said and not WORD.search(said)):
            return "", said, "####"  # else a heading
    stated = _STATEMENT.match(piece)
    if stated is not None:
        return _stated(piece, stated, last)
    foreign = statement_in(piece)
    if foreign is not None:
        said = _clean(foreign.answer)
        return (foreign.before, said, "the answer is") if not said or _says(said, last) else None
    clause = next(_CLAUSE.finditer(piece), None) if clauses and "nswer" in piece else None
    boxes = boxes_in(piece) if "box" in piece else []
    if boxes:
        said = _contents(piece, boxes)
        stays = "" if _FILLER.fullmatch("".join(_around(piece, boxes))) else _opened(piece, boxes)
        if clause is not None and clause.end() <= boxes[0][0]:
            stays = piece[: clause.start()].rstrip()
        return stays, without_thousands_commas(said), "\\boxed"
    if not last:
        return None
    for closing in _CLOSING:
        found = closing.fullmatch(piece)
        if found is not None:
            return "", tidy(found["answer"]), "answer"
    if clause is not None:
        said = _clean(_REASON.sub("", piece[clause.end() :]))
        if _says(said, last):
            return piece[: clause.start()].rstrip(), said, "the answer is"
    return None


def _stated(piece: str, stated: re.Match[str], last: bool) -> tuple[str, str | None, str | None] | None:
    """`_judge` for a piece that begins as a statement of the answer."""
    content = piece[stated.end() :].strip()
    content = content.rstrip("*_") if piece.startswith(("*", "_")) else content
    mark = "answer:" if stated["label"] or stated["colon"] else "the answer is"
    inner = _STATEMENT.match(content)
    if inner is not None:  # "Final Answer: The final answer is $10$."
        return _stated(content, inner, last)
    if not content.strip(" *_`}:"):
        return "", "", mark
    reasoned = _LETTER_AND_REASON.fullmatch(content)
    if reasoned is not None:
        return reasoned["reason"], reasoned["answer"], mark
    said = plain = without_annotations(content) if "<<" in content else content
    boxes = boxes_in(content) if "box" in content else []
    if boxes:
        said = _contents(content, boxes)
    elif COMPUTATION.search(plain):  # "the answer is 3 * 4 = 12."
        if _NO_VALUE.match(plain):
            return None
        return content, _clean(tidy(plain).rpartition("=")[2]), mark
    said = _clean(_REASON.sub("", said))
    if boxes or _says(said, last, label=bool(stated["label"]), sentence=content.endswith(".")):
        return "", said, mark
    # "Answer: Leah had 32 chocolates. ..." labels what follows.
    return (content, None, None) if stated["label"] else None


def _says(answer: str, last: bool, *, label: bool = False, sentence: bool = False) -> bool:
    """Whether what follows "the answer is" is an answer; a short one where reasoning comes after it.

    label: it follows "Answer:", which may head a whole solution. sentence: it ends in a full stop.
    """
    if answer_defect(answer) is not None or _NO_VALUE.match(answer):
        return False
    if not last and _TELLS_HOW.search(answer):
        return False
    words = len(WORD.findall(answer))
    return last or words <= (1 if label and sentence else 3)


def _contents(text: str, boxes: list[tuple[int, int, str]]) -> str:
    """What the last box holds, or the last ones where no more than three words part them."""
    count = 1
    while count < len(boxes) and len(text[boxes[-count - 1][1] : boxes[-count][0]].split()) <= 3:
        count += 1
    return ", ".join(dict.fromkeys(filter(None, (tidy(box[2]) for box in boxes[-count:]))))


def _around(text: str, boxes: list[tuple[int, int, str]]) -> list[str]:
    edges = [0, *(edge for box in boxes for edge in box[:2]), len(text)]
    return [text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]


def _opened(text: str, boxes: list[tuple[int, int, str]]) -> str:
    around = _around(text, boxes)
    return around[0] + "".join(box[2] + after for box, after in zip(boxes, around[1:], strict=True))


def _on_one_line(text: str) -> str:
    """Displays and boxes that run over lines, each on one."""
    text = _DISPLAY.sub(lambda found: " ".join(found[0].split()), text)
    for start, end, _ in reversed(boxes_in(text)):
        text = text[:start] + " ".join(text[start:end].split()) + text[end:]
    return text
