"""What was answered, in OpenAI's form: whole, or as the events of a stream."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from codi.data.encoding import TextEncoder
from codi.serving.api_logprobs import TokenBytes, of_chat, of_completion, offsets_from
from codi.serving.api_requests import ChatRequest, CompletionRequest
from codi.serving.engine import Finished, Piece, ScoredToken


@dataclass
class ResponseForm:
    """The form of one request's response.

    name: of the model; seed: with which its answers were drawn (None: they were not); questions: as text;
    mode: in which they were answered.
    """

    body: ChatRequest | CompletionRequest
    name: str
    text: TextEncoder
    bytes_of: TokenBytes
    seed: int | None
    questions: list[str]
    mode: str
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = ""

    def __post_init__(self) -> None:
        self.id = f"{'chatcmpl' if self.is_chat else 'cmpl'}-{uuid.uuid4().hex}"

    @property
    def is_chat(self) -> bool:
        """Whether the request was a chat's."""
        return isinstance(self.body, ChatRequest)

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return self.body.stream_options is not None and bool(self.body.stream_options.include_usage)

    def head(self) -> dict[str, Any]:
        """What every response and every chunk begins with."""
        kind = "chat.completion" if self.is_chat else "text_completion"
        kind += ".chunk" if self.body.stream and self.is_chat else ""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.name}

    def chunk(self, choice: int, content: dict[str, Any]) -> str:
        """An event of the stream about one choice."""
        filled = {"index": choice, "finish_reason": None, "logprobs": None, **content}
        usage = {"usage": None} if self.tells_usage else {}
        return event_of({**self.head(), "choices": [filled], **usage})

    def whole(self, ends: dict[int, Finished]) -> str:
        """The response that is not streamed. ends: by choice."""
        choices = [self.choice(choice, ends[choice], whole=True) for choice in sorted(ends)]
        return json.dumps({**self.head(), "choices": choices, "usage": self.usage(ends)})

    def last(self, number: int, one: Finished) -> str:
        """The last event about a choice: why it ended, and how it was thought."""
        content = self.choice(number, one, whole=False)
        return self.chunk(number, {"delta": {}, **content} if self.is_chat else {"text": "", **content})

    def used(self, ends: dict[int, Finished]) -> str:
        """The event that tells the usage."""
        return event_of({**self.head(), "choices": [], "usage": self.usage(ends)})

    def choice(self, number: int, one: Finished, *, whole: bool) -> dict[str, Any]:
        """A finished choice. whole: with its text, which a stream has sent before."""
        thoughts: dict[str, Any] = {
            "value": one.answer.value,
            "thought_tokens": one.answer.thoughts,
            "sequential_passes": one.answer.passes,
            "unknown_tokens": one.unknown_tokens,
            "seed": self.seed,
        }
        if one.decoded is not None:
            thoughts["decoded_thoughts"] = [
                [{"token": token, "probability": round(share, 6)} for token, share in tokens]
                for tokens in one.decoded
            ]
        choice: dict[str, Any] = {
            "index": number,
            "finish_reason": "stop" if one.answer.finished else "length",
            "logprobs": None,
            "codi": thoughts,
        }
        if whole:
            text = self.question_text(number) + one.answer.text
            message = {"role": "assistant", "content": text, "refusal": None}
            choice |= {"message": message} if self.is_chat else {"text": text}
            choice["logprobs"] = self.logprobs(number, one.prompt_tokens or (), self.written(one), None)
        return choice

    def question_text(self, choice: int) -> str:
        """What stands before an answer: the question, where it is echoed."""
        return self.questions[choice // self.body.choices] if self.body.echoed else ""

    def written(self, one: Finished) -> tuple[ScoredToken, ...]:
        """The tokens of an answer. With `echo` the end of text is one: who asks for n tokens gets n."""
        end = (one.end,) if self.body.echoed and one.end is not None else ()
        return (one.tokens or ()) + end

    def logprobs(
        self,
        choice: int,
        question: tuple[ScoredToken, ...],
        written: tuple[ScoredToken, ...],
        begin: int | None,
    ) -> dict[str, Any] | None:
        """In the form of this kind of request; None where none were asked for.

        begin: where `written` begins in the text; None: with what the model wrote itself.
        """
        if self.body.likeliest is None:
            return None
        if self.is_chat:
            return of_chat(written, self.bytes_of)
        begin = self.first_written(choice) if begin is None else begin
        offsets = offsets_from(0, question) + offsets_from(begin, written)
        return of_completion(question + written, offsets)

    def first_written(self, choice: int) -> int:
        """Where in a choice's text the model's own tokens begin: behind the answer prompt, if it was read."""
        was_read = self.mode != "explicit" and self.body.most_tokens != 0
        opening = self.text.decode(self.text.prompt_ids) if was_read else ""
        return len(self.question_text(choice)) + len(opening)

    def usage(self, ends: dict[int, Finished]) -> dict[str, Any]:
        """A question counts once, whatever the number of its choices.

        Thoughts count as reasoning tokens and, as OpenAI has it, as part of the completion.
        """
        prompt = sum(one.question_tokens for choice, one in ends.items() if choice % self.body.choices == 0)
        completion = sum(one.latent_tokens + one.written_tokens for one in ends.values())
        thoughts = sum(one.answer.thoughts for one in ends.values())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "completion_tokens_details": {"reasoning_tokens": thoughts},
        }


class Streamed:
    """What of a choice has been streamed."""

    def __init__(self, form: ResponseForm, choice: int) -> None:
        self.form, self.choice = form, choice
        self.offset = form.first_written(choice)  # of the next token, in characters
        self.question_sent = not form.body.echoed
        # The question's log-probabilities come with the end, and stand before everything else.
        scored = form.body.echoed and form.body.likeliest is not None
        self.held: list[Piece] | None = [] if scored else None

    def events(self, event: Piece | Finished) -> list[str]:
        """What this adds to the stream."""
        pieces, question = [event] if isinstance(event, Piece) else [], tuple[ScoredToken, ...]()
        if isinstance(event, Finished):
            question = event.prompt_tokens or ()
            if self.form.body.echoed and event.end is not None:
                pieces = [Piece("", (event.end,))]
        if self.held is not None:
            self.held += pieces
            if isinstance(event, Piece):
                return []
            pieces = self.held
        chunks = []
        if not self.question_sent:
            self.question_sent = True
            chunks.append(self._chunk(self.form.question_text(self.choice), question, ()))
        return [*chunks, *(self._chunk(piece.text, (), piece.tokens) for piece in pieces)]

    def _chunk(self, text: str, question: tuple[ScoredToken, ...], written: tuple[ScoredToken, ...]) -> str:
        logprobs = self.form.logprobs(self.choice, question, written, self.offset)
        self.offset += sum(len(token.text) for token in written)
        content = {"delta": {"content": text}} if self.form.is_chat else {"text": text}
        return self.form.chunk(self.choice, {**content, "logprobs": logprobs})


def event_of(content: Any) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(content)}\n\n"
