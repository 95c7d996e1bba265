"""What may be asked over the API: OpenAI's request bodies, with what this package adds to them.

    reasoning         latent (the model's own way), explicit (it writes its rationale) or direct, as it can
    latents           another number of continuous thoughts than trained
    decoded_thoughts  what each thought decodes to, in the answer's `codi` field

A parameter of OpenAI's or vLLM's that does nothing here is taken while its value asks for nothing, and
refused by its name with any other: nothing is ignored that would change the answer.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from codi.serving.api_body import parse_object
from codi.serving.api_errors import ApiError
from codi.serving.api_neutral import (
    NEUTRAL,
    NEUTRAL_IN_CHAT,
    NEUTRAL_IN_COMPLETIONS,
    SWITCH,
    refuse_others,
    refused,
)

MOST_CHOICES = 16
MOST_TOKENS = 4096
MOST_STOPS = 16
LONGEST_STOP = 1000
"""Characters."""
MOST_LIKELIEST = 20
"""Tokens listed for every token written."""
LOWEST_SEED, HIGHEST_SEED = -(2**63), 2**63 - 1


def _number(value: Any) -> Any:
    """JSON's own kinds: a number in a text is a text, as it is to OpenAI."""
    if isinstance(value, bool):
        raise ValueError("Input should be a number, not true or false")
    if isinstance(value, str):
        raise ValueError("Input should be a number, not a text")
    return value


def _seed(value: int) -> int:
    if not LOWEST_SEED <= value <= HIGHEST_SEED:
        raise ValueError(f"Input should be a whole number from {LOWEST_SEED} to {HIGHEST_SEED}")
    return value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _stop_texts(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(one, str) and one for one in stops):
        raise ValueError("Input should be a text, or a list of texts, none of them empty")
    if len(stops) > MOST_STOPS:
        raise ValueError(f"{len(stops)} stop texts were given; at most {MOST_STOPS} are taken")
    longest = max(map(len, stops), default=0)
    if longest > LONGEST_STOP:
        raise ValueError(f"A stop text has {longest:,} characters; at most {LONGEST_STOP:,} are taken")
    return tuple(stops)


Whole = Annotated[int, BeforeValidator(_number)]
Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Switch = Annotated[bool, Field(strict=True)]
Seed = Annotated[Whole, AfterValidator(_seed)]
_TEXT = {"type": "string", "minLength": 1, "maxLength": LONGEST_STOP}
_TEXTS = {"type": "array", "items": _TEXT, "maxItems": MOST_STOPS}
Stops = Annotated[
    tuple[str, ...],
    PlainValidator(_stop_texts),
    WithJsonSchema({"anyOf": [_TEXT, _TEXTS, {"type": "null"}]}),
]


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(extra="allow")
    include_usage: Switch | None = None

    @model_validator(mode="after")
    def _nothing_ignored(self) -> StreamOptions:
        neutral = {"include_obfuscation": SWITCH, "continuous_usage_stats": (False,)}
        refuse_others(self.model_extra or {}, neutral, ["include_usage"], "stream_options.")
        return self


class Request(BaseModel):
    """What both kinds of completion take."""

    model_config = ConfigDict(extra="allow")

    model: str
    max_tokens: Whole | None = Field(None, ge=0, description="Tokens written; thoughts are not.")
    temperature: Real | None = Field(None, ge=0, le=2, description="0 is greedy, and the default.")
    top_p: Real | None = Field(None, gt=0, le=1)
    top_k: Whole | None = Field(None, ge=-1, description="Sample among so many; 0 and -1 are off.")
    seed: Seed | None = Field(
        None,
        description="By default drawn, and told.",
        json_schema_extra={"minimum": LOWEST_SEED, "maximum": HIGHEST_SEED},
    )
    stop: Stops = ()
    n: Whole | None = Field(None, ge=1, le=MOST_CHOICES)
    best_of: Whole | None = Field(None, ge=1, description="The same as n, if given.")
    stream: Switch | None = None
    stream_options: StreamOptions | None = None
    reasoning: Annotated[Literal["latent", "explicit", "direct"] | None, BeforeValidator(_lower)] = None
    ignore_eos: Switch | None = Field(None, description="Write on past the end of text, to max_tokens.")
    latents: Whole | None = Field(None, ge=0)
    decoded_thoughts: Switch | None = None

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Request:
        refuse_others(self.model_extra or {}, self.neutral(), list(type(self).model_fields))
        if self.best_of is not None and self.best_of != self.choices:
            why = f"no best answer is picked here, so it must be n, which is {self.choices}"
            raise refused("best_of", self.best_of, why)
        if self.stream_options is not None and not self.stream:
            raise _goes_with("stream_options", "stream: true")
        return self

    @classmethod
    def neutral(cls) -> dict[str, tuple[Any, ...]]:
        """Parameters that do nothing here, with the values that ask for nothing."""
        return NEUTRAL

    @property
    def choices(self) -> int:
        """Answers per question."""
        return self.n or 1


class Message(BaseModel):
    """A message. Its content is a text, or parts of text."""

    role: Annotated[
        Literal["user", "system", "developer", "assistant", "tool", "function"], BeforeValidator(_lower)
    ]
    content: Annotated[
        str,
        BeforeValidator(lambda value: _joined(value)),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string"},
                    {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                            "required": ["type", "text"],
                        },
                    },
                ]
            }
        ),
    ]


