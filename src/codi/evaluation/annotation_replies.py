"""What an endpoint's body says: the written answer, the reasoning beside it, why it ended.

content     a string, null, or parts: text, output_text, refusal, thinking, reasoning
reasoning   reasoning_content, reasoning, reasoning_details, thinking; <think>..</think> in the content
body        with or without usage, streamed although nobody asked, with a byte order mark, compressed
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from dataclasses import dataclass
from typing import Any, NamedTuple

from codi.data.thinking import split_thinking

_REASONING_FIELDS = (
    "reasoning_content", "reasoning", "reasoning_details", "thinking", "thinking_blocks", "thought"
)  # fmt: skip
_REASONING_PARTS = ("thinking", "reasoning", "reasoning_text", "summary_text", "thought", "reasoning.text")
_CUT_OFF = ("length", "max_tokens", "max_output_tokens", "model_length", "token_limit")
_FILTERED = (
    "content_filter", "content_filtered", "safety", "recitation", "prohibited_content", "blocklist", "spii",
    "sensitive", "refusal", "guardrail_intervened",
)  # fmt: skip
_FAILED = ("error", "insufficient_system_resource", "network_error", "abort", "cancelled")


class NotAReply(Exception):
    """A body with status 200 that holds no reply.

    error: the body of an error that came with it, and its status; other_api: the endpoint speaks another API.
    """

    def __init__(
        self, problem: str, *, error: Any = None, status: int = 500, other_api: bool = False
    ) -> None:
        super().__init__(problem)
        self.error = error
        self.status = status
        self.other_api = other_api


@dataclass(frozen=True)
class Reply:
    """One reply. content and reasoning: as they came, '' where there is none; reasoning_from: the field that
    held it; refusal: what the model or its filter said in place of an answer; tokens: None where not told."""

    content: str
    reasoning: str = ""
    reasoning_from: str | None = None
    cut_off: bool = False
    filtered: bool = False
    refusal: str = ""
    calls_tool: bool = False
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def parse_body(content: bytes, charset: str | None = None) -> Any:
    """The JSON of a body; a text where it is none. Compression and byte order marks are undone."""
    if content[:2] == b"\x1f\x8b":  # compressed without a header that says so
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            return f"a compressed body that is damaged ({error})"
    text = ""
    for name in (json.detect_encoding(content), charset or "utf-8", "latin-1"):
        try:
            text = content.decode(name)
            break
        except (UnicodeDecodeError, LookupError):
            continue  # latin-1 reads everything
    text = text.lstrip("\ufeff")
    try:
        body = json.loads(text)
    except ValueError:
        events = _events(text)
        return text if events is None else events
    return body[0] if isinstance(body, list) and len(body) == 1 else body


def read_reply(body: Any) -> Reply:
    """The reply in a parsed body.

    Raises:
        NotAReply: it holds none; the message says what it is.
    """
    if isinstance(body, str):
        raise NotAReply(_what_text(body), other_api=True)
    if not isinstance(body, dict):
        raise NotAReply(f"it answered JSON without choices: {str(body)[:200]}", other_api=True)
    if body.get("error"):
        raise NotAReply("an error", error=body, status=_status_of(body["error"]))
    if "choices" not in body:
        raise NotAReply(_what_object(body), other_api=True)
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    tokens: dict[str, Any] = {
        "prompt_tokens": _count(usage.get("prompt_tokens", usage.get("input_tokens"))),
        "completion_tokens": _count(usage.get("completion_tokens", usage.get("output_tokens"))),
    }
    choices = body["choices"]
    choice = choices[0] if isinstance(choices, list) and choices else None
    if choice is None:
        told = str(body.get("prompt_filter_results") or body.get("promptFeedback") or "")
        return Reply("", filtered="'filtered': True" in told or "blockReason" in told, **tokens)
    if not isinstance(choice, dict):
        raise NotAReply(f"its choice is no object: {str(choice)[:200]}", other_api=True)
    if choice.get("error"):
        raise NotAReply("an error", error={"error": choice["error"]}, status=_status_of(choice["error"]))
    message = choice.get("message")
    if not isinstance(message, dict):
        if not isinstance(choice.get("text"), str):
            raise NotAReply(f"its choice holds no message: {str(choice)[:200]}", other_api=True)
        message = {"content": choice["text"]}
    finish = str(choice.get("finish_reason") or "").lower()
    if finish in _FAILED:
        raise NotAReply(f"the reply ended with '{finish}'", error={"message": finish}, status=503)
    parts = _parts(message.get("content"))
    reasoning, field = parts.reasoning, "content"
    for name in _REASONING_FIELDS:
        if found := _flat(message.get(name)).strip():
            reasoning, field = found, name
            break
    content, thought = split_thinking(parts.text)
    if thought and not reasoning.strip():
        reasoning, field = thought, "<think>"
    return Reply(
        content,
        reasoning.strip(),
        field if reasoning.strip() else None,
        finish in _CUT_OFF,
        finish in _FILTERED,
        (parts.refusal or _flat(message.get("refusal"))).strip(),
        bool(message.get("tool_calls") or message.get("function_call")),
        **tokens,
    )


class _Parts(NamedTuple):
    text: str
    reasoning: str
    refusal: str


def _parts(content: Any) -> _Parts:
    """The content of a message, of whatever shape."""
    if not isinstance(content, list):
        content = [content]
    text: list[str] = []
    reasoning: list[str] = []
    refusal: list[str] = []
    for part in content:
        kind = str(part.get("type", "")).lower() if isinstance(part, dict) else ""
        found = _flat(part)
        if (
            isinstance(part, dict) and not kind and not part.keys() & _WRAPPERS
        ):  # an object that was asked for
            found = json.dumps(part, ensure_ascii=False)
        if kind in _REASONING_PARTS or (isinstance(part, dict) and part.get("thought") is True):
            reasoning.append(found)
        elif kind == "refusal":
            refusal.append(found)
        elif found:
            text.append(found)
    return _Parts("\n".join(text), "\n".join(reasoning), "\n".join(refusal))


_TEXT_FIELDS = (
    "text", "content", "thinking", "reasoning", "summary", "refusal", "value", "output_text",
    "reasoning_content", "parts",
)  # fmt: skip


_WRAPPERS = frozenset(("text", "content", "value", "parts", "output_text"))


def _flat(value: Any) -> str:
    """The text in a value: a string, parts of one, an object that holds one."""
    if value is None or isinstance(value, bool):
        return ""
    if isinstance(value, list):
        return "\n".join(filter(None, map(_flat, value)))
    if isinstance(value, dict):
        return next((_flat(value[name]) for name in _TEXT_FIELDS if value.get(name)), "")
    return str(value)


def _events(text: str) -> dict[str, Any] | None:
    """A streamed reply put together; None where the text is no stream of events."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not any(line.startswith("data:") for line in lines) or not all(
        re.match(r"(?:data|event|id|retry)?\s*:", line) for line in lines
    ):
        return None
    pieces: dict[str, Any] = {}
    body: dict[str, Any] = {}
    finish, ended, spoke = None, False, False
    for line in lines:
        said = line.removeprefix("data:").strip()
        if not line.startswith("data:"):
            continue
        if said == "[DONE]":
            ended = True
            continue
        try:
            event = json.loads(said)
        except ValueError:
            return {"error": {"message": f"a streamed reply with a broken event: {said[:100]}", "code": 502}}
        if not isinstance(event, dict):
            continue
        if event.get("error"):
            return event
        body["usage"] = event.get("usage") or body.get("usage")
        for choice in event.get("choices") or []:
            spoke = True
            finish = choice.get("finish_reason") or finish
            for name, value in (choice.get("delta") or choice.get("message") or {}).items():
                if isinstance(value, str) and isinstance(pieces.get(name, ""), str):
                    pieces[name] = pieces.get(name, "") + value
                elif isinstance(value, list):
                    pieces[name] = _joined(pieces.get(name), value)
                elif value is not None:
                    pieces[name] = value
    if spoke and not ended and finish is None:
        return {"error": {"message": "a streamed reply that breaks off", "code": 502}}
    return body | {"choices": [{"message": pieces, "finish_reason": finish}] if spoke else []}


