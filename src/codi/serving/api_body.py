"""A request's body: JSON that is said to be JSON, in whole characters."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Request

from codi.serving.api_errors import ApiError


async def json_body(request: Request) -> bytes:
    """The body, if it is said to be JSON. A page of another origin could send any other unasked."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        told = f"The body's type is '{kind[:80]}'" if kind else "The body's type is not given"
        raise ApiError(415, f"{told}; send the header 'Content-Type: application/json'.", "not_json")
    return await request.body()


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is. Raises ApiError where it is none, or holds half a surrogate pair."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        told = f"The body is not UTF-8 (byte {error.start:,} of {len(body):,})."
        raise ApiError(400, told, "invalid_json") from error
    try:
        value = json.loads(text, parse_constant=_no_number)
    except RecursionError as error:
        raise ApiError(400, "The body's JSON is nested too deeply.", "invalid_json") from error
    except ValueError as error:
        raise ApiError(400, f"JSON decode error: {error}.", "invalid_json") from error
    if not isinstance(value, dict):
        kinds = {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
        told = f"The body is {kinds.get(type(value), 'a number')}; a JSON object is expected."
        raise ApiError(400, told, "invalid_request")
    if "\\u" in text:
        for name, part in value.items():
            if not _whole_characters([name, part]):
                shown = name if _whole_characters(name) else None
                told = "holds half a surrogate pair (\\ud800 to \\udfff alone), which is no character"
                raise ApiError(400, f"{shown or 'A name of a field'} {told}.", "invalid_request", shown)
    return value


def _whole_characters(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _no_number(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")
