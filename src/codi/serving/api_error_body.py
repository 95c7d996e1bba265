"""The form of an error. It needs nothing else, for whoever has no model loaded."""

from __future__ import annotations

from typing import Any

SECONDS_TO_COME_BACK = 5
"""After which what is not there now may be there again."""


def error_body(
    message: str, code: str, kind: str = "invalid_request_error", param: str | None = None
) -> dict[str, Any]:
    """An error as OpenAI's clients expect it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