def _joined(earlier: Any, more: list[Any]) -> list[Any]:
    """Streamed parts, those of one kind put together: each holds a few characters."""
    parts = [*earlier] if isinstance(earlier, list) else [earlier] if isinstance(earlier, str) else []
    for part in more:
        last = parts[-1] if parts else None
        if isinstance(part, dict) and isinstance(last, dict) and part.get("type") == last.get("type"):
            name = next((name for name in _TEXT_FIELDS if isinstance(part.get(name), str)), None)
            if name is not None and isinstance(last.get(name), str):
                parts[-1] = last | {name: last[name] + part[name]}
                continue
        parts.append(part)
    return parts


def _count(value: Any) -> int | None:
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _status_of(error: Any) -> int:
    """The status that an error in a body with status 200 stands for."""
    for name in ("code", "status", "status_code"):
        code = error.get(name) if isinstance(error, dict) else None
        if str(code).isdigit() and 400 <= int(str(code)) < 600:
            return int(str(code))
    return 400


def _what_text(text: str) -> str:
    folded = " ".join(text.split())
    if not folded:
        return "it answered nothing"
    if folded.startswith("<"):
        title = re.search(r"<title[^>]*>(.*?)</title>", folded, re.IGNORECASE)
        return f"it answered a web page{f' ({title[1].strip()})' if title else ''}: {folded[:200]}"
    return f"it answered no JSON: {folded[:200]}"


def _what_object(body: dict[str, Any]) -> str:
    shown = str(body)[:200]
    use = "Use its OpenAI-compatible address"
    if body.get("type") == "message" and "content" in body:
        return f"it answered in Anthropic's Messages form, another API. {use}. Its body: {shown}"
    if isinstance(body.get("message"), dict) and ("done" in body or "created_at" in body):
        return f"it answered in Ollama's own form. {use}, which ends in /v1. Its body: {shown}"
    if body.get("object") == "response" or "output" in body:
        return f"it answered in the form of the Responses API. {use}. Its body: {shown}"
    if "candidates" in body:
        return f"it answered in Gemini's own form. {use}, which ends in /v1beta/openai. Its body: {shown}"
    return f"it answered JSON without choices: {shown}"
