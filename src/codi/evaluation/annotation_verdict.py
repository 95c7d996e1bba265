"""Whether a reply is kept: its rationale in clean steps where its answer is right, else why not."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from codi.data.answers import ANSWER_PROMPT, answer_defect, separate
from codi.data.example import Example
from codi.data.markdown import plain_text
from codi.data.steps import split_steps
from codi.evaluation.annotation_replies import Reply
from codi.evaluation.scorers import Scorer

SHOWN = 200
"""Characters of a reasoning that the reason of an empty answer shows."""


@dataclass(frozen=True)
class Verdict:
    """steps: the rationale of a reply that is kept; reason: why it is not, None where it is.

    rationale_from: 'content', or the field that the rationale was read from.
    """

    steps: tuple[str, ...] = ()
    reason: str | None = None
    rationale_from: str = "content"


def judge(reply: Reply, example: Example, scorer: Scorer, *, use_reasoning: bool = False) -> Verdict:
    """Read the answer and the rationale out of a reply, and compare the answer.

    use_reasoning: the rationale is the reasoning, where there is any; else it is what the content says beside
    the answer, and the reasoning only where it says nothing. Without any content, the answer is read in the
    reasoning too.
    """
    if reply.filtered:
        return _apart("content filter", reply.refusal)
    if reply.cut_off:
        return _apart("cut off")
    if reply.refusal and not reply.content:
        return _apart("refused by the model", reply.refusal)
    said = _read(reply.content)
    thought = _read(reply.reasoning)
    if not reply.content:
        if thought.answer is None:
            return _empty(reply)
        said = thought
    elif said.answer is None and reply.reasoning and _is_answer(reply.content, scorer):
        said = _Read("", reply.content.strip())  # an answer alone, after all the thinking
    if said.answer is None:
        return _apart(f"without '{ANSWER_PROMPT}'")
    written = f"{ANSWER_PROMPT} {said.answer.strip(' _*~`').replace('−', '-')}"
    if scorer.parse(written) is None:
        return _apart("unreadable answer")
    if not scorer.correct(written, example.answer):
        return _apart("wrong answer")
    sources = [
        ("content", said.rationale if reply.content else ""),
        (reply.reasoning_from or "", thought.rationale),
    ]
    for name, rationale in reversed(sources) if use_reasoning else sources:
        steps = clean_steps(rationale)
        if steps:
            return Verdict(steps, rationale_from=name)
    return _apart("no reasoning")


def clean_steps(rationale: str) -> tuple[str, ...]:
    """The steps of a written rationale: no Markdown, no statement of the answer, no labels.

    Line breaks are the writer's own and end a step; a rationale in one line ends its steps by sentence.
    """
    plain = separate(plain_text(rationale)).rationale
    steps = (_STEP_LABEL.sub("", step).strip() for step in split_steps(plain, "auto"))
    return tuple(step for step in steps if re.search(r"\w", step) and not _CONNECTIVE.fullmatch(step))


class _Read(NamedTuple):
    rationale: str
    answer: str | None


_STEP_LABEL = re.compile(
    r"^(?:[*_#]*\s*step\s*\d{1,2}\s*[:.)\]–—-]+\s*[*_]*|\(?\d{1,2}[.)]\s+(?=[^\W\d_$]))\s*", re.IGNORECASE
)
# "So, The answer is: 18" leaves its first word behind.
_CONNECTIVE = re.compile(
    r"(?:so|thus|hence|therefore|then|finally|and|answer|final answer|the answer)[\s,:]*", re.IGNORECASE
)
_PROMPT = re.compile(r"\banswer\s*(?:\*\*|__)?\s*(?:is\b\s*:?|:)[^\n]*", re.IGNORECASE)


def _read(text: str) -> _Read:
    """The rationale and the answer of a text; what follows the answer is no part of a rationale before it."""
    if not text.strip():
        return _Read("", None)
    fields = _object_in(text)
    if fields is not None:
        return fields
    whole = separate(text)
    prompts = list(_PROMPT.finditer(text))
    if prompts:
        before = separate(text[: prompts[-1].end()])
        if before.answer == whole.answer and before.rationale.strip():
            whole = before
    return _Read(whole.rationale, whole.answer or None)


def _is_answer(text: str, scorer: Scorer) -> bool:
    return answer_defect(text) is None and scorer.parse(f"{ANSWER_PROMPT} {text.strip()}") is not None


_FENCED = re.compile(r"\s*(?:```\w*\s*)?(?P<object>\{.*\})\s*(?:```)?\s*", re.DOTALL)
_ANSWER_NAMES = ("answer", "final_answer", "finalanswer", "result")
_RATIONALE_NAMES = (
    "steps", "reasoning", "rationale", "reasoning_steps", "explanation", "solution", "thoughts", "thought"
)  # fmt: skip


def _object_in(text: str) -> _Read | None:
    """A reply that is one JSON object with an answer in it, as a prompt may ask for."""
    found = _FENCED.fullmatch(text)
    if found is None:
        return None
    try:
        fields = json.loads(found["object"])
    except ValueError:
        return None  # set notation, code: text like any other
    named = {str(name).casefold().replace(" ", "_"): value for name, value in fields.items()}
    answer = next((named[name] for name in _ANSWER_NAMES if named.get(name) is not None), None)
    if answer is None or isinstance(answer, (dict, list)):
        return None
    rationale = next((named[name] for name in _RATIONALE_NAMES if named.get(name)), "")
    read = separate(str(answer))
    return _Read(_lines(rationale), read.answer or str(answer))


def _lines(value: Any) -> str:
    """A rationale in JSON: a text, or a list of steps, each a text or an object of texts."""
    if isinstance(value, list):
        return "\n".join(" ".join(_lines(item).split()) for item in value)
    if isinstance(value, dict):
        return " ".join(str(item) for item in value.values() if isinstance(item, (str, int, float)))
    return str(value)


def _empty(reply: Reply) -> Verdict:
    if reply.calls_tool:
        return _apart("empty answer", "the model called a tool")
    if not reply.reasoning:
        return _apart("empty answer", reply.refusal)
    start = " ".join(reply.reasoning.split())
    more = "..." if len(start) > SHOWN else ""
    return Verdict(
        reason=f"empty answer; the reasoning came in {reply.reasoning_from}: {start[:SHOWN]}{more}"
    )


def _apart(reason: str, detail: str = "") -> Verdict:
    return Verdict(reason=f"{reason}: {' '.join(detail.split())[:SHOWN]}" if detail else reason)


def kind_of(reason: str) -> str:
    """A reason without what is told of the one reply: what it is counted under."""
    return re.split(r"[:;] ", reason, maxsplit=1)[0]
