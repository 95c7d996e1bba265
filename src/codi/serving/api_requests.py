"""What may be asked over the API: OpenAI's request bodies, with what this package adds to them.

    reasoning         latent (the model's own way), explicit (it writes its rationale) or direct, as it can
    latents           another number of continuous thoughts than trained
    decoded_thoughts  what each thought decodes to, in the answer's `codi` field

A parameter of OpenAI's that does nothing here is an error, never ignored, unless its value asks for nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MOST_CHOICES = 16
MOST_TOKENS = 4096
_ASKS_FOR_NOTHING: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "store": (False,),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none",),
    "parallel_tool_calls": (True, False),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
}
"""Parameters of OpenAI's that are taken with these values, or null, and refused with others."""
_NO_EFFECT_ON_THE_ANSWER = ("user", "metadata", "safety_identifier", "prompt_cache_key")


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False


class Request(BaseModel):
    """What both kinds of completion take."""

    model_config = ConfigDict(extra="allow")

    model: str
    max_tokens: int | None = Field(
        None, ge=1, le=MOST_TOKENS, description="Tokens written; thoughts are not."
    )
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy, and the default.")
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[str, Field(min_length=1)] | list[Annotated[str, Field(min_length=1)]] | None = None
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    reasoning: Literal["latent", "explicit", "direct"] | None = None
    latents: int | None = Field(None, ge=0)
    decoded_thoughts: bool = False

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        if isinstance(value, list) and len(value) > 4:
            raise ValueError(f"{len(value)} stop texts were given; at most 4 are taken")
        return value

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Request:
        for name, value in (self.model_extra or {}).items():
            if name in _NO_EFFECT_ON_THE_ANSWER or value is None or value in _ASKS_FOR_NOTHING.get(name, ()):
                continue
            if name in _ASKS_FOR_NOTHING:
                raise ValueError(f"'{name}' is not supported; leave it out")
            raise ValueError(f"there is no parameter '{name}' here")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options goes with stream: true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop texts."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class TextPart(BaseModel):
    """A part of a message; text is all the model reads."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A message. Its content is a text, or parts of text."""

    role: Literal["user", "system", "developer", "assistant", "tool", "function"]
    content: str | list[TextPart]


class ChatRequest(Request):
    """`/v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)

    @field_validator("messages")
    @classmethod
    def _one_question(cls, value: list[Message]) -> list[Message]:
        if len(value) > 1 or value[0].role != "user":
            raise ValueError(
                "the model answers one question at a time and was trained without system messages or earlier "
                f"turns: send one message, of role 'user' (found: {', '.join(one.role for one in value[:8])})"
            )
        return value

    @property
    def questions(self) -> list[str]:
        """The one question."""
        content = self.messages[0].content
        return [content if isinstance(content, str) else "".join(part.text for part in content)]

    @property
    def most_tokens(self) -> int | None:
        """Under either of its names."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


class CompletionRequest(Request):
    """`/v1/completions`: a question, or several."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=MOST_CHOICES)]

    @property
    def questions(self) -> list[str]:
        """Every question."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def most_tokens(self) -> int | None:
        """Most tokens written for a choice."""
        return self.max_tokens
