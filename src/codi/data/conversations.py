"""Conversations as rows: one question and the reply to it.

    messages         [{"role": "user", "content": ..}, {"role": "assistant", "content": ..}]
    conversations    [{"from": "human", "value": ..}, {"from": "gpt", "value": ..}]         ShareGPT

A system message is put before the question: the model reads one text, and what it was told may matter.
Reasoning in a field of its own (`reasoning_content`, `reasoning`, `thinking`) is read like
`<think>..</think>` in the reply. A conversation of several questions is no example: what its last reply
answers is not one text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from codi.data.example import RowDefect
from codi.data.values import is_missing
from codi.data.written_lists import looks_like_list, written_list

NOT_ONE_QUESTION = "conversation that is not one question and one reply"
UNREADABLE = "conversation that cannot be read"
_ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "ai", "bard"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}  # fmt: skip
_REASONING = ("reasoning_content", "reasoning", "thinking", "thought")


class Turn(NamedTuple):
    """role: system, user or assistant; reasoning: what an assistant thought before its text."""

    role: str
    text: str
    reasoning: str = ""


class Conversation(NamedTuple):
    """One question, and the reply ('' where there is none); told: whether the question begins with what a
    system message said."""

    question: str
    reply: str
    told: bool


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of turns, as it is or as text."""
    if isinstance(value, str) and looks_like_list(value):
        try:
            value = written_list(value)
        except ValueError:
            return False
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and isinstance(value[0], dict)
        and all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in value)
    )


def read_conversation(value: Any) -> Conversation:
    """The question and the reply of a conversation.

    Raises:
        RowDefect: it cannot be read, or is not one question and one reply.
    """
    turns = _turns(value)
    spoken = [turn for turn in turns if turn.role != "system"]
    roles = [turn.role for turn in spoken]
    if roles not in (["user", "assistant"], ["user"]):
        raise RowDefect(
            NOT_ONE_QUESTION,
            " / ".join(f"{turn.role}: {turn.text}" for turn in spoken) or "no turns",
            f"It has {roles.count('user')} turns of the user and {roles.count('assistant')} of the "
            "assistant. Keep the rows with one of each, or write each question as a row of its own",
        )
    told = "\n".join(turn.text.strip() for turn in turns if turn.role == "system" and turn.text.strip())
    question = f"{told}\n\n{spoken[0].text}" if told and spoken[0].text.strip() else spoken[0].text
    return Conversation(question, reply_of(spoken[1]) if len(spoken) > 1 else "", bool(told))


def reply_text(value: Any) -> str:
    """The reply in a completion of its own: a list with one turn of the assistant.

    Raises RowDefect where it is another list.
    """
    turns = _turns(value)
    if [turn.role for turn in turns] != ["assistant"]:
        raise RowDefect(NOT_ONE_QUESTION, str(value), "The completion must be one turn of the assistant")
    return reply_of(turns[0])


def reply_of(turn: Turn) -> str:
    """What an assistant said, its reasoning before it in tags."""
    return f"<think>{turn.reasoning}</think>\n{turn.text}" if turn.reasoning.strip() else turn.text


def _turns(value: Any) -> list[Turn]:
    if isinstance(value, str):
        try:
            value = written_list(value)
        except ValueError as error:
            raise RowDefect(UNREADABLE, value, f"Write it as JSON: {error}") from None
    if not isinstance(value, list | tuple) or not all(isinstance(turn, dict) for turn in value):
        raise RowDefect(UNREADABLE, str(value), "Give a list of {'role', 'content'}, or of {'from', 'value'}")
    return [_turn(turn) for turn in value]


def _turn(turn: Mapping[str, Any]) -> Turn:
    said = next((str(turn[name]) for name in ("role", "from") if turn.get(name) is not None), "")
    role = _ROLES.get(said.strip().lower())
    if role is None:
        raise RowDefect(
            f"a turn of the conversation is by '{said}'", str(dict(turn)),
            "Roles that can be read: system, user (human), assistant (gpt)",
        )  # fmt: skip
    content = next((turn[name] for name in ("content", "value", "text") if turn.get(name) is not None), None)
    text, thought = _content(content, turn)
    field = next((turn[name] for name in _REASONING if isinstance(turn.get(name), str)), "")
    return Turn(role, text, field or thought)


def _content(content: Any, turn: Mapping[str, Any]) -> tuple[str, str]:
    """Text and reasoning of a content: a text, or a list of parts."""
    if is_missing(content):
        return "", ""
    if isinstance(content, str):
        return content, ""
    parts = content if isinstance(content, list | tuple) else [content]
    text, thought = list[str](), list[str]()
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        if isinstance(part, str):
            text.append(part)
        elif (
            isinstance(part, dict)
            and kind in ("text", "output_text", "input_text")
            and isinstance(part.get("text"), str)
        ):
            text.append(part["text"])
        elif isinstance(part, dict) and kind in ("thinking", "reasoning"):
            thought.append(str(part.get(kind) or part.get("text") or ""))
        else:
            raise RowDefect(f"a turn of the conversation holds '{kind}', which is no text", str(dict(turn)))
    return "\n".join(text), "\n".join(thought)
