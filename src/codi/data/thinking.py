"""Tags of thinking, as reasoning models and chat templates write them: what a text thinks, what it says.

<think>..</think>   <|begin_of_thought|>..<|end_of_thought|>   [THINK]..[/THINK]   ◁think▷..◁/think▷
<|channel|>analysis<|message|>..<|channel|>final<|message|>
"""

from __future__ import annotations

import re

_NAME = r"(?:seed:)?(?:think|thinking|thought|thoughts|reasoning|reflection)\s*>"
_OPEN = rf"<\s*{_NAME}|◁think▷|\[THINK\]|<\|begin_of_thought\|>|<\|channel\|>\s*analysis\s*<\|message\|>"
_CLOSE = (
    rf"<\s*/\s*{_NAME}|◁/think▷|\[/THINK\]|<\|end_of_thought\|>|"
    r"(?:<\|end\|>\s*)?(?:<\|start\|>\s*assistant\s*)?<\|channel\|>\s*final\s*<\|message\|>"
)
_MARK = re.compile(rf"(?P<open>{_OPEN})|(?P<close>{_CLOSE})", re.IGNORECASE)
_END_TOKEN = re.compile(
    r"(?:\s*(?:<\|(?:im_end|eot_id|end|endoftext|return|end_of_text|eom_id|end_of_solution|user|assistant)\|>|</s>|"
    r"<end_of_turn>|<｜end▁of▁sentence｜>))+\s*$"
)


def holds_thinking(text: str) -> bool:
    """Whether a tag of thinking stands in `text`; a quick look first, so that plain texts cost nothing."""
    return (
        "hink" in text or "HINK" in text or "hought" in text or "easoning" in text or "eflection" in text
        or "<|" in text or "THOUGHT" in text or "REASONING" in text
    ) and _MARK.search(text) is not None  # fmt: skip


def split_thinking(text: str) -> tuple[str, str]:
    """What a text says, and what it thinks in tags.

    A tag that is never closed holds all that follows, and one that was never opened (the chat template had
    opened it) all that stands before.
    """
    said: list[str] = []
    thought: list[str] = []
    depth, at = 0, 0
    for mark in _MARK.finditer(text):
        piece = text[at : mark.start()]
        at = mark.end()
        if mark["open"]:
            (thought if depth else said).append(piece)
            depth += 1
        elif depth:
            thought.append(piece)
            depth -= 1
        else:
            thought += [*said, piece]
            said = []
    (thought if depth else said).append(text[at:])
    join = "".join
    return _END_TOKEN.sub("", join(said).strip().lstrip("\ufeff\u200b")).strip(), join(thought).strip()
