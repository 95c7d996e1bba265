"""What a refusal says: whom it is about, why, and when to ask again.

busy       408, 409, 425, 429, 5xx                                        asked again, ever later
question   400, 413, 422, 451, 403 that name the content of the question  set apart
all        401, 402, 404, 403, no credit, an unknown model or option      the run stops
unclear    any other 400, 422, ...                                        set apart, unless all are refused
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

LONGEST_PAUSE = 600.0
"""Seconds; a `Retry-After` that asks for more is taken for this much."""
DEEPEST = 5
"""Levels of an error body that are read."""

Scope = Literal["busy", "question", "unclear", "all"]

_CHECK = "Check the address, --model, the key (CODI_ENDPOINT_KEY) and the options."


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_BUSY = frozenset((408, 409, 425, 429))
_NAMES_CONTENT = frozenset((400, 403, 413, 422, 451, 500))
_CREDIT = _any(
    r"insufficient[_ ]?(?:quota|credit|balance|fund)", r"exceeded your current quota", r"billing",
    r"credit balance", r"out of credits", r"(?:more|enough|remaining) credits", r"payment required",
    r"spend(?:ing)? limit", r"budget (?:has been )?exceeded", r"arrears",
    r"account (?:is |has been )?(?:not active|deactivated|suspended|disabled)",
)  # fmt: skip
_KEY = _any(
    r"api[-_ ]?key", r"authenticat", r"unauthori[sz]ed", r"invalid token", r"permission[_ ]denied",
    r"location is not supported", r"(?:country|region)[^.]*not supported",
)  # fmt: skip
_FILTERED = _any(
    r"content[-_ ]?filter", r"content management policy", r"content[-_ ]?polic", r"responsible[-_ ]?ai",
    r"moderat", r"\bflagged", r"invalid[-_ ]prompt", r"data_?inspection", r"inappropriate",
    r"content exists risk", r"prohibited[-_ ]content", r"guardrail", r"usage polic", r"cyber_policy",
    r"violat\w*[^.]{0,40}polic", r"polic[^.]{0,40}violat", r"safety (?:system|reason|filter|setting|check)",
    r"(?:for|due to) safety", r"blocked[^.]{0,40}(?:safety|content|prompt)",
    r"sensitive (?:content|information|word)", r"unsafe content", r"不安全", r"敏感",
)  # fmt: skip
_TOO_LONG = _any(
    r"context[-_ ]?(?:length|window|size)",
    r"(?:max(?:imum)?|model)[-_ ](?:allowed )?(?:context|input|sequence|prompt|model)[-_ ]?(?:token|len)\w*",
    r"string[-_ ](?:above[-_ ]max[-_ ]length|too[-_ ]long)",
    r"(?:prompt|input|message|request|text|content)s?[^.]{0,40}(?:too (?:long|large|many tokens)|exceed)",
    r"exceed\w*[^.]{0,60}(?:token|context|length)", r"(?:token|length)s?[^.]{0,60}exceed",
    r"reduce (?:the|your) (?:length|prompt|input|message)", r"too many (?:input )?tokens",
    r"request_too_large", r"(?:payload|entity) too large", r"inputs` tokens",
    r"longer than the (?:model|max)", r"token_limit",
)  # fmt: skip
_ANSWER_LENGTH = _any(
    r"max_(?:\w+_)?tokens\b[^.]{0,60}(?:too large|at most|must be (?:less|between|a|greater))"
)
_OPTION = _any(
    r"unsupported[_ ](?:parameter|value)", r"unknown[_ ](?:parameter|field|argument)",
    r"unrecognized (?:request )?(?:argument|parameter|field)", r"extra inputs are not permitted",
    r"extra_forbidden", r"not supported with this model", r"parameter[^.]{0,60}(?:not supported|unknown)",
)  # fmt: skip
_MODEL = _any(
    r"model[-_ ]not[-_ ]found", r"(?:no such|unknown|invalid|unsupported) model", r"no models? loaded",
    r"\bmodel\b[^.]{0,80}(?:does not exist|not found|has been deprecated|not a valid)",
    r"\bmodel\b[^.]{0,80}is not (?:supported|available|loaded)", r"not a valid model",
)  # fmt: skip
_PASSING = _any(r"per[-_ ]?(?:minute|second|hour|day)", r"retry", r"try again", r"\b[rt]pm\b")
_RATE = _any(r"rate[-_ ]?limit", r"too many requests", r"throttl", r"server (?:is )?(?:busy|overloaded)")


def classify(status: int, said: str, *, own_fields: Collection[str] = ()) -> tuple[Scope, str]:
    """Whom a refusal is about, and its reason (of a question) or what mends it (of all).

    said: the codes and messages of the body (`said_in`); own_fields: the fields of each request.
    """
    filtered = status in _NAMES_CONTENT and _FILTERED.search(said) is not None
    if status == 401 or (status in (400, 403) and _KEY.search(said) and not filtered):
        return "all", f"Check the key (CODI_ENDPOINT_KEY). {_CHECK}"
    passing = status == 429 and "insufficient_quota" not in said and _PASSING.search(said)
    if status == 402 or (_CREDIT.search(said) and not passing and not filtered):
        return "all", "The account has no credit or quota left; the same command goes on once it has."
    if status in _BUSY or (status in (400, 403) and _RATE.search(said)):
        return "busy", ""
    if status in _NAMES_CONTENT and _ANSWER_LENGTH.search(said):
        return "unclear", "too long"
    if filtered or status == 451:
        return "question", "content filter"
    if status in (413, 414) or (status in _NAMES_CONTENT - {403} and _TOO_LONG.search(said)):
        return "question", "too long"
    if status in (403, 404, 405, 407, 410, 501) or "unexpected endpoint" in said.lower():  # LM Studio, as 200
        return "all", _CHECK
    if status >= 500:
        return "busy", ""
    if _MODEL.search(said):
        return "all", "Check --model."
    parameter = re.search(r"\bparam=(\S+)", said)
    if _OPTION.search(said) or (parameter and parameter[1] in set(own_fields) - {"messages"}):
        return "all", (
            "A field of the request is not taken: --extra '{\"FIELD\": null}' leaves it out, and --extra "
            "adds others (max_completion_tokens in place of max_tokens, say)."
        )
    return "unclear", "refused"


def said_in(body: Any) -> tuple[str, str]:
    """The codes and messages of an error body in one text; and the same as it is shown, the message first."""
    if isinstance(body, str):
        title = re.search(r"<title[^>]*>(.*?)</title>", body, re.IGNORECASE | re.DOTALL)
        if body.lstrip()[:1] == "<":
            body = f"a web page{f': {title[1]}' if title else ''}"
        text = " ".join(body.split())
        return text, text
    texts: list[str] = []
    codes: list[str] = []
    _collect(body, texts, codes)
    message = " ".join(" ".join(dict.fromkeys(texts)).split())
    names = [code for code in dict.fromkeys(codes) if not code.isdigit()]
    shown = [code.removeprefix("param=") for code in names if code not in message]
    told = f"{message} ({', '.join(shown)})" if message and shown else message or ", ".join(shown)
    return f"{' '.join(names)} {message}", told or str(body)


_TEXTS = ("message", "msg", "detail", "error", "error_description", "title", "error_msg")
_CODES = (
    "code", "type", "status", "reason", "reasons", "finish_reason", "block_reason", "blockReason",
    "error_code",
)  # fmt: skip
_DEEPER = ("error", "errors", "detail", "details", "innererror", "inner_error", "metadata")


def _collect(body: Any, texts: list[str], codes: list[str], depth: int = 0) -> None:
    """What an error body gives for a reason; never what echoes the request (`input`, `flagged_input`)."""
    if depth > DEEPEST:
        return
    if isinstance(body, list):
        for item in body[:8]:
            if isinstance(item, str):
                texts.append(item)
            else:
                _collect(item, texts, codes, depth + 1)
        return
    if not isinstance(body, dict):
        return
    for name in _TEXTS:
        if isinstance(body.get(name), str):
            texts.append(body[name])
    for name in _CODES:
        values = body.get(name)
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
                codes.append(str(value))
    if isinstance(body.get("param"), str):
        codes.append(f"param={body['param']}")
    for name in _DEEPER:
        if isinstance(body.get(name), (dict, list)):
            _collect(body[name], texts, codes, depth + 1)


_AGAIN_IN = re.compile(
    r"(?:retry|try again|wait)[^.\d]{0,20}(?:(?P<minutes>\d+)\s*m(?:in\w*)?(?![a-z])\s*)?"
    r"(?:(?P<amount>\d+(?:\.\d+)?)\s*(?P<unit>ms|s\b|sec\w*))?",
    re.IGNORECASE,
)


def retry_after(headers: Mapping[str, str], told: str) -> float | None:
    """Seconds that the endpoint asks to wait, in a header (seconds or a date) or in its message."""
    for name, scale in (("retry-after-ms", 0.001), ("Retry-After", 1.0)):
        value = (headers.get(name) or "").strip()
        if re.fullmatch(r"\d+(\.\d+)?", value):
            return min(LONGEST_PAUSE, float(value) * scale)
    parsed = email.utils.parsedate_tz(headers.get("Retry-After") or "")
    if parsed is not None:
        left = email.utils.mktime_tz(parsed) - datetime.now(UTC).timestamp()
        return min(LONGEST_PAUSE, max(0.0, left))
    for found in _AGAIN_IN.finditer(told):
        if found["minutes"] is not None or found["amount"] is not None:
            scale = 0.001 if (found["unit"] or "").lower() == "ms" else 1.0
            return min(LONGEST_PAUSE, 60 * int(found["minutes"] or 0) + scale * float(found["amount"] or 0))
    return None