class ChatRequest(Request):
    """`/v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: Whole | None = Field(None, ge=0)
    logprobs: Switch | None = None
    top_logprobs: Whole | None = Field(None, ge=0, le=MOST_LIKELIEST)

    @classmethod
    def neutral(cls) -> dict[str, tuple[Any, ...]]:
        """As the base has it, and what vLLM has for chats."""
        return NEUTRAL | NEUTRAL_IN_CHAT

    @model_validator(mode="after")
    def _one_question(self) -> ChatRequest:
        if len(self.messages) > 1 or self.messages[0].role != "user":
            found = ", ".join(one.role for one in self.messages[:8])
            raise ApiError(
                400,
                "messages: the model answers one question at a time and was trained without system messages "
                f"or earlier turns: send one message, of role 'user' (found: {found})",
                "invalid_request", "messages",
            )  # fmt: skip
        if self.top_logprobs and not self.logprobs:
            raise _goes_with("top_logprobs", "logprobs: true")
        if self.most_tokens == 0:
            newer = self.max_completion_tokens is not None
            raise _nothing_to_write("max_completion_tokens" if newer else "max_tokens")
        return self

    @property
    def questions(self) -> list[str | tuple[int, ...]]:
        """The one question."""
        return [self.messages[0].content]

    @property
    def most_tokens(self) -> int | None:
        """Under either of its names."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def likeliest(self) -> int | None:
        """With each token written so many likeliest ones; None: no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def echoed(self) -> bool:
        """Whether the question stands before the answer."""
        return False


_IDS: dict[str, Any] = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}


class CompletionRequest(Request):
    """`/v1/completions`: a question or several, each a text or tokens."""

    prompt: Annotated[
        list[str | tuple[int, ...]],
        PlainValidator(lambda value: _prompts(value)),
        WithJsonSchema(
            {"anyOf": [
                {"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1},
                _IDS, {"type": "array", "items": _IDS, "minItems": 1},
            ]}
        ),
    ]  # fmt: skip
    echo: Switch | None = None
    logprobs: Annotated[
        Annotated[Whole, Field(ge=0, le=MOST_LIKELIEST)] | None,
        BeforeValidator(lambda value: None if value is False else value),
    ] = None

    @classmethod
    def neutral(cls) -> dict[str, tuple[Any, ...]]:
        """As the base has it, and what OpenAI and vLLM have for completions."""
        return NEUTRAL | NEUTRAL_IN_COMPLETIONS

    @model_validator(mode="after")
    def _something_to_do(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise _nothing_to_write("max_tokens", "; 0 only with echo: true")
        return self

    @property
    def questions(self) -> list[str | tuple[int, ...]]:
        """Every question, as text or as tokens."""
        return self.prompt

    @property
    def most_tokens(self) -> int | None:
        """Most tokens written for a choice; 0 with `echo` alone."""
        return self.max_tokens

    @property
    def likeliest(self) -> int | None:
        """With each token so many likeliest ones; None: no log-probabilities."""
        return self.logprobs

    @property
    def echoed(self) -> bool:
        """Whether the question stands before the answer."""
        return bool(self.echo)


Asked = TypeVar("Asked", ChatRequest, CompletionRequest)


def parsed(kind: type[Asked], body: bytes) -> Asked:
    """A request out of its body. Raises ApiError, about the field that is to blame."""
    value = parse_object(body)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)[0]
        param = place(found["loc"])
        told = str(found["msg"]).removeprefix("Value error, ")
        raise ApiError(400, f"{param}: {told}", "invalid_request", param) from error


def place(steps: tuple[int | str, ...]) -> str:
    """Where in a body something is, as a person writes it: messages[0].content."""
    told = ""
    for step in steps:
        told += f"[{step}]" if isinstance(step, int) else f".{step}" if told else step
    return told


def _goes_with(name: str, other: str) -> ApiError:
    return ApiError(400, f"{name}: it goes with {other}", "invalid_request", name)


def _nothing_to_write(name: str, but: str = "") -> ApiError:
    return ApiError(400, f"{name}: it must be 1 or more{but}", "invalid_request", name)


def _joined(value: Any) -> str:
    """A message's content as one text."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ValueError("Input should be a text, or a list of parts of text")
    texts = []
    for number, part in enumerate(value):
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str) or kind.lower() != "text" or not isinstance(part.get("text"), str):
            shown = kind if isinstance(kind, str) and kind.lower() != "text" else "no text"
            raise ValueError(f"part {number} is {shown[:60]}; the model reads parts of type 'text' alone")
        texts.append(part["text"])
    return "".join(texts)


def _prompts(value: Any) -> list[str | tuple[int, ...]]:
    """A text, tokens, or a list of one of them, as a list."""
    kinds = "a text, a list of texts, a list of token ids, or a list of lists of token ids"
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise ValueError(f"Input should be {kinds}; it is {'an empty list' if value == [] else 'neither'}")
    if all(isinstance(one, str) for one in value):
        return list(value)
    if all(are_ids([one]) for one in value):
        return [tuple(value)]
    for number, one in enumerate(value):
        if not isinstance(one, list) or not one or not are_ids(one):
            raise ValueError(f"Input should be {kinds}; item {number} does not fit with the others")
    return [tuple(one) for one in value]


def are_ids(values: list[Any]) -> bool:
    """Whether all are whole numbers."""
    return all(isinstance(one, int) and not isinstance(one, bool) for one in values)
