"""What a reasoner returns for one question."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """One answered question.

    Attributes:
        question: the question as it was asked.
        text: everything the model wrote, decoded; the thoughts themselves have no text.
        value: the answer read out of `text`, or None where none could be read.
        thoughts: thought tokens spent: latents + 2 (`<bot>`, `<eot>`), or the written rationale's tokens.
        passes: sequential model passes from the question to the last answer token.
        answer_tokens: tokens of the answer itself.
        finished: False where `max_new_tokens` or the model's last position cut the answer off.
    """

    question: str
    text: str
    value: str | None
    thoughts: int
    passes: int
    answer_tokens: int
    finished: bool = True
