"""Parameters of OpenAI's and vLLM's that do nothing here: values that are taken; how others are refused."""

from __future__ import annotations

import json
from typing import Any

from codi.errors import nearest
from codi.serving.api_errors import ApiError

SWITCH = (True, False)
NEUTRAL: dict[str, tuple[Any, ...]] = {
    # OpenAI
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "store": (False,),
    "response_format": ({"type": "text"},),
    "reasoning_effort": ("medium",),
    "verbosity": ("medium",),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": SWITCH,
    "modalities": (["text"],),
    "service_tier": ("auto", "default", "flex", "priority"),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    # vLLM, and servers that take its parameters
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "min_p": (0,),
    "typical_p": (1,),
    "min_tokens": (0,),
    "use_beam_search": (False,),
    "early_stopping": (False,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": SWITCH,
    "return_tokens_as_token_ids": (False,),
    "return_token_ids": (False,),
    "prompt_logprobs": (),
    "truncate_prompt_tokens": (),
    "logits_processors": ([],),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
    "priority": (0,),
}
"""Parameters taken with these values, or null, and refused with others."""
NEUTRAL_IN_CHAT: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "add_special_tokens": (False,),
    "echo": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "documents": ([],),
    "include_reasoning": (True,),
}
NEUTRAL_IN_COMPLETIONS: dict[str, tuple[Any, ...]] = {"suffix": ("",), "add_special_tokens": (True,)}
NO_EFFECT = (
    "user",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "request_id",
    "cache_salt",
)
"""Parameters that change no answer, whatever their value."""


def refused(name: str, value: Any, why: str) -> ApiError:
    """A parameter's value that is not supported."""
    shown = json.dumps(value)
    shown = shown if len(shown) <= 60 else shown[:60] + " ..."
    return ApiError(400, f"'{name}' is not supported with {shown}: {why}.", "unsupported_parameter", name)


def refuse_others(
    given: dict[str, Any], neutral: dict[str, tuple[Any, ...]], fields: list[str], where: str = ""
) -> None:
    """Raise ApiError at the first parameter that would have to be ignored."""
    for name, value in given.items():
        if name in NO_EFFECT or value is None or _is_one_of(value, neutral.get(name, ())):
            continue
        if name in neutral:
            others = " or ".join(json.dumps(one) for one in neutral[name])
            raise refused(where + name, value, "leave it out" + (f", or send {others}" if others else ""))
        hint = nearest(name, [*fields, *neutral])
        told = f"there is no parameter '{where}{name[:60]}' here.{hint}"
        raise ApiError(400, told, "unknown_parameter", where + name[:60])


def _is_one_of(value: Any, taken: tuple[Any, ...]) -> bool:
    """In Python false is 0 and true is 1; in JSON they are not."""
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in taken)
